"""Prompts to embeddings and pictures, against diffusers' pipelines: golden arrays, remade by scripts/regen_goldens."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_export.checkpoints.tokenizer_files import read_tokenizer
from kandinsky_runtime.prior.pipeline import PriorPipeline
from kandinsky_runtime.prior.prompts import Mix
from kandinsky_runtime.prior.tokenizer import Tokenizer
from scripts.goldens import prior as golden
from scripts.goldens import tokens as token_golden
from tests.golden import GOLDEN
from tests.parity.conftest import ENGINES
from tests.tolerances import PRIOR_EMBEDS, TRAJECTORY

PRIOR_GOLDEN = GOLDEN / "prior.npz"
EVERY_ENGINE = ("inpaint", "text", "image_strong")
"""The pictures that all engines make; the others test what happens around the graphs, and run on one."""
SWIFT = "onnxruntime"
REMAKE = "remake with scripts/regen_goldens"


def wanted(name: str) -> dict[str, np.ndarray]:
    """The golden arrays of a case."""
    with np.load(PRIOR_GOLDEN) as arrays:
        return {key.removeprefix(f"{name}/"): arrays[key] for key in arrays.files if key.startswith(f"{name}/")}


def asked(case: golden.PriorCase | golden.MixCase) -> dict[str, Any]:
    """A case's prompts as our pipelines take them."""
    negative = case.negative_prompt
    if isinstance(case, golden.MixCase):
        return {"prompt": Mix(case.prompt(), case.weights), "negative_prompt": negative}
    return {
        "prompt": list(case.prompt),
        "negative_prompt": None if negative is None else list(negative),
        "num_images_per_prompt": case.num_images_per_prompt,
    }


def check_embeds(pipeline: PriorPipeline, name: str, case: golden.PriorCase | golden.MixCase) -> None:
    output = pipeline(
        **asked(case),
        num_inference_steps=case.num_inference_steps,
        guidance_scale=case.guidance_scale,
        seed=golden.SEED,
    )
    want = wanted(name)
    for key in ("image_embeds", "negative_image_embeds"):
        np.testing.assert_allclose(
            getattr(output, key), want[key], rtol=0, atol=PRIOR_EMBEDS, err_msg=f"{key}; {REMAKE}"
        )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", golden.PRIOR_CASES)
def test_embeddings(name: str, engine: str, prior_pipeline: Callable[[str], PriorPipeline]) -> None:
    check_embeds(prior_pipeline(engine), f"prior/{name}", golden.PRIOR_CASES[name])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", golden.MIX_CASES)
def test_mixes(name: str, engine: str, prior_pipeline: Callable[[str], PriorPipeline]) -> None:
    check_embeds(prior_pipeline(engine), f"mix/{name}", golden.MIX_CASES[name])


@pytest.mark.parametrize("name", golden.PRIOR_CASES)
def test_tokens(name: str, prior_checkpoint: Path) -> None:
    files = prior_checkpoint / "tokenizer"
    tokens = Tokenizer.from_files(files / "vocab.json", files / "merges.txt", {})
    got, want = tokens.encode(golden.PRIOR_CASES[name].prompt).padded(77), wanted(f"prior/{name}")
    np.testing.assert_array_equal(got.ids, want["input_ids"])
    np.testing.assert_array_equal(got.mask, want["attention_mask"])


@pytest.mark.parametrize("name", token_golden.CONFIGS)
def test_tokens_by_way_of_the_exporter(name: str, tmp_path: Path) -> None:
    """The settings that a bundle gets from a checkpoint's files say as much as the files."""
    folder = tmp_path / "tokenizer"
    token_golden.write_vocabulary(token_golden.read_merges(GOLDEN), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(token_golden.CONFIGS[name]))
    faults: list[str] = []
    files = read_tokenizer(folder, faults)
    assert files is not None, faults
    record = json.loads(gzip.decompress((GOLDEN / "tokens.json.gz").read_bytes()))
    texts = [text for text in record["texts"] if name == "plain" or token_golden.special(text)]
    tokens = Tokenizer.from_files(folder / "vocab.json", folder / "merges.txt", files.config).encode(texts)
    for ids, row in zip(tokens.ids, record["ids"][name]["rows"], strict=True):
        assert ids[: len(row)].tolist() == row


@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, engine) for name in golden.PICTURE_CASES for engine in ENGINES if engine == SWIFT or name in EVERY_ENGINE],
)
def test_prompt_to_picture(name: str, engine: str, prompted_pipeline: Callable[[str, str], Any]) -> None:
    case, want = golden.PICTURE_CASES[name], wanted(f"picture/{name}")
    latents: list[np.ndarray] = []

    def on_step_end(pipeline: Any, _: int, __: float, values: dict[str, np.ndarray]) -> None:
        if not isinstance(pipeline, PriorPipeline) and values["latents"].ndim == 4:
            latents.append(values["latents"].copy())

    options: dict[str, Any] = {
        **asked(case.prior),
        "height": case.height,
        "width": case.width,
        "num_inference_steps": case.num_inference_steps,
        "guidance_scale": case.guidance_scale,
        "prior_num_inference_steps": case.prior.num_inference_steps,
        "prior_guidance_scale": case.prior.guidance_scale,
        "seed": golden.SEED,
        "output_type": "np",
        "callback_on_step_end": on_step_end,
    }
    if case.image:
        options["image"] = golden.picture()
    if case.decoder == golden.INPAINT:
        options |= {"mask_image": golden.mask(), "composite": "none"}
    else:
        options |= {"strength": case.strength}
        if case.image:  # where the reference takes one side for the other
            options |= {"height": case.width, "width": case.height}
    output = prompted_pipeline(case.decoder, engine)(**options)

    for step, (mine, theirs) in enumerate(zip(latents, want["latents"], strict=True), start=1):
        error = np.abs(mine - theirs).max() / np.abs(theirs).max()
        assert error <= TRAJECTORY, f"step {step}: relative {error:.1e}; {REMAKE}"
    rows, columns = options["height"], options["width"]  # the reference gives more where they are no multiples of 64
    assert output.images.shape[1:3] == (rows, columns)
    error = np.abs(output.images - want["image"][:, :rows, :columns]).max()
    assert error <= TRAJECTORY, f"picture: {error:.1e}; {REMAKE}"
