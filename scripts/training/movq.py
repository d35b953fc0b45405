"""Stage 2: MoVQ, as an autoencoder of drawings with latents of about unit deviation.

The pipelines decode with `force_not_quantize`, so the codebook never takes part; it is filled at the export. Noise on
the latents keeps the decoder smooth. Training is on crops, the second half of it on whole pictures: group norms see
other statistics there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import MethodType

import numpy as np
import torch
from diffusers import VQModel
from diffusers.models.attention_processor import SpatialNorm

from scripts.training.command import run_stage
from scripts.training.compiling import CheckedCompile
from scripts.training.loop import Schedule, Step, Training
from scripts.training.pictures import HELD_OUT, read_shard, shard_numbers
from scripts.training.settings import PICTURE, add_minutes, add_start, add_threads, count, parser
from scripts.training.starting import DECODER, start_from

STAGE = 2
NOISE = 0.03
# From this share of the steps: crops of so many pixels a side, so many in a batch.
_CROPS = ((0.0, 64, 16), (0.50, PICTURE, 2))

CONFIG = {
    "act_fn": "silu",
    "block_out_channels": (32, 32, 64, 96),
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "norm_type": "spatial",
    "num_vq_embeddings": 256,
    "out_channels": 3,
    "sample_size": PICTURE,
    "scaling_factor": 0.18215,
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
    "vq_embed_dim": 4,
}


def to_model(pixels: np.ndarray) -> torch.Tensor:
    """Turn pictures (n, h, w, 3) uint8 into (n, 3, h, w) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def spatial_norm(self: SpatialNorm, features: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Compute diffusers' `SpatialNorm` with its 1 × 1 convolutions before the nearest-neighbour enlargement.

    The values are the same. Less is computed, and PyTorch compiles it to the right gradient.
    """
    n, channels, height, width = features.shape
    rows, columns = latents.shape[2:]
    normed = self.norm_layer(features).view(n, channels, rows, height // rows, columns, width // columns)
    scale, shift = (conv(latents)[:, :, :, None, :, None] for conv in (self.conv_y, self.conv_b))
    return (normed * scale + shift).view(n, channels, height, width)


def crops_of(shards: list[np.ndarray], rng: np.random.Generator, side: int, count: int) -> torch.Tensor:
    """Cut crops out of random pictures; of two candidates for each, the one with more contrast is taken."""
    crops = np.empty((count, side, side, 3), np.uint8)
    for index in range(count):
        shard = shards[rng.integers(len(shards))]
        picture = shard[rng.integers(shard.shape[0]), rng.integers(2)]
        places = rng.integers(0, PICTURE - side + 1, size=(2, 2))
        candidates = [picture[y : y + side, x : x + side] for y, x in places]
        crops[index] = candidates[0] if side == PICTURE else max(candidates, key=lambda c: float(c[::2, ::2].std()))
        if rng.integers(2):
            crops[index] = crops[index, :, ::-1]
    return to_model(crops)


def reconstruction_losses(output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the errors: squared, of the colour without its grey level, absolute, and of the edges.

    Without the term of the colour, a small pink thing comes back white.
    """
    error = output.float() - target
    edges = [error.diff(dim=dim).abs().mean() for dim in (2, 3)]
    return {
        "squared": 5 * error.square().mean(),
        "colour": 5 * (error - error.mean(dim=1, keepdim=True)).square().mean(),
        "absolute": 0.5 * error.abs().mean(),
        "edges": 0.5 * (edges[0] + edges[1]),
    }


def latents_penalty(latents: torch.Tensor) -> torch.Tensor:
    """Return a small penalty on channels whose mean is not 0 or whose variance is not 1."""
    variance, mean = torch.var_mean(latents.float(), dim=(0, 2, 3))
    return 0.01 * (mean.square() + torch.log(variance + 1e-6).square()).mean()


def psnr(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the PSNR of each pair of pictures (n, 3, h, w) in [-1, 1], in dB."""
    error = ((first.clamp(-1, 1) - second) / 2).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error)


@torch.no_grad()
def reconstruct(model: VQModel, pictures: torch.Tensor) -> torch.Tensor:
    """Encode and decode pictures (n, 3, h, w), two at a time."""
    parts = [model.decode(model.encode(part).latents, force_not_quantize=True).sample for part in pictures.split(2)]
    return torch.cat(parts)


def held_out(work: Path, count: int) -> torch.Tensor:
    """Return pictures that no stage is trained on."""
    return to_model(read_shard(work / "pictures", HELD_OUT).pictures[:count, 0])


def main() -> None:
    options = parser(__doc__)
    add_minutes(options)
    add_start(options)
    add_threads(options)
    options.add_argument("--steps", type=count, default=6_000, help="steps of 16 crops")
    options.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    options.add_argument(
        "--decoder-only", action="store_true", help="leave the encoder as it is: latents and a UNet on them stay valid"
    )
    options.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="compile the model")
    options.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="products in bfloat16")
    args = options.parse_args()
    torch.manual_seed(STAGE)
    model = VQModel(**CONFIG).to(memory_format=torch.channels_last)
    start_from(model, args.start, args.work / "movq", f"{DECODER}/movq")
    if args.decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, SpatialNorm):
            module.forward = MethodType(spatial_norm, module)
    training = Training(
        args.work / "movq", STAGE, model, Schedule(args.steps, args.rate), threads=args.threads, minutes=args.minutes
    )
    if args.decoder_only:
        # Latents are made with the averaged encoder, so that one stays. Averaged with itself, it does not change.
        for own, averaged in (
            (model.encoder, training.average.encoder),
            (model.quant_conv, training.average.quant_conv),
        ):
            own.load_state_dict(averaged.state_dict())
    shards = [read_shard(args.work / "pictures", n).pictures for n in shard_numbers(args.work / "pictures")]
    pictures = held_out(args.work, 24)

    def autoencode(crops: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = model.encode(crops).latents
        return model.decode(latents + noise, force_not_quantize=True).sample, latents

    step_of = CheckedCompile(autoencode, model, enabled=args.compile)

    def losses_of(step: Step) -> dict[str, torch.Tensor]:
        side, count = next((side, count) for start, side, count in reversed(_CROPS) if step.progress >= start)
        crops = crops_of(shards, step.rng, side, count)
        noise = NOISE * torch.randn((count, 4, side // 8, side // 8), generator=step.noise)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            output, latents = step_of(crops.to(memory_format=torch.channels_last), noise)
        return {**reconstruction_losses(output, crops), "latents": latents_penalty(latents)}

    def evaluate() -> dict[str, float]:
        values = psnr(reconstruct(training.average, pictures), pictures)
        return {"psnr": float(values.mean()), "psnr_lowest": float(values.min())}

    training.run(losses_of, evaluate, evaluate_every=300)


if __name__ == "__main__":
    run_stage(main)
