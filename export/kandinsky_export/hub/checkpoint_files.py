"""Which files make a checkpoint, and which of them a listing of diffusers' layout has."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath

from kandinsky_export.checkpoints.prior_checkpoint import COMBINED_PREFIX
from kandinsky_export.errors import CheckpointError

ALWAYS = ("model_index.json", "scheduler/scheduler_config.json")
# Folders without weights, and what the Paddle store, which cannot be listed, holds in them.
WEIGHTLESS = {"tokenizer": ("vocab.json", "merges.txt"), "image_processor": ("preprocessor_config.json",)}
# File names of diffusers, of ppdiffusers and of transformers.
_WEIGHT_STEMS = ("diffusion_pytorch_model", "diffusion_paddle_model", "model")


def select_files(listing: Iterable[str], components: Sequence[str], variant: str | None, subject: str) -> list[str]:
    """The files of `listing` that make the checkpoint; CheckpointError lists everything that is missing from it.

    If `components` are a prior's and the listing is a combined pipeline's, they are its `prior_*` folders.
    """
    folders: dict[str, set[str]] = {}
    for file in map(PurePosixPath, listing):
        folders.setdefault(str(file.parent), set()).add(file.name)
    index, scheduler = ALWAYS
    combined = "prior" in components and f"{COMBINED_PREFIX}prior" in folders
    if combined:
        components, scheduler = [f"{COMBINED_PREFIX}{name}" for name in components], f"{COMBINED_PREFIX}{scheduler}"
    weightless = {f"{COMBINED_PREFIX}{name}" for name in WEIGHTLESS} if combined else set(WEIGHTLESS)
    files, faults = [], []
    configs = (f"{component}/config.json" for component in components if component not in weightless)
    for file in map(PurePosixPath, [index, scheduler, *configs]):
        if file.name in folders.get(str(file.parent), ()):
            files.append(str(file))
        else:
            faults.append(f"{file} is missing")
    for component in components:
        names = folders.get(component, set())
        chosen = _text_files(names) if component in weightless else _weight_files(names, variant)
        files += [f"{component}/{file}" for file in chosen]
        if not chosen:
            faults.append(_nothing_chosen(component, names, variant, has_weights=component not in weightless))
    if faults:
        raise CheckpointError(subject, faults)
    return files


def _text_files(names: Collection[str]) -> list[str]:
    """The files of a folder without weights, such as a tokenizer's."""
    return sorted(name for name in names if name.endswith((".json", ".txt")))


def _weight_files(names: Collection[str], variant: str | None) -> list[str]:
    """The safetensors file of `variant` in a folder, or its shards and their index; empty if there is no whole set."""
    infix = f".{variant}" if variant else ""
    for stem in _WEIGHT_STEMS:
        single = f"{stem}{infix}.safetensors"
        if single in names:
            return [single]
        index = f"{stem}.safetensors.index{infix}.json"
        # The libraries have put the variant on either side of the number.
        for before, after in ((infix, ""), ("", infix)):
            shards = _whole_shards(names, rf"{stem}{re.escape(before)}-\d+-of-(\d+){re.escape(after)}\.safetensors")
            if index in names and shards:
                return [index, *shards]
    return []


def _whole_shards(names: Collection[str], pattern: str) -> list[str]:
    """The names that match `pattern`, whose group is the number of shards, if all of them are there."""
    shards: dict[int, list[str]] = {}
    for name in sorted(names):
        if match := re.fullmatch(pattern, name):
            shards.setdefault(int(match[1]), []).append(name)
    return next((found for count, found in shards.items() if len(found) == count), [])


def _nothing_chosen(component: str, names: Collection[str], variant: str | None, *, has_weights: bool) -> str:
    """What is wrong with a folder from which no file could be chosen."""
    present = ", ".join(sorted(set(names) - {"config.json"})) or "nothing else"
    if not has_weights:
        return f"{component}/ has no .json or .txt file; it holds {present}"
    kind = f"{variant} weights" if variant else "weights"
    return f"{component}/ has no complete {kind} in safetensors form; it holds {present}"
