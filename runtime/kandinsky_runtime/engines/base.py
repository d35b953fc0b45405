"""What every engine shares: options, lifetime, and one checked `run()` over a private `_run()` per vendor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.spec import GraphSpec, TensorSpec
from kandinsky_runtime.checks import whole_number
from kandinsky_runtime.engines import records
from kandinsky_runtime.engines.cuda import cuda_index
from kandinsky_runtime.engines.records import BuildRecord
from kandinsky_runtime.errors import (
    EngineError,
    EngineNotBuilt,
    EngineUnavailable,
    Kandinsky22Error,
    NonFiniteError,
    UsageError,
)

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs a graph.

    Attributes:
        device: the device's name as the engine knows it: "cpu" everywhere, "cuda" or "cuda:N" for an NVIDIA GPU.
        threads: threads within one operation; None takes every core that the process may use.
        precision: what the graph computes in, one of the engine's.

    Raises:
        UsageError: a value that cannot be meant.
    """

    device: str = "cpu"
    threads: int | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if not isinstance(self.device, str):
            raise UsageError(f"device is {self.device!r}; expected a name such as 'cpu'")
        if self.threads is not None:
            whole_number("threads", self.threads, 1)

    @property
    def thread_count(self) -> int:
        """The number of threads to ask the library for."""
        if self.threads is not None:
            return int(self.threads)
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Engine(ABC):
    """One compiled graph, loaded. It may be used by several threads: its runs follow one another.

    A subclass names its library and the variants it runs, opens the graph in `_open`, runs it in `_run` and lets go of
    it in `_release`. It imports its vendor's library in those methods only; whatever the library raises there becomes
    an EngineError.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    """The module to import, which tells whether the engine is installed."""
    distribution: ClassVar[str]
    """What to install, as pip knows it."""
    variants: ClassVar[Mapping[str, str]]
    """The bundle's variant for each precision that the engine computes in."""
    stand_ins: ClassVar[Mapping[str, str]] = {}
    """The variant that it takes for a precision where a bundle lacks the one in `variants`."""
    roles: ClassVar[tuple[str, ...]] = ()
    """The roles of the files that it needs of a variant."""
    needs_build: ClassVar[bool] = False
    """Whether it runs only what `k22 build` made."""
    automatic: ClassVar[bool] = True
    """Whether "auto" may take it."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    """The devices that it knows; "cuda" stands for "cuda:0", "cuda:1" and so on, too. The first is taken where none is
    asked for."""

    def __init__(
        self,
        component: str,
        spec: GraphSpec,
        files: Mapping[str, Path],
        options: EngineOptions,
        digests: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Load a graph.

        Args:
            component: its name, for errors.
            spec: its signature.
            files: the variant's files by role.
            options: device and threads.
            digests: the files' sha256 by role, where they are known; what was built of them is found by it.

        Raises:
            UsageError: the engine does not know the device, or not the precision on it.
            EngineUnavailable: the library cannot be imported.
            EngineError: a file is missing, or the library could not load the graph.
        """
        self.check_device(options.device)
        self.check_precision(options.precision, options.device)
        self.component = component
        self.spec = spec
        self.digests = digests
        self._lock = threading.Lock()
        self._closed = False
        if missing := [role for role in self.roles if role not in files]:
            raise EngineError(
                f"engine {self.name} needs the files {', '.join(self.roles)} of {component}; the bundle's variant has"
                f" no {', '.join(missing)}: export the bundle again"
            )
        try:
            self._check_build(options.device)
            self._open(files, options)
        except Kandinsky22Error:
            raise
        except ImportError as error:
            raise self._cannot_import(error, options.device) from error
        except Exception as error:  # vendors raise nearly anything
            raise EngineError(f"{component} cannot be loaded by {self.name}: {_text(error)}") from error

    @classmethod
    def installed(cls) -> bool:
        """Whether the library can be imported, found out without importing it."""
        try:
            return importlib.util.find_spec(cls.library) is not None
        except (ImportError, ValueError):  # a parent package that is missing or broken
            return False

    @classmethod
    def version(cls) -> str:
        """The version of the installed library; "unknown" where its package does not tell."""
        try:
            return importlib.metadata.version(cls.distribution)
        except importlib.metadata.PackageNotFoundError:  # a build of it under another name
            owners = importlib.metadata.packages_distributions().get(cls.library.partition(".")[0], [])
            return importlib.metadata.version(owners[0]) if owners else "unknown"

    @classmethod
    def variants_for(cls, precision: str) -> tuple[str, ...]:
        """The bundle's variants that it can run in `precision`, the best first."""
        stand_in = cls.stand_ins.get(precision)
        return (cls.variants[precision], *([] if stand_in is None else [stand_in]))

    @classmethod
    def precisions(cls, device: str) -> tuple[str, ...]:
        """The precisions that it computes in on `device`: those of `variants`."""
        return tuple(cls.variants)

    @classmethod
    def preferred_precisions(cls, device: str) -> tuple[str, ...]:
        """The precisions to take where none is asked for, the best first: all, in the order of `variants`."""
        return cls.precisions(device)

    @classmethod
    def requirement(cls, device: str) -> str:
        """What to install for `device`, as pip knows it."""
        return cls.distribution

    @classmethod
    def check_device(cls, device: str) -> None:
        """Raise UsageError if the engine does not run on `device`."""
        known = device in cls.devices or ("cuda" in cls.devices and cuda_index(device) is not None)
        if not known:
            raise UsageError(f"engine {cls.name} runs on {', '.join(cls.devices)}; got device {device!r}")

    @classmethod
    def check_precision(cls, precision: str, device: str) -> None:
        """Raise UsageError if the engine does not compute in `precision` on `device`."""
        if precision not in (able := cls.precisions(device)):
            where = "" if able == tuple(cls.variants) else f" on {device}"
            raise UsageError(f"engine {cls.name} runs {', '.join(able)}{where}; got precision {precision!r}")

    @classmethod
    def check_library(cls, device: str) -> None:
        """Raise EngineUnavailable if the library is not installed, or was built without what `device` needs."""
        if not cls.installed():
            raise EngineUnavailable(f"engine {cls.name} is not installed: pip install {cls.requirement(device)}")
        try:
            cls._check_build(device)
        except ImportError as error:
            raise cls._cannot_import(error, device) from error

    @classmethod
    def check_built(cls, component: str, digests: Mapping[str, str]) -> None:
        """Check that an engine that needs a build has one.

        Args:
            component: the graph's name.
            digests: the sha256 of the variant's files by role.

        Raises:
            EngineNotBuilt: nothing was built of this graph here.
        """
        if cls.needs_build:
            cls.built(component, digests)

    @classmethod
    def built(cls, component: str, digests: Mapping[str, str]) -> BuildRecord:
        """What `k22 build` made of a graph for the engine; arguments and errors as for `check_built`."""
        record = records.find(cls.name, component, digests)
        if record is None:
            raise EngineNotBuilt(
                f"engine {cls.name} runs what was built for it, and nothing of this bundle was, here ({component}):"
                f" k22 build BUNDLE --engine {cls.name}"
            )
        return record

    def run(self, feeds: Arrays, *, during: str = "") -> dict[str, npt.NDArray[np.float32]]:
        """Run the graph.

        Args:
            feeds: every input by name, as the signature says; never modified.
            during: what the run is part of ("step 3 of 50"), for errors.

        Returns:
            Every output by name, of the dtype and shape that the signature gives.

        Raises:
            TensorError: a feed does not fit the signature.
            EngineError: the engine is closed, the library failed, or it returned other tensors than the signature says.
            NonFiniteError: an output has NaN or infinity.
        """
        where = f"{self.component} on {self.name}{during and f', {during}'}"
        sizes = self.spec.check(feeds, subject=where)
        contiguous = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        with self._lock:
            if self._closed:
                raise EngineError(f"{where}: the engine is closed; load the graph again")
            try:
                outputs = self._run(contiguous)
            except Kandinsky22Error:
                raise
            except Exception as error:  # vendors raise nearly anything
                raise EngineError(f"{where} failed: {_text(error)}") from error
        for spec in self.spec.outputs:
            _check_output(where, spec, outputs.get(spec.name), spec.shape(sizes))
        return outputs

    def trim(self) -> None:
        """Give back the memory that runs computed in; the next run takes it again. A run in progress keeps its own."""
        if self._lock.acquire(blocking=False):
            try:
                if not self._closed:
                    self._trim()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Release the graph's memory, after a run in progress; the engine cannot run afterwards."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._release()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @classmethod  # noqa: B027
    def _check_build(cls, device: str) -> None:
        """Raise EngineUnavailable if the installed library was built without what `device` needs; may import it.

        Most engines have nothing to check.
        """

    @classmethod
    def _cannot_import(cls, error: ImportError, device: str) -> EngineUnavailable:
        return EngineUnavailable(
            f"engine {cls.name}: {cls.library} cannot be imported ({error}): pip install {cls.requirement(device)}"
        )

    @abstractmethod
    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        """Load the graph."""

    @abstractmethod
    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run the graph on feeds that were checked and are contiguous; no later run may change what it returns."""

    def _trim(self) -> None:  # noqa: B027
        """Give back what runs computed in; most engines keep nothing that can be given back alone."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of the graph; called once."""


def _check_output(where: str, spec: TensorSpec, array: object, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray):
        raise EngineError(f"{where}: returned no `{spec.name}`; the bundle's manifest does not fit its graph")
    if array.shape != shape or array.dtype != spec.dtype:
        raise EngineError(
            f"{where}: `{spec.name}` came out as {array.dtype} {array.shape}; expected {spec.dtype} {shape}"
        )
    if not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise NonFiniteError(
            f"{where}: {bad:,} of the {array.size:,} values of `{spec.name}` are NaN or infinite; the checkpoint, the"
            " embeddings or the precision cannot be right"
        )


def _text(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
