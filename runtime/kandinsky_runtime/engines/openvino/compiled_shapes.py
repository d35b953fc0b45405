"""The compiled shapes that stay in memory: as many as a limit allows, over all graphs of the process.

The processor's kernels read weights in their own layout, so each compiled shape has a copy of most weights. What one
costs is measured: the growth of the process's memory while it is compiled. The shape that was used least recently is
dropped first.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

from kandinsky_runtime.engines.free_memory import anonymous_memory, free_memory

Item = TypeVar("Item")
Shapes = tuple[tuple[int, ...], ...]

# Without a limit of the user, a new shape may take this share of the memory that is free.
_SHARE = 0.5
# And so many shapes of a graph stay in any case: a step of the prior may use two in turn.
_LEAST_BY_DEFAULT = 2
_LEAST = 1

_log = logging.getLogger(__name__)
_lock = threading.RLock()
# One graph is compiled at a time, so that what it costs can be measured.
_one_compilation = threading.Lock()
_clock = count()
_all: weakref.WeakSet[CompiledShapes[object]] = weakref.WeakSet()


class CompiledShapes(Generic[Item]):
    """The compiled shapes of one graph.

    Args:
        graph: the graph's name, for messages.
        limit: the bytes that the shapes of all graphs may take together; None for a share of the free memory.
        guess: the bytes of one shape, used until one was measured.
        measurable: whether a shape is in the process's memory; if not, `guess` is taken.
    """

    def __init__(self, graph: str, limit: int | None, guess: int, *, measurable: bool = True) -> None:
        self.graph = graph
        self.cost = guess
        self._limit = limit
        self._measurable = measurable
        self._measured = 0
        self._items: OrderedDict[Shapes, Item] = OrderedDict()
        self._used: dict[Shapes, int] = {}
        self._dropped: set[Shapes] = set()
        self._reported = False
        with _lock:
            _all.add(self)  # type: ignore[arg-type]

    def get(self, shapes: Shapes, compile_shapes: Callable[[], Item]) -> Item:
        """What was compiled for these shapes; compiled now if it is not kept.

        Shapes that would exceed the limit together with it are dropped before. Whoever still runs one keeps it alive.
        """
        with _lock:
            if shapes in self._items:
                self._used[shapes] = next(_clock)
                return self._items[shapes]
        self._report(shapes)
        with _one_compilation:
            self._make_room(self.cost)
            before = anonymous_memory()
            item = compile_shapes()
            after = anonymous_memory()
        with _lock:
            if self._measurable and before is not None and after is not None:
                # Freed memory is used again, so that a later shape may seem to cost nothing.
                self.cost = self._measured = max(self._measured, after - before, 0)
            self._items[shapes] = item
            self._used[shapes] = next(_clock)
            self._make_room(0)
        return item

    def values(self) -> list[Item]:
        """What is kept."""
        with _lock:
            return list(self._items.values())

    def clear(self) -> None:
        """Drop everything."""
        with _lock:
            self._items.clear()
            self._used.clear()

    def __len__(self) -> int:
        with _lock:
            return len(self._items)

    def _make_room(self, wanted: int) -> None:
        """Drop shapes, the least recently used one first, until `wanted` bytes more are within the limit.

        Args:
            wanted: the bytes of a shape of this graph that is compiled next; 0 if there is none.
        """
        with _lock:
            allowed = self._allowed()
            while _held() + wanted > allowed:
                droppable = [
                    (graph._used[shapes], graph, shapes)
                    for graph in _all
                    if len(graph._items) + (graph is self and wanted > 0) > self._least
                    for shapes in graph._items
                ]
                if not droppable:
                    return
                _, graph, shapes = min(droppable, key=lambda item: item[0])
                del graph._items[shapes], graph._used[shapes]
                graph._dropped.add(shapes)

    @property
    def _least(self) -> int:
        """The number of shapes of a graph that always stay."""
        return _LEAST_BY_DEFAULT if self._limit is None else _LEAST

    def _allowed(self) -> int:
        """The bytes that the shapes of all graphs may take."""
        if self._limit is not None:
            return self._limit
        return _held() + int((free_memory() or 0) * _SHARE)

    def _report(self, shapes: Shapes) -> None:
        """Log, once for a graph, that a shape is compiled again because it was dropped."""
        if shapes in self._dropped and not self._reported:
            self._reported = True
            _log.warning(
                "%s is compiled again for a shape that was dropped, because its %d MB would exceed the memory for"
                " compiled shapes: give more with --shape-memory, or fewer sizes",
                self.graph,
                self.cost >> 20,
            )


def _held() -> int:
    """The bytes that the shapes of all graphs take."""
    return sum(len(graph) * graph.cost for graph in _all)
