"""Which compiled shapes stay, over all graphs: memory and compilations are made up, so that every case is exact."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

import pytest

from kandinsky_runtime.engines.openvino import compiled_shapes as module
from kandinsky_runtime.engines.openvino.compiled_shapes import CompiledShapes

MEGABYTE = 1 << 20


class Machine:
    """A machine of so much memory, and the process's share of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, megabytes: float | None = None) -> None:
        self.size = megabytes
        self.compiled: list[str] = []
        self.grows = 100.0
        self.used = 0.0
        monkeypatch.setattr(module, "anonymous_memory", lambda: int(self.used * MEGABYTE))
        monkeypatch.setattr(module, "free_memory", self._free)
        monkeypatch.setattr(module, "_all", WeakSet())

    def _free(self) -> int | None:
        return None if self.size is None else int((self.size - self.used) * MEGABYTE)

    def compile(self, name: str) -> Callable[[], str]:
        def compiled() -> str:
            self.compiled.append(name)
            self.used += self.grows
            return name

        return compiled

    def run(self, graph: CompiledShapes[str], *sides: int) -> None:
        for side in sides:
            assert graph.get(((side,),), self.compile(f"{graph.graph}{side}")) == f"{graph.graph}{side}"


def kept(*graphs: CompiledShapes[str]) -> list[str]:
    return sorted(name for graph in graphs for name in graph.values())


def test_the_least_recently_used_shape_is_dropped_when_the_limit_would_be_exceeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch)
    graph = CompiledShapes[str]("unet", 300 * MEGABYTE, 0)
    machine.run(graph, 1, 2, 3)
    assert kept(graph) == ["unet1", "unet2", "unet3"]
    machine.run(graph, 1, 4)
    assert kept(graph) == ["unet1", "unet3", "unet4"]
    assert machine.compiled == ["unet1", "unet2", "unet3", "unet4"]


def test_the_limit_is_for_all_graphs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    first, second = (CompiledShapes[str](name, 300 * MEGABYTE, 0) for name in ("a", "b"))
    machine.run(first, 1, 2)
    machine.run(second, 1)
    machine.run(first, 1)
    machine.run(second, 2)
    assert kept(first, second) == ["a1", "b1", "b2"]


def test_each_graph_keeps_its_last_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    first, second = (CompiledShapes[str](name, 1, 0) for name in ("a", "b"))
    machine.run(first, 1, 2)
    machine.run(second, 1, 2)
    assert kept(first, second) == ["a2", "b2"]


def test_by_default_a_shape_may_take_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, megabytes=650)
    graph = CompiledShapes[str]("a", None, 0)
    machine.run(graph, 1, 2, 3, 4, 5)
    assert kept(graph) == ["a1", "a2", "a3", "a4", "a5"], "150 MB are left"
    machine.run(graph, 6)  # of which a shape may take 75
    assert kept(graph) == ["a2", "a3", "a4", "a5", "a6"]


@pytest.mark.parametrize("megabytes", [1, None])
def test_by_default_two_shapes_stay_in_any_case(monkeypatch: pytest.MonkeyPatch, megabytes: float | None) -> None:
    """Two shapes may take turns at each step of the prior."""
    machine = Machine(monkeypatch, megabytes)
    graph = CompiledShapes[str]("prior", None, 0)
    machine.run(graph, 1, 2, 3, 2, 3)
    assert kept(graph) == ["prior2", "prior3"]
    assert machine.compiled == ["prior1", "prior2", "prior3"]


def test_a_shape_in_memory_that_was_freed_before_costs_as_much_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    graph = CompiledShapes[str]("a", 250 * MEGABYTE, 0)
    machine.run(graph, 1)
    machine.grows = 0
    machine.run(graph, 2, 3)
    assert graph.cost == 100 * MEGABYTE
    assert kept(graph) == ["a2", "a3"]


def test_where_memory_cannot_be_measured_the_guess_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    monkeypatch.setattr(module, "anonymous_memory", lambda: None)
    graph = CompiledShapes[str]("a", 250 * MEGABYTE, 120 * MEGABYTE)
    machine.run(graph, 1, 2, 3)
    assert kept(graph) == ["a2", "a3"]


def test_a_shape_that_is_dropped_and_compiled_again_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(monkeypatch)
    graph = CompiledShapes[str]("unet", 150 * MEGABYTE, 0)
    machine.run(graph, 1, 2)
    assert not caplog.records
    machine.run(graph, 1, 2, 1)
    (record,) = caplog.records
    assert record.message == (
        "unet is compiled again for a shape that was dropped, because its 100 MB would exceed the memory for compiled"
        " shapes: give more with --shape-memory, or fewer sizes"
    )


def test_graphs_that_are_gone_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    gone, graph = (CompiledShapes[str](name, 200 * MEGABYTE, 0) for name in ("a", "b"))
    machine.run(gone, 1)
    gone.clear()
    machine.run(graph, 1, 2)
    assert len(graph) == 2
