"""The options of ONNX Runtime's TensorRT provider, from profiles."""

from __future__ import annotations

from pathlib import Path

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines.onnxruntime.tensorrt import ort_tensorrt_options
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span, graph_profiles
from tests.runtime import fake_bundle

MANIFEST = fake_bundle.manifest()
SPECS = {name: component.spec for name, component in MANIFEST.components.items()}
ISSUE = Profile(Span(512, 768, 1024), Span(512, 768, 1024), Span(1, 2, 8))


def of(component: str, *profiles: Profile) -> tuple[GraphProfile, ...]:
    return graph_profiles(component, SPECS[component], Geometry.of(MANIFEST), profiles or (ISSUE,))


def fixed(height: int, width: int) -> Profile:
    return Profile(Span(height, height, height), Span(width, width, width), Span(1, 1, 1))


def test_options_for_onnx_runtime() -> None:
    options = ort_tensorrt_options(SPECS["unet"], of("unet"), precision=Precision.FP16, cache=Path("cache"))
    assert options == {
        "trt_profile_min_shapes": "sample:1x9x64x64,timestep:1,image_embeds:1x6",
        "trt_profile_opt_shapes": "sample:4x9x96x96,timestep:4,image_embeds:4x6",
        "trt_profile_max_shapes": "sample:16x9x128x128,timestep:16,image_embeds:16x6",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "cache",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "cache",
    }


def test_several_profiles_for_onnx_runtime() -> None:
    options = ort_tensorrt_options(SPECS["movq_decoder"], of("movq_decoder", fixed(64, 64), fixed(128, 64)))
    assert options == {
        f"trt_profile_{point}_shapes": "latents:1x4x8x8,latents:1x4x16x8" for point in ("min", "opt", "max")
    }
