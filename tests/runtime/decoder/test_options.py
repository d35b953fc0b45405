"""The options of a run: declared once, checked once, and the same for Python and the command line."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime import GenerateOptions, GeneratePipeline, InpaintOptions, InpaintPipeline
from kandinsky_runtime.cli.options import add_sampling_options
from kandinsky_runtime.decoder.declarations import declarations, option
from kandinsky_runtime.decoder.options import DecoderOptions
from kandinsky_runtime.errors import InputError, UsageError

TASKS: dict[type[DecoderOptions], dict[str, Any]] = {
    InpaintOptions: {"prompt": "a hat", "image": "cat.png", "mask_image": "mask.png"},
    GenerateOptions: {"prompt": "a cat"},
}
PIPELINES = {InpaintOptions: InpaintPipeline, GenerateOptions: GeneratePipeline}


@pytest.mark.parametrize("task", TASKS)
def test_every_option_is_declared_and_documented(task: type[DecoderOptions]) -> None:
    assert task.__doc__
    for name, (item, declared) in declarations(task).items():
        assert declared.text
        assert f"{name}: {declared.text}" in task.__doc__
        assert item.kw_only
        assert item.default is not dataclasses.MISSING


@pytest.mark.parametrize("task", TASKS)
def test_options_are_frozen_and_refuse_unknown_names(task: type[DecoderOptions]) -> None:
    options = task(**TASKS[task])
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="nonsense"):
        task(**TASKS[task], nonsense=1)


@pytest.mark.parametrize("task", TASKS)
def test_the_call_shows_every_option(task: type[DecoderOptions]) -> None:
    parameters = inspect.signature(PIPELINES[task].__call__).parameters
    defaults = {name: item.default for name, (item, _) in declarations(task).items()}
    assert {name: parameters[name].default for name in defaults} == defaults
    assert {"callback_on_step_end", "cancel", "progress"} == parameters.keys() - defaults.keys() - {"self", "inputs"}


@pytest.mark.parametrize("task", TASKS)
def test_spellings_are_unique(task: type[DecoderOptions]) -> None:
    spellings = [declared.spelling for _, declared in declarations(task).values() if declared.spelling]
    assert len(set(spellings)) == len(spellings)
    assert all(spelling.startswith("--") for spelling in spellings)


def test_a_new_option_needs_its_declaration_only() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
    class Extended(InpaintOptions):
        eagerness: float = option(0.5, "eagerness of the cat", spelling="--eagerness", metavar="E", parse=float)

    parser = argparse.ArgumentParser()
    add_sampling_options(parser.add_argument_group("sampling"), Extended)
    assert parser.parse_args([]).eagerness == 0.5
    args = parser.parse_args(["--eagerness", "0.75"])
    assert args.eagerness == 0.75
    assert "eagerness of the cat (default: 0.5)" in parser.format_help()
    assert Extended(**TASKS[InpaintOptions], eagerness=0.75).eagerness == 0.75


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"num_inference_steps": np.int64(7)}, 7),
        ({"guidance_scale": np.float32(2.5)}, 2.5),
        ({"guidance_scale": 3}, 3.0),
        ({"invert_mask": np.bool_(True)}, True),
        ({"height": np.uint16(96)}, 96),
    ],
)
def test_numbers_of_numpy_become_pythons(given: dict[str, Any], kept: Any) -> None:
    value = getattr(InpaintOptions(**TASKS[InpaintOptions], **given), next(iter(given)))
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("task", "changes", "error", "text"),
    [
        (InpaintOptions, {"image": None}, UsageError, "image must be given"),
        (InpaintOptions, {"image": None, "mask_image": None}, UsageError, "image and mask_image must be given"),
        (InpaintOptions, {"prompt": None}, InputError, "there is no prompt and no image_embeds; give one of them"),
        (InpaintOptions, {"composite": "glue"}, UsageError, "composite is 'glue'; choose from paste, blend, none"),
        (InpaintOptions, {"output_type": "pt"}, UsageError, "output_type is 'pt'; choose from pil, np, latent"),
        (InpaintOptions, {"inpaint_area": "face"}, UsageError, "inpaint_area is 'face'; choose from picture, mask"),
        (InpaintOptions, {"composite": "none", "mask_blur": 3}, UsageError, "mask_blur softens a blend"),
        (
            GenerateOptions,
            {"guidance_scale": 1e23},
            InputError,
            "guidance_scale is 1e+23; expected a number of at least",
        ),
        (
            GenerateOptions,
            {"prior_guidance_scale": 1001},
            InputError,
            "prior_guidance_scale is 1001; expected a number",
        ),
        (InpaintOptions, {"mask_blur": -1}, InputError, "mask_blur is -1; expected a number of at least 0"),
        (InpaintOptions, {"expand": (0, 0, 0, 0)}, UsageError, "expand is (0, 0, 0, 0); expected four whole numbers"),
        (InpaintOptions, {"expand": (0, -1, 0, 9)}, UsageError, "expand is -1; expected a whole number from 0"),
        (InpaintOptions, {"expand": (0, 9, 0)}, UsageError, "expand is (0, 9, 0); expected four whole numbers"),
        (InpaintOptions, {"padding_mask_crop": 8}, UsageError, "padding_mask_crop is for inpaint_area 'mask' only"),
        (
            InpaintOptions,
            {"inpaint_area": "mask", "padding_mask_crop": -1},
            UsageError,
            "padding_mask_crop is -1; expected a whole number from 0 to 89478485",
        ),
        (
            InpaintOptions,
            {"inpaint_area": "mask", "height": 64},
            UsageError,
            "height is 64 and width is None; with inpaint_area 'mask' give both, the size to work at, or none",
        ),
        (InpaintOptions, {"invert_mask": 1}, UsageError, "invert_mask is 1; expected True or False"),
        (InpaintOptions, {"record_noise": 3}, InputError, "record_noise is 3; expected the path of a file"),
        (InpaintOptions, {"record_noise": "/nowhere/a.npz"}, InputError, "record_noise /nowhere/a.npz: the folder"),
        (GenerateOptions, {"strength": 0.5}, InputError, "strength goes with a picture to change"),
        (GenerateOptions, {"image": "cat.png", "strength": 0}, InputError, "strength is 0; expected a number above 0"),
        (GenerateOptions, {"num_inference_steps": None}, UsageError, "num_inference_steps is None; expected a whole"),
        (GenerateOptions, {"image_embeds": [1.0]}, UsageError, "a prompt takes the place of image_embeds"),
        (
            GenerateOptions,
            {"prompt": None, "image_embeds": [1.0], "negative_prompt": "dogs"},
            UsageError,
            "negative_prompt goes with a prompt; give negative_image_embeds with image_embeds",
        ),
        (
            GenerateOptions,
            {"prompt": None, "image_embeds": [1.0], "prior_guidance_scale": 2.0},
            UsageError,
            "prior_num_inference_steps and prior_guidance_scale go with a prompt; leave them out",
        ),
    ],
)
def test_what_is_refused(
    task: type[DecoderOptions], changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        task(**TASKS[task] | changes)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_whole_number_beyond_any_float(value: int) -> None:
    with pytest.raises(InputError, match="guidance_scale is -?1000000"):
        InpaintOptions(**TASKS[InpaintOptions], guidance_scale=value)
