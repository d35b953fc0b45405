"""What an engine of TensorRT-RTX runs: the kernels of its programs, in their order, as its file lists them.

TensorRT-RTX writes the program as text into the engine (nothing documents it; read with version 1.7.1). Each line of
the block `main` that opens a brace is a step. A step's kind says what it is, and the name of a fused kernel says which
operators are in it:

    corrltn={ name="Conv.0" …                  a convolution
    fully_connected={ name="MatMul.3" …        a matrix product, or several of one input in one
    function={ name=__myl_CastMulAddSilu …     a kernel that was generated for these operators
    runtime_fusion={ name=__myl_FcAdd …        a matrix product with what follows, generated on the user's machine
    function={ name=_gemm_mha_v2 …             an attention
"""

from __future__ import annotations

import mmap
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# What closes a program's steps. Blocks called main without it are the insides of kernels that the user's machine
# generates.
_BEGIN, _END = b"\nmain {\n", b"\n}\nshape_main {"
_STEP = re.compile(r'^ +([a-z_]+)=\{ name="?([^\s"]+)', re.MULTILINE)
# They order kernels, or compute shapes on the host.
_NO_KERNELS = frozenset({"signal", "wait", "shape_call"})
_ATTENTION = "_gemm_mha_v2"
_GENERATED = ("function", "runtime_function", "runtime_fusion")
_PREFIX = "__myl_"

ATTENTION, CONVOLUTION, PRODUCT, NORM, MOVE, OTHER = (
    "attention",
    "convolution",
    "matrix product",
    "normalisation",
    "only moves or casts",
    "other",
)
KINDS = (CONVOLUTION, PRODUCT, ATTENTION, NORM, MOVE, OTHER)
_OWN_KINDS = {"corrltn": CONVOLUTION, "deconvolution": CONVOLUTION, "fully_connected": PRODUCT, "inorm": NORM}
# Parts of a generated kernel's name, tried in this order.
_PARTS = (
    (ATTENTION, {"Soft"}),
    (NORM, {"Inor", "Gnor", "Mean", "Sqrt", "Lnor"}),
    (PRODUCT, {"Fc", "Gemm"}),
)
_MOVES = frozenset({"Resh", "Tran", "Cast", "Move", "Slic", "Conc", "Repl", "Pad", "Gath", "Copy"})


@dataclass(frozen=True)
class Kernel:
    """A step of a program: how TensorRT-RTX calls its kind, and its name."""

    step: str
    name: str

    @property
    def kind(self) -> str:
        """What it is for, one of `KINDS`: of a fused kernel, its costliest part."""
        if self.name == _ATTENTION:
            return ATTENTION
        if self.step not in _GENERATED:
            return _OWN_KINDS.get(self.step, OTHER)
        parts = self.parts
        if kind := next((kind for kind, known in _PARTS if known & set(parts)), None):
            return kind
        return MOVE if set(parts) <= _MOVES else OTHER

    @property
    def parts(self) -> tuple[str, ...]:
        """The operators in a generated kernel, abbreviated as TensorRT-RTX does."""
        return tuple(re.findall("[A-Z][a-z0-9]*", self.name.removeprefix(_PREFIX)))

    @property
    def label(self) -> str:
        """A name that kernels alike have in common."""
        return self.name.removeprefix(_PREFIX) if self.step in _GENERATED else self.step


def programs(engine: Path) -> list[list[Kernel]]:
    """The programs of an engine, one for each profile: the kernels in their order.

    Raises:
        ValueError: the file has no program that can be read.
    """
    found = []
    with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.find(_END)
        while end >= 0:
            begin = content.rfind(_BEGIN, 0, end)
            steps = _STEP.findall(content[begin:end].decode(errors="replace"))
            found.append([Kernel(*step) for step in steps if step[0] not in _NO_KERNELS])
            end = content.find(_END, end + 1)
    if not found:
        raise ValueError(f"{engine.name} has no program that can be read")
    return found


def by_kind(found: Iterable[Kernel]) -> dict[str, int]:
    """The number of kernels of each kind, in the order of `KINDS`."""
    counts = Counter(kernel.kind for kernel in found)
    return {kind: counts[kind] for kind in KINDS}
