"""NVIDIA's builder takes the graphs of inpainting bundles and of a prior: whole, in one engine, without a warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kandinsky_export.tensorrt.check import check_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from tests.tensorrt_rtx.oracle import (
    DECODER,
    PRIOR,
    PRIOR_CASES,
    attentions,
    build_graphs,
    cases_of,
    faults_of,
    graph_file,
    target_of,
    wide_profile,
)

BundleOf = Callable[[str, int, bool], Bundle]
WITH_PRIOR = 1


@pytest.fixture(params=[1, 3])
def blocks(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def bundle(bundle_of: BundleOf, blocks: int) -> Bundle:
    return bundle_of("inpaint", blocks, blocks == WITH_PRIOR)


@pytest.mark.parametrize(("blocks", "precision"), cases_of(1, 3), indirect=["blocks"])
def test_the_decoder(bundle: Bundle, blocks: int, precision: str, tmp_path: Path) -> None:
    target = target_of(blocks, precision)
    built = build_graphs(bundle, DECODER, precision, target, [wide_profile(blocks)], tmp_path)
    assert faults_of(built) == {}
    found, fused = attentions(graph_file(bundle, "unet", precision), built["unet"])
    assert found
    assert fused == (0 if precision == "fp32" else found)


@pytest.mark.parametrize(("precision", "target"), PRIOR_CASES)
def test_the_prior(bundle_of: BundleOf, precision: str, target: str, tmp_path: Path) -> None:
    bundle = bundle_of("inpaint", WITH_PRIOR, True)
    assert faults_of(build_graphs(bundle, PRIOR, precision, target, [wide_profile(WITH_PRIOR)], tmp_path)) == {}


def test_the_readiness_check_says_so(bundle: Bundle, blocks: int) -> None:
    assert check_bundle(bundle, [wide_profile(blocks)]).ready
