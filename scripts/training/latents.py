"""Stage 4: the latents of all training pictures, by the finished MoVQ, in float16.

The scale is measured on the first shard and kept in `latents/scale.pt`; the export folds the same one into MoVQ. Both
are made again if MoVQ's encoder was trained on since; training its decoder alone changes neither.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import VQModel

from scripts.training.command import StageError, run_stage
from scripts.training.folding import fold_scale
from scripts.training.loop import load_average
from scripts.training.movq import CONFIG, to_model
from scripts.training.pictures import HELD_OUT, read_shard, shard_numbers
from scripts.training.settings import add_threads, parser
from scripts.training.sources import digest_of, is_from, make_from


@torch.no_grad()
def open_movq(work: Path) -> VQModel:
    """Return the trained MoVQ with latents of mean 0 and deviation 1.

    Raises:
        StageError: it has not been trained yet.
    """
    model = VQModel(**CONFIG)
    load_average(work / "movq", model)
    path, source = work / "latents" / "scale.pt", _source_of(model)
    if not is_from(path, source):
        pictures = read_shard(work / "pictures", 0).pictures[:60, 0]
        latents = torch.cat([model.encode(to_model(part)).latents for part in np.array_split(pictures, 12)])
        variance, mean = torch.var_mean(latents, dim=(0, 2, 3))
        measured = {"mean": mean, "deviation": variance.sqrt()}
        make_from(path, source, partial(torch.save, measured))
    scale = torch.load(path, weights_only=True)
    fold_scale(model, scale["mean"], scale["deviation"])
    return model


def latents_path(work: Path, number: int) -> Path:
    """Return the file of a shard's latents: (pairs, 2, 4, side, side) float16."""
    return work / "latents" / f"latents-{number:05d}.npy"


def encoder_source(work: Path) -> str:
    """Return the digest of the trained MoVQ's encoder, from which latents are made.

    Raises:
        StageError: it has not been trained yet.
    """
    model = VQModel(**CONFIG)
    load_average(work / "movq", model)
    return _source_of(model)


def read_latents(work: Path, number: int, source: str) -> np.ndarray:
    """Return a shard's latents, (pairs, 2, 4, side, side) float16.

    Args:
        source: the digest of the encoder that they must be from.

    Raises:
        StageError: they are not there, or they are from another encoder.
    """
    path = latents_path(work, number)
    if not is_from(path, source):
        why = "is not from the present MoVQ" if path.exists() else "is not there"
        raise StageError(f"{path} {why}; run scripts/train latents first")
    made: np.ndarray = np.load(path)
    return made


def _source_of(model: VQModel) -> str:
    return digest_of(model.state_dict(), ("encoder.", "quant_conv."))


@torch.no_grad()
def main() -> None:
    options = parser(__doc__)
    add_threads(options)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    source = encoder_source(args.work)
    model = open_movq(args.work).to(memory_format=torch.channels_last)
    for number in (HELD_OUT, *shard_numbers(args.work / "pictures")):
        path = latents_path(args.work, number)
        if is_from(path, source):
            continue
        pictures = read_shard(args.work / "pictures", number).pictures
        flat = pictures.reshape(-1, *pictures.shape[2:])
        parts = []
        for start in range(0, len(flat), 4):
            batch = to_model(flat[start : start + 4]).to(memory_format=torch.channels_last)
            parts.append(model.encode(batch).latents.half().contiguous().numpy())
        latents = np.concatenate(parts).reshape(*pictures.shape[:2], *parts[0].shape[1:])
        make_from(path, source, partial(np.save, arr=latents))
        print(f"latents of shard {number}", flush=True)


if __name__ == "__main__":
    run_stage(main)
