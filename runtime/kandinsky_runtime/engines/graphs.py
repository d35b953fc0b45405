"""The graphs of one bundle on one engine: each loaded when it is first needed, and released."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.checks import flag
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.engines.registry import AUTO, Selection, select
from kandinsky_runtime.errors import EngineError, EngineUnavailable, UsageError

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Graphs:
    """A bundle's graphs on an engine; also a context manager, and safe to share between threads.

    Make one with `Graphs.open`. A graph stays loaded until `close`, or with `low_memory` until the phase that needs it
    is over. Where the engine was chosen automatically and cannot load a graph (its library is too old, its device
    absent or out of memory), every graph moves to the next best engine, and a warning says so.
    """

    bundle: Bundle
    selection: Selection
    threads: int | None = None
    low_memory: bool = False
    next_best: Callable[[Collection[str]], Selection] | None = None
    """What else can run the bundle, given the engines that failed; None where the engine was named."""
    _loaded: dict[str, Engine] = field(default_factory=dict, init=False, repr=False)
    _checked: set[str] = field(default_factory=set, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _one_run: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _failed: list[str] = field(default_factory=list, init=False, repr=False)
    _runner: int | None = field(default=None, init=False, repr=False)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        engine: str = AUTO,
        precision: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        *,
        check: Iterable[str] = (),
        low_memory: bool = False,
        progress: bool = False,
    ) -> Graphs:
        """Open a bundle and choose the engine.

        Args:
            check: components whose files' content is checked now; the others' is when they are loaded.

        The other arguments, and the errors, are those of `InpaintPipeline.load`.
        """
        # What cannot be meant is told before anything is read.
        EngineOptions(EngineOptions.device if device is None else device, threads)
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)

        def chosen(without: Collection[str] = ()) -> Selection:
            return select(opened.manifest, engine, precision, device, without=without)

        graphs = cls(opened, chosen(), threads, flag("low_memory", low_memory), chosen if engine == AUTO else None)
        graphs._check(check, progress=progress)
        return graphs

    @property
    def options(self) -> EngineOptions:
        """Device, threads and precision."""
        return EngineOptions(self.selection.device, self.threads, self.selection.precision)

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
                    self._move_on(error)
            return self._loaded[component]

    def _load(self, component: str) -> Engine:
        entry = self.bundle.component(component)
        self._check([component])
        variant = entry.variants[self.selection.variant]
        files, digests = self.bundle.paths(variant), self.bundle.manifest.digests(variant)
        return self.selection.engine(component, entry.spec, files, self.options, digests)

    def _move_on(self, error: EngineError) -> None:
        """Take the next best engine, for every graph; raise the error where there is none."""
        if self.next_best is None:
            raise error
        self._failed.append(failed := self.selection.engine.name)
        try:
            self.selection = self.next_best(self._failed)
        except EngineUnavailable:
            raise error from None
        _log.warning("%s; engine %s takes the place of %s", error, self.selection.engine.name, failed)
        for engine in self._loaded.values():
            engine.close()
        self._loaded.clear()
        self._checked.clear()

    def _check(self, components: Iterable[str], *, progress: bool = False) -> None:
        """Compare the content of the files that the engine will read with the manifest, once."""
        unread = [name for name in components if name not in self._checked]
        variants = [self.bundle.component(name).variants[self.selection.variant] for name in unread]
        self.bundle.check_content(variants, progress=progress)
        self._checked.update(unread)

    def load(self, components: Iterable[str]) -> None:
        """Load graphs before work begins, so that what cannot be loaded is told at once; not with `low_memory`."""
        if not self.low_memory:
            for component in components:
                self.engine(component)

    @contextmanager
    def run(self) -> Iterator[None]:
        """What a run has to hold: with `low_memory`, runs follow one another, and no graph outlives its run.

        Raises:
            UsageError: with `low_memory`, by a run that is started within another, as from its callback.
        """
        if not self.low_memory:
            yield
            return
        if self._runner == threading.get_ident():
            raise UsageError("low_memory: this thread is in the middle of a run; start the next one after it")
        with self._one_run:
            self._runner = threading.get_ident()
            try:
                yield
            finally:
                self._runner = None
                self.close()

    def phase_over(self, *components: str) -> None:
        """Give back what a phase used: its graphs where memory is short, to be loaded again by the next run; elsewhere
        what they computed in."""
        if self.low_memory:
            self._release(components)
            return
        with self._lock:
            loaded = [engine for component in components if (engine := self._loaded.get(component)) is not None]
        for engine in loaded:
            engine.trim()

    def close(self) -> None:
        """Release every loaded graph, after a run in progress; the next run loads them again."""
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
