"""The table of tolerances: every entry has a reason and is used, and no test writes a number at its use."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import tolerances
from tests.tolerances import Tolerance

TESTS = Path(__file__).parent
TABLE = {name: value for name, value in vars(tolerances).items() if isinstance(value, Tolerance)}
FILES = sorted(path for path in TESTS.rglob("*.py") if path.name != "tolerances.py")


@pytest.mark.parametrize("name", TABLE)
def test_a_reason(name: str) -> None:
    assert TABLE[name] > 0
    assert len(TABLE[name].reason) > 20


def test_numpy_takes_it_as_a_number() -> None:
    np.testing.assert_allclose(1 + 1e-5, 1, rtol=0, atol=tolerances.GRAPH)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(1 + 2e-4, 1, rtol=0, atol=tolerances.GRAPH)


def test_every_entry_is_used() -> None:
    imported = {
        alias.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "tests.tolerances"
        for alias in node.names
    }
    assert set(TABLE) - imported == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_number_at_its_use(path: Path) -> None:
    assert list(_numbers(ast.parse(path.read_text(encoding="utf-8")))) == []


def _numbers(tree: ast.AST) -> Iterator[str]:
    """The places of `atol=` and `rtol=` that have a number other than 0 in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("atol", "rtol"):
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant) and isinstance(part.value, int | float) and part.value:
                    yield f"line {node.lineno}: {node.arg}={ast.unparse(node.value)}"
