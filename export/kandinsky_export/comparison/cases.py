"""What every setting is tried on: a prompt or an embedding, a seed, and for inpainting a picture and its mask.

Legend: H, W height and width of the result in pixels
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.errors import InputError, UsageError
from kandinsky_runtime.pictures.image import fit
from kandinsky_runtime.pictures.mask import fit_mask

Array = npt.NDArray[np.float32]

MAX_CASES = 100_000
"""The most results of one setting."""


@dataclass(frozen=True)
class Pictures:
    """The pictures that a case begins with.

    Attributes:
        options: the pipeline's options for them.
        picture: (H, W, 3) in [0, 1]; None for text-to-image.
        mask: (H, W), 1 to repaint, 0 to keep; None without a mask.
    """

    options: Mapping[str, Any]
    picture: Array | None = None
    mask: Array | None = None


@dataclass(frozen=True)
class Case:
    """One result of every setting.

    Attributes:
        label: the prompt, or the number of the embedding.
        seed: the seed of all noise.
        conditioning: the pipeline's options for the prompt or the embedding.
        pictures: what it begins with.
    """

    label: str
    seed: int
    conditioning: Mapping[str, Any]
    pictures: Pictures


def inpainted(image: Image.Image, mask: Image.Image, height: int | None = None, width: int | None = None) -> Pictures:
    """A picture and the mask to repaint, at the size of the result (default: the picture's).

    Raises:
        InputError: the mask has nothing to repaint.
    """
    width, height = width or image.width, height or image.height
    repainted = fit_mask(mask, width, height)
    if not repainted.any():
        raise InputError("the mask has nothing to repaint; paint white what is to be repainted")
    options = {"image": image, "mask_image": mask, "height": height, "width": width, "composite": "none"}
    return Pictures(options, _pixels(fit(image, width, height)), repainted)


def generated(
    height: int | None, width: int | None, image: Image.Image | None = None, strength: float | None = None
) -> Pictures:
    """A size in pixels for text-to-image; with a picture, image-to-image (default: the picture's size, or 512)."""
    options: dict[str, Any] = {"height": height, "width": width}
    if image is None:
        return Pictures(options)
    shown = fit(image, width or image.width, height or image.height)
    return Pictures(options | {"image": image, "strength": strength}, _pixels(shown))


def cases_of(conditionings: Sequence[tuple[str, Mapping[str, Any]]], seeds: int, pictures: Pictures) -> list[Case]:
    """Every conditioning, given with its label, with every seed from 0.

    Raises:
        UsageError: there would be more than `MAX_CASES`.
    """
    count = len(conditionings) * seeds
    if count > MAX_CASES:
        raise UsageError(
            f"{seeds:,} seeds of {len(conditionings):,} prompts or embeddings are {count:,} results;"
            f" expected at most {MAX_CASES:,}: give fewer seeds or prompts"
        )
    return [Case(label, seed, conditioning, pictures) for label, conditioning in conditionings for seed in range(seeds)]


def read_prompts_file(path: Path) -> list[str]:
    """The prompts of a file: a JSON list of texts if its name ends in `.json`, else a prompt on each line.

    Raises:
        InputError: the file cannot be read, or has no prompts.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark of its encoding
        # Every line break is "\n" by now. splitlines() would also split at U+2028 and others, within a prompt.
        found = json.loads(text) if path.suffix.lower() == ".json" else text.split("\n")
    except OSError as error:
        raise InputError(f"prompts {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON, or lists within lists without end
        raise InputError(f"prompts {path} cannot be read ({error}); expected UTF-8 text, or a JSON list") from error
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InputError(f"prompts {path}: expected a JSON list of texts")
    if not (prompts := [item.strip() for item in found if item.strip()]):
        raise InputError(f"prompts {path}: there is no prompt in it; write one on each line")
    return prompts


def _pixels(image: Image.Image) -> Array:
    return np.asarray(image, np.float32) / np.float32(255)
