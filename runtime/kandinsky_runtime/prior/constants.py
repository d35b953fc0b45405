"""The prior's constants: the statistics of its embeddings, and the embedding of an empty picture.

Legend: E embedding width
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.errors import BundleError

Array = npt.NDArray[np.float32]

_NAMES = ("clip_mean", "clip_std", "negative_image_embeds")


def read_constants(bundle: Bundle, path: str, width: int) -> dict[str, Array]:
    """`clip_mean`, `clip_std` and `negative_image_embeds`, each float32 (1, E).

    Args:
        bundle: the bundle.
        path: the file's path, as the manifest has it.
        width: E.

    Raises:
        BundleError: the file is damaged; every constant that is missing or wrong is listed.
    """
    arrays = bundle.constants(path)
    if faults := [fault for name in _NAMES if (fault := _fault(arrays, name, width))]:
        raise BundleError(bundle.subject, [f"{path}: {fault}" for fault in faults])
    return arrays


def _fault(arrays: Mapping[str, npt.NDArray[Any]], name: str, width: int) -> str | None:
    """The fault of a constant, or None."""
    if name not in arrays:
        return f"`{name}` is missing"
    array = arrays[name]
    if array.dtype != np.float32 or array.shape != (1, width):
        return f"`{name}` is {array.dtype} {array.shape}; expected float32 (1, {width}), the decoder's width"
    return None if np.isfinite(array).all() else f"`{name}` has NaN or infinity"
