"""Golden trajectories of diffusers' own inpainting pipeline on seeded checkpoints, and its published test fixture.

    python scripts/goldens/trajectories.py checkpoints FOLDER            with the exporter's environment
    python scripts/goldens/trajectories.py run FOLDER tests/golden       with torch and diffusers

The second command writes trajectories.npz and the fixture's checkpoint. The tests import the cases and the picture from
here, so that both sides run the same.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

STEPS = 10
GUIDANCE_SCALE = 4.0
SEED = 7
WIDTH, HEIGHT = 128, 64


@dataclass(frozen=True)
class Case:
    """A variant of the model, given by its differences from the tiny configs."""

    unet: Mapping[str, Any] = field(default_factory=dict)
    movq: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    @property
    def changes(self) -> dict[str, Mapping[str, Any]]:
        """The argument `changes` of `write_sample_checkpoint`."""
        return {"unet": self.unet, "movq": self.movq, "scheduler": self.scheduler}


def _blocks(channels: list[int]) -> dict[str, Any]:
    count = len(channels)
    return {
        "block_out_channels": channels,
        "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * (count - 1)],
        "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * (count - 1), "ResnetUpsampleBlock2D"],
    }


def _movq_blocks(channels: list[int]) -> dict[str, Any]:
    count = len(channels)
    return {
        "block_out_channels": channels,
        "down_block_types": [*["DownEncoderBlock2D"] * (count - 1), "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * (count - 1)],
    }


CASES = {
    "four_blocks": Case(),
    "one_block": Case(
        unet=_blocks([32]) | {"attention_head_dim": 8, "norm_num_groups": 8},
        movq=_movq_blocks([32, 32, 32, 64]) | {"norm_num_groups": 8},
    ),
    "two_blocks": Case(
        unet=_blocks([32, 64]) | {"attention_head_dim": 32, "norm_num_groups": 32, "layers_per_block": 3},
        movq=_movq_blocks([32, 32, 64]) | {"norm_type": "group", "norm_num_groups": 4},
    ),
    "three_blocks": Case(
        unet=_blocks([48, 48, 96]) | {"attention_head_dim": 24, "norm_num_groups": 12, "layers_per_block": 2},
        movq=_movq_blocks([32, 64, 96]) | {"layers_per_block": 3},
    ),
    "learned_range": Case(scheduler={"variance_type": "learned_range"}),
}


def picture() -> Image.Image:
    """Smooth colours, WIDTH x HEIGHT."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = (255 * x / WIDTH, 255 * y / HEIGHT, 127.5 + 127.5 * np.sin(x / 9) * np.cos(y / 7))
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def mask() -> Image.Image:
    """A white rectangle away from the middle."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[HEIGHT // 4 : HEIGHT // 4 * 3, WIDTH // 8 : WIDTH // 2] = 255
    return Image.fromarray(values)


def fixture_floats(shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    """Numbers in [0, 1) from Python's generator, in the order of the array."""
    generator = random.Random(seed)
    count = int(np.prod(shape))
    return np.array([generator.random() for _ in range(count)], np.float32).reshape(shape)


def fixture_inputs() -> dict[str, Any]:
    """The inputs of the published inpainting test of diffusers (tests/pipelines/kandinsky2_2, revision 0f6bec9)."""
    pixels = fixture_floats((1, 3, 64, 64), 0).transpose(0, 2, 3, 1)[0]
    repaint = np.zeros((64, 64), np.float32)
    repaint[:32, :32] = 1
    return {
        "image": Image.fromarray(pixels.astype(np.uint8)).resize((256, 256)),
        "mask_image": repaint,
        "image_embeds": fixture_floats((1, 32), 0),
        "negative_image_embeds": fixture_floats((1, 32), 1),
        "height": 64,
        "width": 64,
        "num_inference_steps": 2,
        "guidance_scale": 4.0,
    }


FIXTURE_SLICE = np.array(
    [0.50775903, 0.49527195, 0.48824543, 0.50192237, 0.48644906, 0.49373814, 0.4780598, 0.47234827, 0.48327848]
)
"""The expected image[0, -3:, -3:, -1] in that test, within 1e-2."""


def write_checkpoints(folder: Path) -> None:
    """Write every case's checkpoint in diffusers' form."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    for name, case in CASES.items():
        write_sample_checkpoint(folder / name, seed=SEED, form="diffusers", changes=case.changes)


def run_cases(checkpoints: Path, golden: Path) -> None:
    """Run diffusers' pipeline on every case."""
    import diffusers
    import torch

    arrays: dict[str, npt.NDArray[Any]] = {"versions": np.array([diffusers.__version__, torch.__version__])}
    for name in CASES:
        folder = checkpoints / name
        pipeline = diffusers.KandinskyV22InpaintPipeline(
            unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
            movq=diffusers.VQModel.from_pretrained(folder / "movq"),
            scheduler=diffusers.DDPMScheduler.from_pretrained(folder / "scheduler"),
        )
        latents: list[npt.NDArray[Any]] = []

        def on_step_end(_: Any, __: int, ___: Any, values: dict[str, Any], into: list[Any] = latents) -> dict[str, Any]:
            into.append(values["latents"].numpy().copy())
            return {}

        embeds = np.load(folder / "image_embeds.npz")
        output = pipeline(
            **{key: torch.from_numpy(embeds[key]) for key in embeds.files},
            image=picture(),
            mask_image=mask(),
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=torch.Generator("cpu").manual_seed(SEED),
            output_type="np",
            callback_on_step_end=on_step_end,
        )
        arrays[f"{name}/latents"] = np.stack(latents)
        arrays[f"{name}/image"] = output.images.astype(np.float32)
    np.savez_compressed(golden / "trajectories.npz", **arrays)


def write_fixture(folder: Path) -> None:
    """Write the published test's models as a checkpoint; torch draws their weights with seed 0."""
    import diffusers
    import torch

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        in_channels=9,
        out_channels=8,
        **{key: tuple(value) for key, value in _blocks([32, 64]).items()},
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        layers_per_block=1,
        addition_embed_type="image",
        encoder_hid_dim=32,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=32,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    )
    torch.manual_seed(0)
    movq = diffusers.VQModel(
        **_movq_blocks([32, 64]),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    pipeline = diffusers.KandinskyV22InpaintPipeline(unet=unet, movq=movq, scheduler=scheduler)
    inputs = fixture_inputs()
    for key in ("image_embeds", "negative_image_embeds"):
        inputs[key] = torch.from_numpy(inputs[key])
    output = pipeline(**inputs, generator=torch.Generator("cpu").manual_seed(0), output_type="np").images
    error = np.abs(output[0, -3:, -3:, -1].ravel() - FIXTURE_SLICE).max()
    if error > 1e-2:
        raise SystemExit(
            f"the rebuilt fixture differs by {error:.3f} from the published slice; expected at most 0.01: diffusers'"
            " models have changed"
        )
    pipeline.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("checkpoints", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("golden", type=Path, nargs="?")
    args = parser.parse_args()
    if args.what == "checkpoints":
        write_checkpoints(args.folder)
    else:
        run_cases(args.folder, args.golden)
        write_fixture(args.golden / "diffusers_fixture")


if __name__ == "__main__":
    main()
