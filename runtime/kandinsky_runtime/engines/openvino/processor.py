"""What the processor computes natively, according to Linux."""

from __future__ import annotations

from pathlib import Path

# Linux's names for the instructions that multiply bf16.
_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def has_bf16() -> bool:
    """Whether the processor multiplies bf16; always false outside Linux, which costs only speed."""
    return not _BF16.isdisjoint(_flags())


def has_amx() -> bool:
    """Whether the processor multiplies tiles of bf16; always false outside Linux, which costs only speed."""
    return "amx_bf16" in _flags()


def _flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    names = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(flag for name in names for flag in name.split())
