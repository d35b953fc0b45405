"""What Linux reports of a processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kandinsky_runtime.engines.openvino.processor import has_amx, has_bf16


@pytest.mark.parametrize(
    ("text", "bf16", "amx"),
    [
        ("", False, False),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", False, False),
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu avx512_bf16\n", True, False),
        ("flags\t\t: fpu amx_bf16 avx512_bf16 amx_tile\n", True, True),
        ("flags\t\t: amx_bf16_of_another_kind\n", False, False),
        ("model name\t: amx_bf16\n", False, False),
        ("Features\t: fp asimd bf16\n", True, False),
    ],
    ids=["nothing", "neither", "AVX-512", "AMX", "a longer name", "another line", "Arm"],
)
def test_flags(text: str, bf16: bool, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, **_: Any) -> str:
        assert str(path) == "/proc/cpuinfo"
        return text

    monkeypatch.setattr(Path, "read_text", read)
    assert (has_bf16(), has_amx()) == (bf16, amx)


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, **_: Any) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", read)
    assert (has_bf16(), has_amx()) == (False, False)
