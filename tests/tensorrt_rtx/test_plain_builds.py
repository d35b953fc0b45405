"""NVIDIA's builder takes every graph of a plain bundle; an engine holds the profiles that we check shapes against."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kandinsky_export.tensorrt.check import check_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span, choose
from kandinsky_runtime.errors import TensorError
from tests.tensorrt_rtx.engine_program import programs
from tests.tensorrt_rtx.oracle import (
    DECODER,
    build_graphs,
    cases_of,
    faults_of,
    profiles_of,
    target_of,
    wide_profile,
)

BundleOf = Callable[[str, int, bool], Bundle]
Shape = tuple[int, ...]
# Of the model of two levels.
WIDE, FIXED = wide_profile(2), Profile(Span(256, 256, 256), Span(128, 128, 128), Span(1, 1, 1))


@pytest.fixture(params=[2, 4])
def blocks(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def bundle(bundle_of: BundleOf, blocks: int) -> Bundle:
    return bundle_of("plain", blocks, False)


@pytest.mark.parametrize(("blocks", "precision"), cases_of(2, 4), indirect=["blocks"])
def test_the_decoder(bundle: Bundle, blocks: int, precision: str, tmp_path: Path) -> None:
    target = target_of(blocks, precision)
    assert faults_of(build_graphs(bundle, DECODER, precision, target, [wide_profile(blocks)], tmp_path)) == {}


def test_the_readiness_check_says_so(bundle: Bundle, blocks: int) -> None:
    assert check_bundle(bundle, [wide_profile(blocks)]).ready


def test_an_engine_of_several_profiles(bundle_of: BundleOf, tmp_path: Path) -> None:
    bundle = bundle_of("plain", 2, False)
    name = "movq_encoder"
    built = build_graphs(bundle, [name], "fp16", "sm89", [WIDE, FIXED], tmp_path)
    assert faults_of(built) == {}
    (engine,) = built[name].engines
    profiles = profiles_of(bundle, name, [WIDE, FIXED])
    assert len(programs(engine)) == len(profiles) == 2
    content = engine.read_bytes()
    (tensor,) = bundle.manifest.components[name].spec.inputs
    for profile in profiles:
        for shape in profile.shapes(tensor):
            assert _as_sizes(shape) in content


def test_a_shape_outside_is_refused_before_tensorrt_is_asked(bundle_of: BundleOf) -> None:
    bundle = bundle_of("plain", 2, False)
    spec = bundle.manifest.components["unet"].spec
    (profile,) = profiles_of(bundle, "unet", [WIDE])

    def chosen(sizes: dict[str, int]) -> int:
        shapes = {tensor.name: tensor.shape(sizes) for tensor in spec.inputs}
        return choose("unet", spec, [profile], shapes, "k22 build bundle")

    for sizes in _corners(profile):
        assert chosen(sizes) == 0
        for symbol, span in profile.spans.items():
            step = spec.ranges[symbol].multiple
            for outside in {span.min - step, span.max + step} - {0}:
                with pytest.raises(TensorError, match=f"{symbol} must be {span.min} to {span.max}"):
                    chosen(sizes | {symbol: outside})


def _corners(profile: GraphProfile) -> list[dict[str, int]]:
    """The smallest and largest sizes, in all combinations."""
    ends = itertools.product(*((span.min, span.max) for span in profile.spans.values()))
    return [dict(zip(profile.spans, sizes, strict=True)) for sizes in ends]


def _as_sizes(shape: Shape) -> bytes:
    """A shape as engines hold it."""
    return struct.pack(f"<{len(shape)}q", *shape)
