"""The graphs of one bundle on one engine: each is loaded when it is first needed, and freed at the end."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.checks import flag, memory_size
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.engines.registry import AUTO, Selection, for_component, select
from kandinsky_runtime.errors import EngineError, EngineUnavailable, UsageError

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Graphs:
    """A bundle's graphs on an engine; also a context manager, and safe to share between threads.

    Make one with `Graphs.open`. A graph stays loaded until `close`, or with `low_memory` until the end of the phase
    that needs it. An engine that was chosen automatically may be unable to load a graph: its library is too old, or the
    device is absent or out of memory. Then the next best engine runs every graph, and a warning is logged.

    Attributes:
        bundle: the opened bundle.
        selection: the engine, and what it runs of the decoder, or of the graphs that `open` was given.
        threads: the number of threads within one operation; None for all cores.
        shape_memory: the bytes for compiled shapes; None for a share of the free memory, or for an engine without them.
        low_memory: whether one graph is loaded at a time.
        next_best: a function from the names of the engines that failed to the next selection; None for an engine that
            was requested by name.
    """

    bundle: Bundle
    selection: Selection
    threads: int | None = None
    low_memory: bool = False
    next_best: Callable[[Collection[str]], Selection] | None = None
    shape_memory: int | None = None
    _loaded: dict[str, Engine] = field(default_factory=dict, init=False, repr=False)
    _checked: set[str] = field(default_factory=set, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _one_run: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _failed: list[str] = field(default_factory=list, init=False, repr=False)
    _runner: int | None = field(default=None, init=False, repr=False)
    _runs: int = field(default=0, init=False, repr=False)
    _close_after_runs: bool = field(default=False, init=False, repr=False)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        engine: str = AUTO,
        precision: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        *,
        components: Collection[str] | None = None,
        check: Iterable[str] = (),
        low_memory: bool = False,
        shape_memory: int | str | None = None,
        trust_bundle: bool = False,
        progress: bool = False,
    ) -> Graphs:
        """Open a bundle and choose the engine.

        Args:
            components: the graphs that the engine must be able to run; None for all of the bundle's. Another graph, if
                it lacks the variant that these run in, runs in another one (`registry.for_component`).
            check: the graphs whose files are checked now; the files of the others are checked when they are loaded.

        The other arguments, and the errors, are those of `InpaintPipeline.load`.
        """
        # Invalid values are refused before anything is read.
        EngineOptions(EngineOptions.device if device is None else device, threads)
        room = None if shape_memory is None else memory_size("shape_memory", shape_memory)
        opened = Bundle.of(bundle, trust=trust_bundle)
        needed = tuple(opened.manifest.components) if components is None else components

        def choose(without: Collection[str] = ()) -> Selection:
            found = select(opened.manifest, engine, precision, device, components=needed, without=without)
            if room is not None and not found.engine.keeps_shapes:
                raise UsageError(
                    f"shape_memory is for engines that keep compiled shapes, such as openvino; engine"
                    f" {found.engine.name} keeps none: leave it out, or choose another engine"
                )
            return found

        lean, next_best = flag("low_memory", low_memory), choose if engine == AUTO else None
        graphs = cls(opened, choose(), threads, lean, next_best, room)
        graphs._check(check, progress=progress)
        return graphs

    @property
    def options(self) -> EngineOptions:
        """Device, threads and precision of `selection`."""
        return self._options(self.selection)

    def engine(self, component: str) -> Engine:
        """The loaded graph of a component.

        Raises:
            BundleError: the bundle has no such component.
            EngineError: it could not be loaded.
        """
        with self._lock:
            while component not in self._loaded:
                try:
                    self._loaded[component] = self._load(component)
                except EngineError as error:
                    self._fall_back(error)
            return self._loaded[component]

    def _load(self, component: str) -> Engine:
        entry, selection = self.bundle.component(component), self._selection(component)
        self._check([component])
        if selection != self.selection:
            _log.warning(
                "%s has no variant %s: it runs %s in %s",
                component, self.selection.variant, selection.variant, selection.precision,
            )  # fmt: skip
        variant = entry.variants[selection.variant]
        files, digests = self.bundle.paths(variant), self.bundle.manifest.digests(variant)
        return selection.engine(component, entry.spec, files, self._options(selection), digests)

    def _selection(self, component: str) -> Selection:
        return for_component(self.selection, self.bundle.manifest, component)

    def _options(self, selection: Selection) -> EngineOptions:
        return EngineOptions(selection.device, self.threads, selection.precision, self.shape_memory)

    def _fall_back(self, error: EngineError) -> None:
        """Run every graph on the next best engine; raise the error if there is none."""
        if self.next_best is None:
            raise error
        self._failed.append(failed := self.selection.engine.name)
        try:
            self.selection = self.next_best(self._failed)
        except (EngineUnavailable, UsageError):
            raise error from None
        _log.warning("%s; engine %s takes the place of %s", error, self.selection.engine.name, failed)
        for engine in self._loaded.values():
            engine.close()
        self._loaded.clear()
        self._checked.clear()

    def _check(self, components: Iterable[str], *, progress: bool = False) -> None:
        """Compare the files that the engine will read with the manifest, each only once."""
        unread = [name for name in components if name not in self._checked]
        variants = [self.bundle.component(name).variants[self._selection(name).variant] for name in unread]
        self.bundle.check_content(variants, progress=progress)
        self._checked.update(unread)

    def load(self, components: Iterable[str]) -> None:
        """Load graphs before work begins, so that an error comes at once. With `low_memory`, do nothing."""
        if not self.low_memory:
            for component in components:
                self.engine(component)

    @contextmanager
    def run(self) -> Iterator[None]:
        """The context of a run. With `low_memory`, runs follow one another, and every graph is freed at the end.

        Raises:
            UsageError: with `low_memory`, a run was started within another one, for example by its callback.
        """
        if self._runner == threading.get_ident():
            raise UsageError("low_memory: this thread is in the middle of a run; start the next one after it")
        with self._one_run if self.low_memory else nullcontext():
            with self._lock:
                self._runs += 1
            self._runner = threading.get_ident() if self.low_memory else None
            try:
                yield
            finally:
                self._runner = None
                with self._lock:
                    self._runs -= 1
                    if self.low_memory or (self._close_after_runs and not self._runs):
                        self.close()

    def phase_over(self, *components: str) -> None:
        """Free what only this phase needed: its graphs with `low_memory`, else the memory for intermediate results."""
        if self.low_memory:
            self._release(components)
            return
        with self._lock:
            loaded = [engine for component in components if (engine := self._loaded.get(component)) is not None]
        for engine in loaded:
            engine.free_scratch_memory()

    def close(self) -> None:
        """Free every loaded graph; the next run loads them again.

        With a `run` in progress, return at once: the last such run frees the graphs at its end.
        """
        with self._lock:
            self._close_after_runs = self._runs > 0
            if not self._close_after_runs:
                self._release(tuple(self._loaded))

    def _release(self, components: tuple[str, ...]) -> None:
        with self._lock:
            for component in components:
                if (engine := self._loaded.pop(component, None)) is not None:
                    engine.close()

    def __enter__(self) -> Graphs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
