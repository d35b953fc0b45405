"""Image embeddings from files and arrays. The prior that makes them from a prompt goes behind the same function."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import InputError

Array = npt.NDArray[np.float32]

POSITIVE = "image_embeds"
NEGATIVE = "negative_image_embeds"


def read_embeds(
    path: str | os.PathLike[str], negative_path: str | os.PathLike[str] | None = None
) -> tuple[Array, Array | None]:
    """Read image embeddings, and the negative ones where there are any.

    Args:
        path: an `.npz` with `image_embeds` and perhaps `negative_image_embeds`, or an `.npy` with the former.
        negative_path: the negative embeddings in a file of their own; they take the place of those in `path`.

    Returns:
        Arrays (N, E) and (M, E) or None, float32.

    Raises:
        InputError: a file cannot be read as that, or an array is not finite (N, E).
    """
    arrays = _load(Path(path), POSITIVE)
    if POSITIVE not in arrays:
        raise InputError(f"{path} has {', '.join(arrays) or 'no arrays'}; it needs `{POSITIVE}`")
    if negative_path is not None:
        arrays |= _load(Path(negative_path), NEGATIVE)
        if NEGATIVE not in arrays:
            raise InputError(f"{negative_path} needs `{NEGATIVE}`")
    negative = arrays.get(NEGATIVE)
    return (
        as_embeds(arrays[POSITIVE], f"`{POSITIVE}` in {path}"),
        None if negative is None else as_embeds(negative, f"`{NEGATIVE}` in {negative_path or path}"),
    )


def as_embeds(value: npt.ArrayLike, subject: str, width: int | None = None) -> Array:
    """Embeddings as a float32 array (N, E); one of shape (E,) counts as N = 1.

    Args:
        value: anything that numpy takes for an array of real numbers.
        subject: how errors name it.
        width: E of the bundle, or None for any.

    Raises:
        InputError: not numeric, another shape or width, or not finite.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{subject} has dtype {array.dtype}; embeddings are real numbers")
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{subject} has shape {array.shape}; expected (N, {width or 'E'})")
    if width is not None and array.shape[1] != width:
        raise InputError(f"{subject} is {array.shape[1]} wide; this bundle takes embeddings of width {width}")
    if not np.isfinite(array).all():
        raise InputError(f"{subject} has NaN or infinity")
    return array.astype(np.float32)


def _load(path: Path, name_of_npy: str) -> dict[str, npt.NDArray[np.generic]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {name_of_npy: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files if name in (POSITIVE, NEGATIVE)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as .npz or .npy embeddings: {error}") from error
