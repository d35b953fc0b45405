"""float32 values → their nearest in fp16 and bf16, as the arrays that files hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def rounded(values: npt.NDArray[np.float32], precision: str) -> npt.NDArray[Any]:
    """`values` rounded to nearest, ties to even.

    Args:
        values: float32; beyond the largest finite number of the precision they become infinite.
        precision: "fp16" gives float16, "bf16" the upper halves of the bits as uint16 (numpy has no bf16), "fp32" the
            values themselves.
    """
    if precision == "fp32":
        return values
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    bits = np.ascontiguousarray(values).view(np.uint32)
    last_kept = (bits >> np.uint32(16)) & np.uint32(1)
    # The sum stays below 2^32 for every number; a NaN keeps a bit of its payload.
    nearest = (bits + (np.uint32(0x7FFF) + last_kept)) >> np.uint32(16)
    return np.where(np.isnan(values), (bits >> np.uint32(16)) | np.uint32(0x40), nearest).astype(np.uint16)
