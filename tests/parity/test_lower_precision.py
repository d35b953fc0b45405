"""fp16 and bf16 graphs on the CPU engines, compared with float32: each component, and a whole trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import pytest

from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.random_weights.sample_picture import sample_picture
from kandinsky_export.random_weights.seeded import seeded_embeds
from kandinsky_export.verification.decibels import decibels
from kandinsky_export.verification.verify import verify_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines import registry
from kandinsky_runtime.errors import EngineUnavailable, UsageError
from tests.runtime import fake_bundle

Array = npt.NDArray[np.float32]
COMPONENTS = ("unet", "movq_encoder", "movq_decoder")
STEPS = 20
# dB of a component's output above its error: 11 digits, or 8, after a few hundred roundings. A graph with a wrong type,
# cast or weight lies below 20.
LEAST_DB = {"fp16": 45.0, "bf16": 30.0}
# What the project promises of the UNet in fp16 over a whole trajectory.
LEAST_PSNR = 40.0


def feeds(component: str) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    if component == "unet":
        return {
            "sample": rng.standard_normal((2, 9, 16, 24), np.float32),
            "timestep": np.float32([951, 21]),
            "image_embeds": rng.standard_normal((2, 32), np.float32),
        }
    if component == "movq_encoder":
        return {"image": rng.uniform(-1, 1, (1, 3, 64, 96)).astype(np.float32)}
    return {"latents": rng.standard_normal((1, 4, 8, 12), np.float32)}


def load(bundle: Path, precision: str) -> InpaintPipeline:
    return InpaintPipeline.load(bundle, engine="onnxruntime", precision=precision)


@pytest.fixture(scope="module")
def exact(tiny_lower_bundle: Path) -> dict[str, Array]:
    """Every component's output in float32."""
    with load(tiny_lower_bundle, "fp32") as pipeline:
        return {name: next(iter(pipeline.engine(name).run(feeds(name)).values())) for name in COMPONENTS}


@pytest.mark.parametrize("component", COMPONENTS)
def test_fp16_in_onnx_runtime(component: str, exact: dict[str, Array], tiny_lower_bundle: Path) -> None:
    with load(tiny_lower_bundle, "fp16") as pipeline:
        assert pipeline.selection.variant == "onnx-fp16"
        (output,) = pipeline.engine(component).run(feeds(component)).values()
    assert decibels(exact[component], output) >= LEAST_DB["fp16"]
    assert np.any(output != exact[component])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_openvino_reads_the_typed_graphs(
    component: str, precision: str, exact: dict[str, Array], tiny_lower_bundle: Path
) -> None:
    """Without 16-bit arithmetic in the processor, it computes in float32 with the rounded weights."""
    file = Bundle.open(tiny_lower_bundle).component(component).variants[f"onnx-{precision}"].files["graph"]
    compiled = openvino.Core().compile_model(str(tiny_lower_bundle / file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (output,) = compiled(feeds(component)).values()
    assert output.dtype == np.float32
    assert decibels(exact[component], output) >= LEAST_DB[precision]


def picture(bundle: Path, precision: str) -> Array:
    image, mask = sample_picture(width=128, height=64)
    with load(bundle, precision) as pipeline:
        output = pipeline(
            image,
            mask,
            **seeded_embeds(0, 32),
            num_inference_steps=STEPS,
            guidance_scale=4.0,
            seed=0,
            output_type="np",
            composite="none",
        )
    return np.asarray(output.images)


def test_a_whole_trajectory_in_fp16(tiny_lower_bundle: Path) -> None:
    want = picture(tiny_lower_bundle, "fp32")
    assert want.std() > 0.05
    assert decibels(want, picture(tiny_lower_bundle, "fp16"), peak=1) >= LEAST_PSNR


def test_verify_reports_fp16(tiny_lower_bundle: Path, tiny_checkpoint: Path) -> None:
    report = verify_bundle(
        Bundle.open(tiny_lower_bundle), Checkpoint.open(tiny_checkpoint), engine_names=["onnxruntime:fp16"], steps=2
    )
    (figures,) = report.engines.values()
    assert (figures.precision, figures.variant) == ("fp16", "onnx-fp16")
    assert all(0 < error < 0.1 for error in figures.components.values())
    assert figures.trajectory is not None
    assert figures.trajectory.psnr is not None
    assert figures.trajectory.psnr > LEAST_PSNR
    assert "onnxruntime:fp16" in Bundle.open(tiny_lower_bundle).manifest.parity["engines"]


@pytest.mark.parametrize(
    ("variants", "engine", "precision", "chosen"),
    [
        ({"onnx-fp32": "fp32", "onnx-fp16": "fp16"}, "openvino", "fp16", "onnx-fp16"),
        ({"onnx-fp32": "fp32"}, "openvino", "fp16", "onnx-fp32"),
        ({"onnx-fp32": "fp32", "onnx-fp16": "fp16"}, "openvino", "bf16", "onnx-fp32"),
        ({"onnx-fp16": "fp16"}, "openvino", "bf16", "onnx-fp16"),
        ({"onnx-fp32": "fp32", "onnx-fp16": "fp16"}, "onnxruntime", "fp16", "onnx-fp16"),
        ({"onnx-fp32": "fp32", "onnx-fp16": "fp16"}, "onnxruntime", None, "onnx-fp32"),
    ],
)
def test_which_variant_an_engine_takes(
    variants: dict[str, str], engine: str, precision: str | None, chosen: str
) -> None:
    assert registry.select(fake_bundle.manifest(variants=variants), engine, precision).variant == chosen


@pytest.mark.parametrize(
    ("engine", "precision", "error", "message"),
    [
        ("openvino", "fp32", EngineUnavailable, "engine openvino needs variant onnx-fp32; the bundle has onnx-fp16:"),
        ("onnxruntime", None, EngineUnavailable, "with --variants, or ask for precision fp16$"),
        ("onnxruntime", "bf16", UsageError, "engine onnxruntime runs fp32, fp16; got precision 'bf16'"),
    ],
)
def test_what_a_bundle_of_fp16_alone_cannot_do(
    engine: str, precision: str | None, error: type[Exception], message: str
) -> None:
    options: dict[str, Any] = {"name": engine, "precision": precision}
    with pytest.raises(error, match=message):
        registry.select(fake_bundle.manifest(variants={"onnx-fp16": "fp16"}), **options)
