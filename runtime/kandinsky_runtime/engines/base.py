"""What every engine shares: options, lifetime, and one checked `run()` over a private `_run()` per vendor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import EngineError, NonFiniteError, UsageError
from kandinsky_runtime.spec import GraphSpec

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs a graph.

    Attributes:
        device: the device's name as the engine's library knows it, "cpu" everywhere.
        threads: threads within one operation; None takes every core that the process may use.
    """

    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}; it must be at least 1")

    @property
    def thread_count(self) -> int:
        """The number of threads to ask the library for."""
        if self.threads is not None:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Engine(ABC):
    """One compiled graph, loaded.

    A subclass names its library and the variants it runs, opens the graph in `_open` and runs it in `_run`. It imports
    its vendor's library in those methods only.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    """The module to import, which tells whether the engine is installed."""
    distribution: ClassVar[str]
    """What to install, as pip knows it."""
    variants: ClassVar[Mapping[str, str]]
    """The bundle's variant for each precision, the default precision first."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def __init__(self, component: str, spec: GraphSpec, files: Mapping[str, Path], options: EngineOptions) -> None:
        """Load a graph.

        Args:
            component: its name, for errors.
            spec: its signature.
            files: the variant's files by role.
            options: device and threads.

        Raises:
            UsageError: the engine does not know the device.
            EngineError: the library could not load the graph.
        """
        if options.device not in self.devices:
            raise UsageError(f"engine {self.name} runs on {', '.join(self.devices)}; got device {options.device!r}")
        self.component = component
        self.spec = spec
        self._open(files, options)

    @classmethod
    def installed(cls) -> bool:
        """Whether the library can be imported, found out without importing it."""
        return importlib.util.find_spec(cls.library) is not None

    @classmethod
    def version(cls) -> str:
        """The version of the installed library."""
        return importlib.metadata.version(cls.distribution)

    def run(self, feeds: Arrays, *, during: str = "") -> dict[str, npt.NDArray[np.float32]]:
        """Run the graph.

        Args:
            feeds: every input by name, as the signature says.
            during: what the run is part of ("step 3 of 50"), for errors.

        Returns:
            Every output by name, of the shape that the signature gives.

        Raises:
            TensorError: a feed does not fit the signature.
            EngineError: the library failed, or returned another shape than the signature says.
            NonFiniteError: an output has NaN or infinity.
        """
        sizes = self.spec.check(feeds)
        outputs = self._run({name: np.ascontiguousarray(array) for name, array in feeds.items()})
        for spec in self.spec.outputs:
            where = f"{self.component} on {self.name}{f', {during}' if during else ''}"
            array = outputs[spec.name]
            if array.shape != spec.shape(sizes):
                raise EngineError(f"{where}: `{spec.name}` came out as {array.shape}; expected {spec.shape(sizes)}")
            if not np.isfinite(array).all():
                raise NonFiniteError(
                    f"{where}: `{spec.name}` has NaN or infinity; the checkpoint, the embeddings or the precision"
                    " cannot be right"
                )
        return outputs

    def close(self) -> None:
        """Release the graph's memory; the engine cannot run afterwards."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        """Load the graph; the library's own errors become EngineError."""

    @abstractmethod
    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run the graph on feeds that were checked and are contiguous."""
