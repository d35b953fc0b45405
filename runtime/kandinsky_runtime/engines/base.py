"""The base of every engine: options, lifetime, and one checked `run()` around each vendor's private `_run()`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec, TensorSpec
from kandinsky_runtime.engines import records
from kandinsky_runtime.engines.cuda import cuda_index
from kandinsky_runtime.engines.options import EngineOptions as EngineOptions
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


class Engine(ABC):
    """One compiled graph, loaded. Several threads may share it: its runs follow one another.

    A subclass names its library and the variants that it runs. It opens the graph in `_open`, runs it in `_run` and
    frees it in `_release`. It imports its vendor's library in those methods only. Whatever the library raises there
    becomes an EngineError.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    """The module to import. The engine is installed if the module can be found."""
    distribution: ClassVar[str]
    """The package to install, by its name for pip."""
    variants: ClassVar[Mapping[str, str]]
    """The bundle's variant for each `Precision` that the engine computes in."""
    fallback_variants: ClassVar[Mapping[str, str]] = {}
    """The second choice for a precision, for a bundle without the variant in `variants`."""
    roles: ClassVar[tuple[str, ...]] = ()
    """The roles of the variant's files that the engine needs."""
    needs_build: ClassVar[bool] = False
    """Whether the engine runs only what `k22 build` made."""
    keeps_shapes: ClassVar[bool] = False
    """Whether the engine keeps a compiled graph for each shape, within `EngineOptions.shape_memory`."""
    automatic: ClassVar[bool] = True
    """Whether the choice "auto" may be this engine."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    """The engine's devices, the default one first. "cuda" includes "cuda:0", "cuda:1" and so on."""
    device_aliases: ClassVar[Mapping[str, str]] = {}
    """The library's own names for devices, in lower case, with their names in `devices`."""

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
            component: the graph's name.
            spec: the graph's signature.
            files: the path of each of the variant's files by its role.
            options: device, threads and precision.
            digests: the sha256 of the files by role, if they are known. What `k22 build` made is found by them.

        Raises:
            UsageError: the engine does not run on the device, or not in this precision on it.
            EngineUnavailable: the library cannot be imported.
            EngineError: a file is missing, or the library could not load the graph.
        """
        options = replace(options, device=self.device_name(options.device))
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
            self._check_library_features(options.device)
            self._open(files, options)
        except Kandinsky22Error:
            raise
        except ImportError as error:
            raise self._cannot_import(error, options.device) from error
        except Exception as error:  # vendors raise nearly anything
            raise EngineError(f"{component} cannot be loaded by {self.name}: {_text(error)}") from error

    @classmethod
    def installed(cls) -> bool:
        """Whether the library can be found. Nothing is imported to find out."""
        try:
            return importlib.util.find_spec(cls.library) is not None
        except (ImportError, ValueError):  # a parent package that is missing or broken
            return False

    @classmethod
    def version(cls) -> str:
        """The version of the installed library; "unknown" if its package does not have one."""
        try:
            return importlib.metadata.version(cls.distribution)
        except importlib.metadata.PackageNotFoundError:  # another package may contain the library
            owners = importlib.metadata.packages_distributions().get(cls.library.partition(".")[0], [])
            return importlib.metadata.version(owners[0]) if owners else "unknown"

    @classmethod
    def variants_for(cls, precision: Precision) -> tuple[str, ...]:
        """The bundle's variants that the engine can run in `precision`, the best first."""
        fallback = cls.fallback_variants.get(precision)
        return (cls.variants[precision], *([] if fallback is None else [fallback]))

    @classmethod
    def precisions(cls, device: str) -> tuple[Precision, ...]:
        """The precisions that the engine computes in on `device`: those of `variants`."""
        return tuple(map(Precision, cls.variants))

    @classmethod
    def preferred_precisions(cls, device: str) -> tuple[Precision, ...]:
        """The precisions to choose from if the user names none, the best first: all, in the order of `variants`."""
        return cls.precisions(device)

    @classmethod
    def requirement(cls, device: str) -> str:
        """The package to install for `device`, by its name for pip."""
        return cls.distribution

    @classmethod
    def device_name(cls, device: str) -> str:
        """The spelling of a device in `devices`, for a name in any case or one of `device_aliases`.

        A number follows after a colon: "CUDA:1" is "cuda:1". An unknown name comes back unchanged.
        """
        kind, colon, number = device.lower().partition(":")
        name = cls.device_aliases.get(kind, kind) + colon + number
        if cuda_index(name) is not None and "cuda" in cls.devices:
            return name
        return next((known for known in cls.devices if known.lower() == name), device)

    @classmethod
    def check_device(cls, device: str) -> None:
        """Raise UsageError if the engine does not run on `device`, which has the spelling of `device_name`."""
        known = device in cls.devices or ("cuda" in cls.devices and cuda_index(device) is not None)
        if not known:
            raise UsageError(f"engine {cls.name} runs on {', '.join(cls.devices)}; got device {device!r}")

    @classmethod
    def check_precision(cls, precision: Precision, device: str) -> None:
        """Raise UsageError if the engine does not compute in `precision` on `device`."""
        if precision not in (able := cls.precisions(device)):
            where = "" if able == tuple(cls.variants) else f" on {device}"
            raise UsageError(f"engine {cls.name} runs {', '.join(able)}{where}; got precision {precision!r}")

    @classmethod
    def check_library(cls, device: str) -> None:
        """Raise EngineUnavailable if the library is not installed, or lacks what `device` needs."""
        if not cls.installed():
            raise EngineUnavailable(f"engine {cls.name} is not installed: pip install {cls.requirement(device)}")
        try:
            cls._check_library_features(device)
        except ImportError as error:
            raise cls._cannot_import(error, device) from error

    @classmethod
    def check_built(cls, component: str, digests: Mapping[str, str]) -> None:
        """Check that `k22 build` has built a graph, if the engine needs that.

        Args:
            component: the graph's name.
            digests: the sha256 of the variant's files by role.

        Raises:
            EngineNotBuilt: this graph has not been built on this machine.
        """
        if cls.needs_build:
            cls.built(component, digests)

    @classmethod
    def built(cls, component: str, digests: Mapping[str, str]) -> BuildRecord:
        """The record of what `k22 build` made of a graph; arguments and errors as for `check_built`."""
        record = records.find(cls.name, component, digests)
        if record is None:
            raise EngineNotBuilt(
                f"engine {cls.name} runs only what k22 build made, and {component} of this bundle was not built on this"
                f" machine: k22 build BUNDLE --engine {cls.name}"
            )
        return record

    def run(self, feeds: Arrays, *, during: str = "") -> dict[str, npt.NDArray[np.float32]]:
        """Run the graph.

        Args:
            feeds: every input of the signature by name; they are never modified.
            during: the work that the run is part of ("step 3 of 50"), for errors.

        Returns:
            Every output by name, with the dtype and shape of the signature.

        Raises:
            TensorError: a feed does not fit the signature.
            EngineError: the engine is closed, the library failed, or it returned tensors that do not fit the signature.
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

    def free_scratch_memory(self) -> None:
        """Free the memory for intermediate results; the next run allocates it again. During a run, do nothing."""
        if self._lock.acquire(blocking=False):
            try:
                if not self._closed:
                    self._free_scratch_memory()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Free the graph once a run in progress is over. The engine cannot run afterwards."""
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
    def _check_library_features(cls, device: str) -> None:
        """Raise EngineUnavailable if the installed library lacks what `device` needs. It may be imported for that.

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
        """Run the graph on checked, contiguous feeds. No later run may change the arrays that are returned."""

    def _free_scratch_memory(self) -> None:  # noqa: B027
        """Free the memory for intermediate results. Most libraries cannot free it alone."""

    @abstractmethod
    def _release(self) -> None:
        """Free the graph; called once."""


def _check_output(where: str, spec: TensorSpec, array: object, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray):
        raise EngineError(
            f"{where}: returned no `{spec.name}`; the manifest does not fit the graph: export the bundle again"
        )
    if array.shape != shape or array.dtype != spec.dtype:
        raise EngineError(
            f"{where}: `{spec.name}` came out as {array.dtype} {array.shape}; expected {spec.dtype} {shape}"
        )
    if not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise NonFiniteError(
            f"{where}: {bad:,} of the {array.size:,} values of `{spec.name}` are NaN or infinite: check the checkpoint"
            " and the embeddings, or try precision fp32"
        )


def _text(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
