"""Stage 5: the inpainting UNet on latents, conditioned on CLIP's embedding of the whole picture.

The input is as in the inpainting pipeline: the noisy latents, the latents of the picture before times the kept cells,
and the kept cells. Pairs of pictures differ in one thing, so the picture before is often another than the target: a cat
without the hat that is asked for. Then the embedding may be that of any other picture with the same thing, since a
prior cannot know the cat either.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from scripts.training.clip import image_embeds, image_source, open_clip, reduced_pictures
from scripts.training.command import StageError, run_stage
from scripts.training.compiling import CheckedCompile
from scripts.training.latents import encoder_source, latents_path, read_latents
from scripts.training.loop import Schedule, Step, Training
from scripts.training.masks import kept_cells, mask_around, random_mask
from scripts.training.pictures import HELD_OUT, Shard, read_shard, shard_numbers
from scripts.training.settings import (
    CLIP_PICTURE,
    EMBEDDING,
    LATENT,
    add_minutes,
    add_start,
    add_threads,
    count,
    parser,
)
from scripts.training.sources import is_from, make_from
from scripts.training.starting import DECODER, start_from

STAGE = 5
DROPPED = 0.1  # the share of steps with the embedding of an all-zero picture, for guidance
AROUND = 0.6  # the share of masks that are drawn around the thing that differs
BORROWED = 0.5  # of those, the share with the embedding of another picture that has the same thing
OUTSIDE = 0.1  # the weight of the kept cells, which the pipeline overwrites
# Of the masks around a thing, the share with each. Small things in the sky need more than their share of the drawings
# (`pictures`), or their colour is learned last.
SHOWN = {"hat": 0.3, "glasses": 0.14, "bow tie": 0.12, "balloon": 0.16, "flower": 0.14, "moon": 0.14}
MOST_WEIGHT = 8.0  # of a timestep's error, see `weights_of_steps`

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "thresholding": False,
}

CONFIG = {
    "act_fn": "silu",
    "addition_embed_type": "image",
    "addition_embed_type_num_heads": 64,
    "attention_head_dim": 32,
    "block_out_channels": (32, 64, 96, 128),
    "cross_attention_dim": 48,
    "down_block_types": ("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
    "encoder_hid_dim": EMBEDDING,
    "encoder_hid_dim_type": "image_proj",
    "in_channels": 9,
    "layers_per_block": 3,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "norm_num_groups": 8,
    "out_channels": 8,
    "resnet_time_scale_shift": "scale_shift",
    "sample_size": LATENT,
    "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
}


@dataclass(frozen=True)
class Example:
    """One training example: indices of pictures in the library, and the kept cells (latent, latent) float32."""

    target: int
    before: int
    embedded: int
    kept: np.ndarray


class Examples:
    """Draws training examples by lot from pairs of pictures."""

    def __init__(self, shards: list[Shard]) -> None:
        self._notes = [note for shard in shards for pair in shard.notes for note in pair]
        self._pairs: dict[str, list[int]] = {name: [] for name in SHOWN}
        for pair, name in enumerate(name for shard in shards for name in shard.changed):
            self._pairs[name].append(pair)
        # Pictures by what is in a thing's place: ("hat", "red top hat") or ("hat", None).
        self._alike: dict[tuple[str, str | None], list[int]] = {}
        for index, note in enumerate(self._notes):
            for name in SHOWN:
                self._alike.setdefault((name, _exactly(note["facts"], name)), []).append(index)

    def __len__(self) -> int:
        return len(self._notes)

    def draw(self, rng: np.random.Generator) -> Example:
        """Draw an example."""
        if rng.uniform() >= AROUND:
            target = int(rng.integers(len(self._notes)))
            return Example(target, target, target, kept_cells(random_mask(rng)))
        name = str(rng.choice(list(SHOWN), p=list(SHOWN.values())))
        target = 2 * self._pairs[name][rng.integers(len(self._pairs[name]))] + int(rng.integers(2))
        other = target ^ 1
        boxes = [self._notes[i]["boxes"][name] for i in (target, other) if name in self._notes[i]["boxes"]]
        before = other if rng.uniform() < 0.7 else target
        embedded = target
        if rng.uniform() < BORROWED:
            alike = self._alike[name, _exactly(self._notes[target]["facts"], name)]
            embedded = alike[rng.integers(len(alike))]
        return Example(target, before, embedded, kept_cells(mask_around(rng, boxes)))


def _exactly(facts: list[str], name: str) -> str | None:
    """Return the most exact fact about a thing, such as "red top hat", or None if it is not there."""
    if f"no {name}" in facts:
        return None
    kinds = ("top hat", "party hat", "beanie", "crown") if name == "hat" else (name,)
    return max((fact for fact in facts if fact.endswith(kinds) and not fact.startswith("no ")), key=len)


def weights_of_steps(alphas: torch.Tensor) -> torch.Tensor:
    """Return the weight of each timestep's error, from the cumulated alphas (steps,); their mean is 1.

    Where there is mostly noise, even a thing of the wrong colour costs little of the noise's variance, and that is
    where the colour is decided. The error of the clean latents is 1 / SNR times as large; about the root of that is
    taken, up to `MOST_WEIGHT` times the least weight.
    """
    weights = alphas.rsqrt().clamp(max=MOST_WEIGHT)
    return weights / weights.mean()


def main() -> None:
    options = parser(__doc__)
    add_minutes(options)
    add_start(options)
    add_threads(options)
    options.add_argument("--steps", type=count, default=6_000, help="steps of --batch examples")
    options.add_argument("--batch", type=count, default=32, help="examples in a step")
    options.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    options.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="compile the model")
    options.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="products in bfloat16")
    args = options.parse_args()
    torch.manual_seed(STAGE)
    model = UNet2DConditionModel(**CONFIG).to(memory_format=torch.channels_last)
    start_from(model, args.start, args.work / "unet", f"{DECODER}/unet")
    schedule = Schedule(args.steps, args.rate)
    training = Training(
        args.work / "unet",
        STAGE,
        model,
        schedule,
        threads=args.threads,
        minutes=args.minutes,
        decay=0.9995,
        sources={"MoVQ encoder": encoder_source(args.work), "image encoder": image_source(open_clip(args.work))},
    )
    numbers = [n for n in shard_numbers(args.work / "pictures") if latents_path(args.work, n).exists()]
    if not numbers:
        raise StageError(
            f"{args.work / 'latents'} has no latents of training pictures; run scripts/train latents first"
        )
    examples, latents, embeds = _inputs(args.work, numbers)
    tests, test_latents, test_embeds = _inputs(args.work, [HELD_OUT])
    nothing = zero_embeds(args.work)
    alphas = DDPMScheduler.from_config(SCHEDULER).alphas_cumprod
    step_weights = weights_of_steps(alphas)
    print(f"{len(examples)} pictures", flush=True)

    def predict(sample: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> tuple[torch.Tensor]:
        return (model(sample, timesteps, None, added_cond_kwargs={"image_embeds": embeds}).sample,)

    forward = CheckedCompile(predict, model, enabled=args.compile)

    def batch(
        rng: np.random.Generator,
        noise: torch.Generator,
        examples: Examples,
        latents: torch.Tensor,
        embeds: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        drawn = [examples.draw(rng) for _ in range(args.batch)]
        kept = torch.from_numpy(np.stack([example.kept for example in drawn]))[:, None]
        before = latents[[example.before for example in drawn]].float()
        target = latents[[example.target for example in drawn]].float()
        clean = kept * before + (1 - kept) * target
        epsilon = torch.randn(clean.shape, generator=noise)
        timesteps = torch.from_numpy(rng.integers(1000, size=len(drawn)))
        share = alphas[timesteps][:, None, None, None]
        noisy = share.sqrt() * clean + (1 - share).sqrt() * epsilon
        sample = torch.cat([noisy, before * kept, kept], dim=1).contiguous(memory_format=torch.channels_last)
        given = embeds[[example.embedded for example in drawn]]
        dropped = torch.from_numpy(rng.uniform(size=(len(drawn), 1)) < DROPPED)
        return sample, timesteps, torch.where(dropped, nothing, given), epsilon, kept

    def losses_of(step: Step) -> dict[str, torch.Tensor]:
        sample, timesteps, given, epsilon, kept = batch(step.rng, step.noise, examples, latents, embeds)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            (out,) = forward(sample, timesteps, given)
        predicted, variance = out.float().split(4, dim=1)
        weight = (1 - kept + OUTSIDE * kept).expand_as(epsilon)
        importance = step_weights[timesteps][:, None, None, None]
        error = (importance * weight * (predicted - epsilon).square()).sum() / weight.sum()
        return {"epsilon": error, "variance": 0.01 * variance.square().mean()}

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        rng, noise = np.random.default_rng(STAGE), torch.Generator().manual_seed(STAGE)
        total = []
        for _ in range(8):
            sample, timesteps, given, epsilon, kept = batch(rng, noise, tests, test_latents, test_embeds)
            out = training.average(sample, timesteps, None, added_cond_kwargs={"image_embeds": given}).sample
            error = ((1 - kept) * (out[:, :4] - epsilon)).square().sum() / (4 * (1 - kept).sum())
            total.append(float(error))
        return {"held_out": float(np.mean(total))}

    training.run(losses_of, evaluate, evaluate_every=400)


def _inputs(work: Path, numbers: list[int]) -> tuple[Examples, torch.Tensor, torch.Tensor]:
    """Return examples, latents (n, 4, side, side) float16 and image embeddings (n, EMBEDDING) of shards."""
    source = encoder_source(work)
    latents = np.concatenate([read_latents(work, number, source) for number in numbers])
    examples = Examples([read_shard(work / "pictures", number) for number in numbers])
    return examples, torch.from_numpy(latents.reshape(-1, *latents.shape[2:])), embeds_of(work, numbers)


def embeds_of(work: Path, numbers: list[int]) -> torch.Tensor:
    """Return CLIP's embeddings of the pictures of shards, (n, EMBEDDING), from files once this CLIP has made them."""
    clip, parts = open_clip(work), []
    source = image_source(clip)
    for number in numbers:
        path = work / "latents" / f"embeds-{number:05d}.pt"
        if not is_from(path, source):
            made = image_embeds(clip, reduced_pictures(work, number))
            make_from(path, source, partial(torch.save, made))
        parts.append(torch.load(path, weights_only=True))
    return torch.cat(parts)


@torch.no_grad()
def zero_embeds(work: Path) -> torch.Tensor:
    """Return the pipelines' `negative_image_embeds`: CLIP's embedding of an all-zero tensor, (1, EMBEDDING)."""
    embeds: torch.Tensor = open_clip(work).image_encoder(torch.zeros(1, 3, CLIP_PICTURE, CLIP_PICTURE)).image_embeds
    return embeds


if __name__ == "__main__":
    run_stage(main)
