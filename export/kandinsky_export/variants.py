"""The forms in which a bundle can hold its graphs; a module of its own, so that knowing them loads no vendor."""

from __future__ import annotations

from collections.abc import Iterable

from kandinsky_runtime.errors import UsageError

DEFAULT_VARIANTS = ("paddle", "onnx-fp32")
# By variant, the precision in which its graphs compute.
LOWER_VARIANTS = {"onnx-fp16": "fp16", "onnx-bf16": "bf16"}
VARIANTS = (*DEFAULT_VARIANTS, *LOWER_VARIANTS)


def check_variants(names: Iterable[str]) -> tuple[str, ...]:
    """`names` in their order, without repetitions.

    Raises:
        UsageError: one of them is not in `VARIANTS`, or there is none.
    """
    chosen = tuple(dict.fromkeys(names))
    if unknown := [name for name in chosen if name not in VARIANTS]:
        raise UsageError(f"there is no variant {', '.join(unknown)}; choose from {', '.join(VARIANTS)}")
    if not chosen:
        raise UsageError(f"a bundle needs a variant; choose from {', '.join(VARIANTS)}")
    return chosen
