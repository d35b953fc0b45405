"""Bundles of tiny models of one to four blocks, and NVIDIA's builder; made once when a test asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kandinsky_runtime.bundle.bundle import Bundle
from tests.export.prior_files import MICRO_PRIOR
from tests.tensorrt_rtx import builder

VARIANTS = ("onnx-fp32", "onnx-fp16", "onnx-bf16")


def with_blocks(count: int) -> dict[str, dict[str, Any]]:
    """What a tiny model of `count` levels changes in the configs: the kinds of blocks stay, levels are left out."""
    inner = count - 1
    return {
        "unet": {
            "block_out_channels": [32] * count,
            "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * inner,
            "up_block_types": ["SimpleCrossAttnUpBlock2D"] * inner + ["ResnetUpsampleBlock2D"],
            "attention_head_dim": 16,  # the smallest that TensorRT-RTX fuses
            "norm_num_groups": 8,
        },
        "movq": {
            "block_out_channels": [32] * count,
            "down_block_types": ["DownEncoderBlock2D"] * inner + ["AttnDownEncoderBlock2D"],
            "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * inner,
        },
    }


@pytest.fixture(scope="session")
def nvidia_builder() -> None:
    """Skip a test if NVIDIA's builder cannot be asked here, with the reason."""
    if reason := builder.missing():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def bundle_of(nvidia_builder: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, bool], Bundle]:
    """The bundle of a decoder, "inpaint" or "plain", of a number of blocks, with a prior or without."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint
    from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    made: dict[tuple[str, int, bool], Bundle] = {}

    def bundle(decoder: str, blocks: int, with_prior: bool) -> Bundle:
        key = (decoder, blocks, with_prior)
        if key not in made:
            folder = tmp_path_factory.mktemp("rtx")
            write_sample_checkpoint(folder / "checkpoint", decoder=decoder, changes=with_blocks(blocks))
            prior: Mapping[str, Any] = {}
            if with_prior:
                write_sample_prior(folder / "prior", changes=MICRO_PRIOR)
                prior = {"prior": PriorCheckpoint.open(folder / "prior"), "prior_name": "prior"}
            checkpoint = Checkpoint.open(folder / "checkpoint")
            export_bundle(checkpoint, folder / "bundle", name=decoder, variants=VARIANTS, **prior)
            made[key] = Bundle.open(folder / "bundle")
        return made[key]

    return bundle
