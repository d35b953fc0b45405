"""Precisions: what weights are stored in, and what a graph is computed in."""

from __future__ import annotations

from typing import ClassVar


class Precision(str):
    """A precision, by the name that manifests and options use.

    It is a text, so that it reads, compares and goes into JSON as its name. A manifest of a later version may name one
    that this version does not know: such a value keeps its name, and `known` is false.
    """

    __slots__ = ()

    FP32: ClassVar[Precision]
    FP16: ClassVar[Precision]
    BF16: ClassVar[Precision]

    @property
    def known(self) -> bool:
        """Whether this version can compute in it."""
        return self in _BITS

    @property
    def bits(self) -> int:
        """The bits of one number.

        Raises:
            KeyError: this version does not know the precision.
        """
        return _BITS[self]

    @property
    def is_float32(self) -> bool:
        """Whether it is the full precision, in which the checkpoint's weights are published."""
        return self == Precision.FP32

    @property
    def is_16_bit(self) -> bool:
        """Whether a number has 16 bits, so that values are rounded on the way."""
        return self.known and self.bits == 16


Precision.FP32, Precision.FP16, Precision.BF16 = (Precision(name) for name in ("fp32", "fp16", "bf16"))

_BITS = {Precision.FP32: 32, Precision.FP16: 16, Precision.BF16: 16}

PRECISIONS = tuple(_BITS)
"""Every precision that this version computes in."""
