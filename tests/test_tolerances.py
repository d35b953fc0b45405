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


@pytest.mark.parametrize(
    "code",
    [
        "np.testing.assert_allclose(got, 3, rtol=0, atol=1e-5)",
        "np.testing.assert_allclose(got, 3, rtol=2 * GRAPH)",
        "np.allclose(got, 3, 1e-5)",
        "assert got == pytest.approx(3, abs=1)",
        "assert got == pytest.approx(3, rel=-(-1e-9))",
        "assert got == approx(3, 1e-9)",
        "assert abs(got - 3) < 1e-5",
        "assert 0 < abs(got - 3) <= step + 0.01",
        "assert 1e-5 >= abs(got - 3)",
    ],
)
def test_a_number_is_found(code: str) -> None:
    assert list(_numbers(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "np.testing.assert_allclose(got, 1e-5, rtol=0, atol=GRAPH * scale)",
        "assert got == pytest.approx(1e-5, rel=0, abs=GRAPH)",
        "assert got == pytest.approx(1e-5)",
        "assert abs(got - 3) <= GRAPH",
        "assert 0.01 < got < 0.02",
        "assert got == 1e-5",
        "assert 0.5 > abs(got - 3) > 1e-5",
    ],
)
def test_other_numbers_are_left_alone(code: str) -> None:
    assert list(_numbers(ast.parse(code))) == []


TOLERANCE_KEYWORDS = ("atol", "rtol", "abs", "rel")
FIRST_TOLERANCE = {"allclose": 2, "assert_allclose": 2, "isclose": 2, "approx": 1}
"""The place of the first tolerance among the arguments of each function."""
SMALL = 0.01
"""A float of this size or below as an upper limit is a tolerance; larger ones limit shares and seconds."""


def _numbers(tree: ast.AST) -> Iterator[str]:
    """The places of tolerances that have a number other than 0 in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for argument in _tolerances(node):
                if any(_constants(argument)):
                    yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Compare):
            for limit in _upper_limits(node):
                if any(isinstance(number, float) and number <= SMALL for number in _constants(limit)):
                    yield f"line {node.lineno}: {ast.unparse(node)}"


def _tolerances(call: ast.Call) -> Iterator[ast.expr]:
    name = ast.unparse(call.func).rpartition(".")[2]
    yield from call.args[FIRST_TOLERANCE.get(name, len(call.args)) :]
    for keyword in call.keywords:
        if keyword.arg in TOLERANCE_KEYWORDS:
            yield keyword.value


def _upper_limits(comparison: ast.Compare) -> Iterator[ast.expr]:
    sides = [comparison.left, *comparison.comparators]
    for left, operator, right in zip(sides, comparison.ops, sides[1:], strict=False):
        if isinstance(operator, ast.Lt | ast.LtE):
            yield right
        elif isinstance(operator, ast.Gt | ast.GtE):
            yield left


def _constants(expression: ast.expr) -> Iterator[float]:
    """The numbers in an expression, but for 0."""
    for part in ast.walk(expression):
        if isinstance(part, ast.Constant) and isinstance(part.value, int | float) and part.value:
            yield part.value
