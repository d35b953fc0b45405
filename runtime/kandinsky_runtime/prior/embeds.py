"""Image embeddings: read from files, written to files, and checked from arrays.

Legend: N positive embeddings · M negative embeddings · E embedding width
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.batch import finite_floats
from kandinsky_runtime.checks import writable_path
from kandinsky_runtime.errors import InputError, Kandinsky22Error
from kandinsky_runtime.files import read_pipe, write_whole

Array = npt.NDArray[np.float32]

POSITIVE = "image_embeds"
NEGATIVE = "negative_image_embeds"

_MOST_BYTES = 1 << 30  # of a pipe


def read_embeds(
    path: str | os.PathLike[str], negative_path: str | os.PathLike[str] | None = None
) -> tuple[Array, Array | None]:
    """Read image embeddings, and negative ones if there are any.

    Args:
        path: an `.npz` with `image_embeds` and perhaps `negative_image_embeds`, or an `.npy` with `image_embeds`.
        negative_path: an `.npz` with `negative_image_embeds`, or an `.npy` with them; replaces the negative embeddings
            in `path`.

    Returns:
        The embeddings, (N, E) float32; and the negative embeddings, (M, E) float32, or None.

    Raises:
        InputError: a file cannot be read, or an array is missing, has another shape, or is not finite.
    """
    arrays = _load(path, POSITIVE)
    source = path if negative_path is None else negative_path
    negatives = arrays if negative_path is None else _load(negative_path, NEGATIVE)
    negative = None
    if negative_path is not None or NEGATIVE in negatives:
        negative = _array(negatives, NEGATIVE, source)
    return _array(arrays, POSITIVE, path), negative


def check_embeds_path(path: str | os.PathLike[str]) -> None:
    """Raise InputError, before any work, if `write_embeds` could not write to `path`."""
    target = Path(path)
    if target.suffix != ".npz":
        raise InputError(f"output {target} has the suffix {target.suffix!r}; expected .npz")
    writable_path("output", path)


def write_embeds(path: str | os.PathLike[str], positive: Array, negative: Array) -> None:
    """Write embeddings (N, E) and negative ones (M, E) to an `.npz` file. The write is atomic.

    Raises:
        InputError: see `check_embeds_path`.
        Kandinsky22Error: the file cannot be written.
    """
    check_embeds_path(path)
    target = Path(path)
    try:
        write_whole(target, lambda stream: np.savez(stream, **{POSITIVE: positive, NEGATIVE: negative}))
    except OSError as error:
        raise Kandinsky22Error(f"output {target} cannot be written: {error.strerror}") from error


def as_embeds(value: npt.ArrayLike | None, subject: str, width: int | None = None) -> Array:
    """A copy of embeddings as a float32 array (N, E). Shape (E,) means N = 1.

    Args:
        value: any value that numpy converts to an array of real numbers.
        subject: the name of the value in errors.
        width: the width E of the bundle, or None for any width.

    Raises:
        InputError: the value is not numeric or not finite, or has another shape or width.
    """
    array = finite_floats(subject, value)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{subject}: the shape is {array.shape}; expected (N, {width or 'E'})")
    if width is not None and array.shape[1] != width:
        raise InputError(
            f"{subject}: the width is {array.shape[1]}; this bundle takes {width}: use the prior that belongs to it"
        )
    return array


def _array(arrays: dict[str, npt.NDArray[np.generic]], name: str, path: str | os.PathLike[str]) -> Array:
    if name not in arrays:
        raise InputError(f"{path} has {', '.join(arrays) or 'no arrays'}; expected `{name}`")
    return as_embeds(arrays[name], f"`{name}` in {path}")


def _load(path: str | os.PathLike[str], name_of_npy: str) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a file by name. Arrays of an `.npz` that are not embeddings are replaced by empty ones."""
    try:
        content = read_pipe(path, str(path), _MOST_BYTES)
        # numpy leaves a file that it opened itself open after some errors
        with Path(path).open("rb") if content is None else io.BytesIO(content) as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {name_of_npy: loaded}
            return {name: loaded[name] if name in (POSITIVE, NEGATIVE) else np.empty(0) for name in loaded.files}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give an .npz or .npy file of embeddings") from error
    except InputError:
        raise
    except Exception as error:  # numpy and zipfile raise errors of any kind for damaged files
        raise InputError(
            f"{path} cannot be read as .npz or .npy embeddings ({error}); write them with numpy.savez(file,"
            f" {POSITIVE}=…, {NEGATIVE}=…)"
        ) from error
