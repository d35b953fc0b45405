"""The shapes at which Paddle converts a program for TensorRT; tests/parity/paddle has the conversion."""

from __future__ import annotations

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.engines.paddle.tensorrt import paddle_shape_ranges
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span, graph_profiles
from tests.runtime import fake_bundle

MANIFEST = fake_bundle.manifest()
SPECS = {name: component.spec for name, component in MANIFEST.components.items()}
ISSUE = Profile(Span(512, 768, 1024), Span(512, 768, 1024), Span(1, 2, 8))


def of(component: str, *profiles: Profile) -> tuple[GraphProfile, ...]:
    return graph_profiles(component, SPECS[component], Geometry.of(MANIFEST), profiles or (ISSUE,))


def fixed(height: int, width: int) -> Profile:
    return Profile(Span(height, height, height), Span(width, width, width), Span(1, 1, 1))


def test_runs_for_paddle_name_each_shape_once() -> None:
    runs = paddle_shape_ranges(SPECS["movq_decoder"], of("movq_decoder", ISSUE, fixed(512, 512)))
    assert runs == [{"latents": (1, 4, size, size)} for size in (64, 96, 128)]
