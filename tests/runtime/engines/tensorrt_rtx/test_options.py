"""The options of TensorRT-RTX's provider, from profiles and from what the user asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span, graph_profiles
from kandinsky_runtime.engines.tensorrt_rtx.options import build_options, check_weight_memory, run_options
from kandinsky_runtime.errors import UsageError
from tests.runtime import fake_bundle

MANIFEST = fake_bundle.manifest()
WIDE = Profile(Span(512, 768, 1024), Span(512, 768, 1024), Span(1, 2, 8))
FIXED = Profile(Span(64, 64, 64), Span(64, 64, 64), Span(1, 1, 1))
SPEC = MANIFEST.components["unet"].spec
SHAPES = {
    "nv_profile_min_shapes": "sample:1x9x64x64,timestep:1,image_embeds:1x6",
    "nv_profile_opt_shapes": "sample:4x9x96x96,timestep:4,image_embeds:4x6",
    "nv_profile_max_shapes": "sample:16x9x128x128,timestep:16,image_embeds:16x6",
}


def of(*profiles: Profile) -> tuple[GraphProfile, ...]:
    return graph_profiles("unet", SPEC, Geometry.of(MANIFEST), profiles)


def test_a_build() -> None:
    assert build_options(SPEC, of(WIDE)) == SHAPES


def test_a_build_with_limits() -> None:
    options = build_options(SPEC, of(WIDE), "2G", 10**9)
    assert options == SHAPES | {"nv_weight_streaming_budget": "2G", "nv_max_workspace_size": "1000000000"}


def test_several_profiles() -> None:
    """A fixed size is two profiles of the UNet, with guidance and without."""
    options = build_options(SPEC, of(FIXED))
    assert options["nv_profile_opt_shapes"] == (
        "sample:2x9x8x8,timestep:2,image_embeds:2x6,sample:1x9x8x8,timestep:1,image_embeds:1x6"
    )
    assert options["nv_multi_profile_enable"] == "1"


def test_a_run() -> None:
    cache = Path("cache")
    assert run_options(of(WIDE), cache) == {"nv_runtime_cache_path": "cache", "enable_cuda_graph": "1"}
    more = run_options(of(FIXED), cache, "auto")
    assert (more["nv_multi_profile_enable"], more["nv_weight_streaming_budget"]) == ("1", "-1")


@pytest.mark.parametrize("text", ["512M", "2G", "900K", "0%", "50%", "100%", "auto"])
def test_weight_memory(text: str) -> None:
    assert check_weight_memory(text) == text


@pytest.mark.parametrize("text", ["", "2", "0G", "2GB", "-1", "101%", "2g", "2 G", "many"])
def test_other_weight_memory(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size such as 512M or 2G, a share such as 50%, or auto"):
        check_weight_memory(text)
