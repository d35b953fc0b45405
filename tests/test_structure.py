"""The house: no circle of imports, and no relative import that a search would miss.

The layers are import contracts in pyproject.toml; `scripts/check` holds them. Here every import counts, also those
inside functions and those for type checkers.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"kandinsky_runtime": ROOT / "runtime", "kandinsky_export": ROOT / "export"}


def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for file in (folder / package).rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """The project's modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import; write the module's full name"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= members & known.keys() or {str(node.module)}
    return found & known.keys()


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every way from a module back to itself, found by taking away modules that import none that is left."""
    left = {name: set(names) - {name} for name, names in graph.items()}
    while free := [name for name, names in left.items() if not names & left.keys()]:
        for name in free:
            del left[name]
    return [sorted(left)] if left else []


def test_no_circle_of_imports() -> None:
    known = modules()
    assert len(known) > 150
    graph = {name: imports(file, known) for name, file in known.items()}
    assert sum(map(len, graph.values())) > 400
    assert not circles(graph)


def test_the_runtime_never_imports_the_exporter() -> None:
    known = modules()
    for name, file in known.items():
        if name.startswith("kandinsky_runtime"):
            assert not [other for other in imports(file, known) if other.startswith("kandinsky_export")], name


@pytest.mark.parametrize("graph", [{"a": {"b"}, "b": {"a"}}, {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}])
def test_a_circle_would_be_found(graph: dict[str, set[str]]) -> None:
    assert circles(graph)
