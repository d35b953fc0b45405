"""The graphs of one bundle on one engine: each loaded when it is first needed, and released."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType

from kandinsky_runtime.bundle import Bundle
from kandinsky_runtime.checks import flag
from kandinsky_runtime.engines import AUTO, Selection, select
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.errors import UsageError


@dataclass(eq=False)
class Graphs:
    """A bundle's graphs on an engine; also a context manager, and safe to share between threads.

    Make one with `Graphs.open`. A graph stays loaded until `close`, or with `low_memory` until the phase that needs it
    is over.
    """

    bundle: Bundle
    selection: Selection
    options: EngineOptions
    low_memory: bool = False
    _loaded: dict[str, Engine] = field(default_factory=dict, init=False, repr=False)
    _checked: set[str] = field(default_factory=set, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _one_run: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _runner: int | None = field(default=None, init=False, repr=False)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        engine: str = AUTO,
        precision: str | None = None,
        device: str = EngineOptions.device,
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
        options = EngineOptions(device=device, threads=threads)
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        selection = select(opened.manifest, engine, precision, device)
        graphs = cls(opened, selection, replace(options, precision=selection.precision), flag("low_memory", low_memory))
        graphs._check(check, progress=progress)
        return graphs

    def engine(self, component: str) -> Engine:
        """The loaded graph of a component.

        Raises:
            BundleError: the bundle has no such component.
            EngineError: it could not be loaded.
        """
        with self._lock:
            if component not in self._loaded:
                entry = self.bundle.component(component)
                self._check([component])
                files = self.bundle.paths(entry.variants[self.selection.variant])
                self._loaded[component] = self.selection.engine(component, entry.spec, files, self.options)
            return self._loaded[component]

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
        """Release what a phase used, where memory is short; the next run loads it again."""
        if self.low_memory:
            self._release(components)

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
