"""Nonsense in every option: what is accepted is pinned here, and all else is an error of ours.

A value that is not in the table must be refused, and one that is must be accepted: both directions can fail.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime import GenerateOptions, GeneratePipeline, InpaintOptions, InpaintPipeline, Mix, PriorPipeline
from kandinsky_runtime.decoder.declarations import declarations
from kandinsky_runtime.errors import Kandinsky22Error
from tests.runtime.fake_bundle import WIDTH

RNG = np.random.default_rng(22)
PICTURE = RNG.integers(0, 256, (64, 80, 3), np.uint8)
MASK = np.zeros((64, 80), np.uint8)
MASK[16:48, 24:60] = 255
EMBEDS, NEGATIVE = RNG.standard_normal((2, 1, WIDTH), np.float32)
OBSERVERS = ("callback_on_step_end", "cancel", "progress")

NONSENSE = {
    "None": None,
    "True": True,
    "-3": -3,
    "2.5": 2.5,
    "'x'": "x",
    "b'x'": b"x",
    "[]": [],
    "[None]": [None],
    "{}": {},
    "object": object(),
    "array of objects": np.zeros(3, object),
    "array of four dimensions": np.zeros((2, 2, 2, 2)),
    "NaN": np.nan,
}
# What each option accepts of it, and why; an option that is not named accepts none.
COMMON = {
    "callback_on_step_end": {"None"},  # no callback
    "cancel": {"None"},
    "guidance_interval": {"None"},  # all steps
    "guidance_scale": {"2.5"},
    "height": {"None"},  # the picture's own
    "width": {"None"},
    "latents": {"None"},  # drawn
    "metadata": {"True"},
    "negative_prompt": {"None"},
    "prior_guidance_scale": {"None"},
    "prior_num_inference_steps": {"None"},
    "progress": {"True"},
    "prompt": {"None"},  # embeddings are given
    "record_noise": {"None", "'x'"},  # a path
    "scheduler": {"None"},  # the checkpoint's
    "seed": {"None"},  # drawn
}
INPAINT = COMMON | {
    "padding_mask_crop": {"None"},
    "mask_blur": {"None", "2.5"},
    "expand": {"None"},
    "invert_mask": {"True"},
}
# The generator's bundle has the embeddings of an empty picture.
GENERATE = COMMON | {"strength": {"None"}, "negative_image_embeds": {"None"}}
PRIOR = {
    "prompt": {"'x'"},
    "negative_prompt": {"None", "'x'"},
    "num_inference_steps": {"None"},
    "guidance_scale": {"None", "2.5"},
    "seed": {"None"},
    "callback_on_step_end": {"None"},
    "cancel": {"None"},
    "progress": {"True"},
}


def accepted(call: Any, sound: dict[str, Any], name: str) -> set[str]:
    """The values that `call` accepts for an option; each refusal has a text."""
    taken = set()
    for label, value in NONSENSE.items():
        try:
            call(**sound | {name: value})
        except Kandinsky22Error as error:
            assert str(error)
        else:
            taken.add(label)
    return taken


@pytest.mark.parametrize("name", [*declarations(InpaintOptions), *OBSERVERS])
def test_inpainting(pipeline: InpaintPipeline, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # record_noise="x" writes there
    sound = {
        "image": PICTURE,
        "mask_image": MASK,
        "image_embeds": EMBEDS,
        "negative_image_embeds": NEGATIVE,
        "num_inference_steps": 2,
    }
    assert accepted(pipeline, sound, name) == INPAINT.get(name, set())


@pytest.mark.parametrize("name", [*declarations(GenerateOptions), *OBSERVERS])
def test_generating(generator: GeneratePipeline, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sound = {
        "image": PICTURE,
        "strength": 0.5,
        "image_embeds": EMBEDS,
        "negative_image_embeds": NEGATIVE,
        "num_inference_steps": 4,
    }
    assert accepted(generator, sound, name) == GENERATE.get(name, set())


@pytest.mark.parametrize(
    "name",
    ["prompt", "negative_prompt", *sorted(PriorPipeline.__call__.__kwdefaults__)],
)
def test_the_prior(prior: PriorPipeline, name: str) -> None:
    assert accepted(prior, {"prompt": "a hat", "num_inference_steps": 3}, name) == PRIOR.get(name, set())


def test_mixes(prior: PriorPipeline) -> None:
    for label, value in NONSENSE.items():
        for mix in (Mix(value, [1]), Mix(["a"], value), Mix([value], [1])):
            text = label == "'x'" and mix.parts == ["x"]  # a text is a part
            if text:
                prior(mix, num_inference_steps=3)
            else:
                with pytest.raises(Kandinsky22Error):
                    prior(mix, num_inference_steps=3)
