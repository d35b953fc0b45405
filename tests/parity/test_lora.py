"""A decoder with a LoRA merged against diffusers with the LoRA loaded; `scripts/goldens/lora.py` makes the pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kandinsky_export.bundle_export import export_bundle
from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.checkpoints.lora import Lora
from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.files import file_sha256
from scripts.goldens import lora as golden
from scripts.goldens import trajectories
from tests.golden import GOLDEN
from tests.tolerances import TRAJECTORY


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "decoder"
    changes = trajectories.CASES[golden.CASE].changes
    write_sample_checkpoint(folder, seed=trajectories.SEED, form="diffusers", changes=changes)
    return folder


@pytest.mark.parametrize("name", golden.SCALES)
def test_the_picture_is_that_of_diffusers(name: str, decoder: Path, tmp_path: Path) -> None:
    lora = Lora(GOLDEN / "lora" / f"{name}.safetensors", golden.SCALES[name])
    bundle = tmp_path / "bundle"
    export_bundle(replace(Checkpoint.open(decoder), loras=(lora,)), bundle, name="decoder", variants=("onnx-fp32",))
    entry = {"file": lora.path.name, "scale": lora.scale, "bytes": lora.path.stat().st_size}
    assert Bundle.open(bundle).manifest.source["loras"] == [entry | {"sha256": file_sha256(lora.path)}]
    with (
        InpaintPipeline.load(bundle, engine="onnxruntime", precision="fp32") as pipeline,
        np.load(decoder / "image_embeds.npz") as embeds,
        np.load(GOLDEN / "lora" / "images.npz") as arrays,
    ):
        output = pipeline(
            trajectories.picture(),
            trajectories.mask(),
            **{key: embeds[key] for key in embeds.files},
            num_inference_steps=golden.STEPS,
            guidance_scale=trajectories.GUIDANCE_SCALE,
            seed=trajectories.SEED,
            output_type="np",
            composite="none",
        )
        assert np.abs(output.images - arrays[name]).max() <= TRAJECTORY
        assert np.abs(arrays["without"] - arrays[name]).max() > 10 * TRAJECTORY  # it changes the picture
