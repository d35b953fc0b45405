"""What is in a checkpoint's folder and is not used: named in a note, so that nothing is ignored without a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.checkpoints.lora import LORA_FILE
from kandinsky_export.checkpoints.prior_checkpoint import COMBINED_PREFIX

_WEIGHTS = frozenset({".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".pdparams", ".pt", ".pth", ".safetensors"})
_MAX_NAMED = 20


def unused_notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """One sentence for each folder with weights or models that no checkpoint is read from.

    Args:
        checkpoints: all checkpoints of one export. Those in the same folder are taken together.

    Raises:
        OSError: a folder cannot be read.
    """
    used: dict[Path, set[Path]] = {}
    for checkpoint in checkpoints:
        used.setdefault(checkpoint.root, set()).update(checkpoint.files())
    loras = {lora.path.resolve() for checkpoint in checkpoints for lora in checkpoint.loras}
    return [_note(root, unused) for root, files in used.items() if (unused := list(_unused(root, files, loras)))]


def _note(root: Path, unused: list[str]) -> str:
    more = f" and {len(unused) - _MAX_NAMED:,} more" if len(unused) > _MAX_NAMED else ""
    way = f"; the folders {COMBINED_PREFIX}* are a prior: --prior {root} exports it" if _has_prior(unused) else ""
    if LORA_FILE in unused:
        way += f"; --lora {root / LORA_FILE} merges the LoRA"
    return f"{root}: not used: {', '.join(unused[:_MAX_NAMED])}{more}{way}"


def _has_prior(unused: Iterable[str]) -> bool:
    return any(name.startswith(COMBINED_PREFIX) and name.endswith("/") for name in unused)


def _unused(root: Path, used: set[Path], loras: set[Path]) -> Iterator[str]:
    """Weight files next to used ones, and folders with a model or a config and nothing used."""
    folders = {path.parent for path in used}
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            if path.suffix in _WEIGHTS and path.resolve() not in loras:
                yield path.name
        elif path not in folders:
            if any(item.suffix in _WEIGHTS or item.suffix == ".json" for item in path.iterdir()):
                yield f"{path.name}/"
        else:
            yield from (
                f"{path.name}/{item.name}"
                for item in sorted(path.iterdir())
                if item.suffix in _WEIGHTS and item not in used
            )
