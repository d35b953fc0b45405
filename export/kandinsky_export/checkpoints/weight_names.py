"""The names of weight files, and which of a model's files are taken."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from kandinsky_export.checkpoints.weights import is_in_paddles_layout

_log = logging.getLogger(__name__)

# How the name begins that ppdiffusers gives to its own safetensors files.
_PADDLE_STEMS: Mapping[str, str] = {"diffusion_pytorch_model": "diffusion_paddle_model"}

# Name patterns of whole files and of indexes, the preferred one first; shards are named in an index only.
_VARIANT = r"(?P<variant>(?!.*-\d+-of-\d+)\w[\w-]*)"
_SAFETENSORS = (
    rf"STEM(?:\.{_VARIANT})?\.safetensors",
    rf"STEM\.safetensors\.index(?:\.{_VARIANT})?\.json",
    rf"STEM\.{_VARIANT}\.safetensors\.index\.json",
)
_PDPARAMS = (rf"model_state(?:\.{_VARIANT})?\.pdparams", rf"model_state\.pdparams\.index(?:\.{_VARIANT})?\.json")


def find_weights(folder: Path, stem: str, variant: str | None, faults: list[str], *, by_paddle: bool) -> Path | None:
    """The file, or the index of the shards, of a model's weights.

    Several files may be there, as after a second save into one folder. Then the one is taken whose layout is that of
    the library that wrote the config last.

    Args:
        folder: the model's folder.
        stem: how the name of the safetensors file begins in diffusers' form.
        variant: of the weight files; None takes the plain ones, or the only variant there is.
        faults: takes the reason if there is no such file.
        by_paddle: whether ppdiffusers or PaddleNLP wrote the config.
    """
    there = _by_variant(folder, stem)
    if variant in there:
        return _chosen(there[variant], by_paddle=by_paddle)
    if variant is None and len(there) == 1:
        ((only, found),) = there.items()
        _log.warning("%s has only %s weights; they are used", folder.name, only)
        return _chosen(found, by_paddle=by_paddle)
    wanted = f"{variant} weights" if variant else "weights"
    have = f"; it has {', '.join(sorted(str(name or 'plain') for name in there))} ones" if there else ""
    pickled = "; .bin files are not read: convert them to safetensors" if any(folder.glob("*.bin")) else ""
    faults.append(f"{folder.name} has no {wanted} ({stem}.safetensors or model_state.pdparams){have}{pickled}")
    return None


def _chosen(paths: Sequence[Path], *, by_paddle: bool) -> Path:
    if len(paths) == 1:
        return paths[0]
    return next((path for path in paths if is_in_paddles_layout(path) == by_paddle), paths[0])


def _by_variant(folder: Path, stem: str) -> dict[str | None, list[Path]]:
    """The files and indexes of each variant, in the order of preference."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    stems = [stem, *(paddles for mine, paddles in _PADDLE_STEMS.items() if mine == stem)]
    patterns = [*(pattern.replace("STEM", one) for one in stems for pattern in _SAFETENSORS), *_PDPARAMS]
    found: dict[str | None, list[Path]] = {}
    for pattern in patterns:
        for name in names:
            if match := re.fullmatch(pattern, name):
                found.setdefault(match["variant"], []).append(folder / name)
    return found
