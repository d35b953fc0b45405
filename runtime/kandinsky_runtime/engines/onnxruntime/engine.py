"""ONNX Runtime, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.cuda import cuda_errors, cuda_index, is_cuda_fault
from kandinsky_runtime.engines.onnxruntime.arena import SharedArena
from kandinsky_runtime.engines.onnxruntime.cuda import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    GRAPH_ROLE,
    TENSORRT_PROVIDER,
    BoundRuns,
    cuda_options,
    open_session,
)
from kandinsky_runtime.engines.onnxruntime.library import ERRORS_ONLY, FATAL_ONLY, onnxruntime_library
from kandinsky_runtime.engines.onnxruntime.tensorrt import ort_tensorrt_options
from kandinsky_runtime.engines.tensorrt_inside import check_shapes, record_of
from kandinsky_runtime.errors import EngineUnavailable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Attempt:
    """A graph to open on a GPU.

    Attributes:
        graph: the graph's path.
        captures: whether its runs may be captured as CUDA graphs.
        otherwise: the way out if it cannot be opened, for the warning; None if that is an error.
    """

    graph: str
    captures: bool
    otherwise: str | None = None


class OnnxRuntimeEngine(Engine):
    """Runs `onnx-*` variants through `onnxruntime.InferenceSession`.

    On a GPU it prefers the variant's second graph, with the CUDA provider's own operators, if the bundle has one. If
    `k22 build` has a record of the graph in this precision, the library's TensorRT provider runs it, within the
    record's profiles. If a GPU's provider fails, that is an error: the library's silent retry on the CPU is off.
    """

    name = "onnxruntime"
    library = "onnxruntime"
    distribution = "onnxruntime"
    variants: ClassVar[Mapping[str, str]] = {Precision.FP32: "onnx-fp32", Precision.FP16: "onnx-fp16"}
    roles = ("graph", "weights")
    devices = ("cpu", "cuda")
    device_aliases: ClassVar[Mapping[str, str]] = {"cpuexecutionprovider": "cpu", "cudaexecutionprovider": "cuda"}

    @classmethod
    def preferred_precisions(cls, device: str) -> tuple[Precision, ...]:
        """float32 on the CPU, where 16 bits are slower; fp16 first on a GPU."""
        return (Precision.FP32,) if cuda_index(device) is None else (Precision.FP16, Precision.FP32)

    @classmethod
    def requirement(cls, device: str) -> str:
        """`onnxruntime-gpu` for a GPU. The two packages contain the same module and exclude each other."""
        return cls.distribution if cuda_index(device) is None else "onnxruntime-gpu"

    @classmethod
    def _check_library_features(cls, device: str) -> None:
        if cuda_index(device) is None:
            return
        onnxruntime = onnxruntime_library()
        if CUDA_PROVIDER not in (found := onnxruntime.get_available_providers()):
            raise EngineUnavailable(
                f"engine {cls.name}: the installed onnxruntime {onnxruntime.__version__} has no {CUDA_PROVIDER}, only"
                f" {', '.join(found)}: pip uninstall onnxruntime, then pip install {cls.requirement(device)}"
            )

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        onnxruntime = onnxruntime_library()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.thread_count
        settings.log_severity_level = ERRORS_ONLY
        self._device = options.device
        index = cuda_index(options.device)
        self._bound: BoundRuns | None = None
        self._arena: SharedArena | None = None
        self._record = record_of(type(self), self.component, self.digests, options)
        if index is None:
            if (arena := SharedArena.get(onnxruntime)) is not None:
                arena.share(settings)
                self._arena = arena
            self._session = onnxruntime.InferenceSession(str(files["graph"]), settings, providers=[CPU_PROVIDER])
            return
        if not _log.isEnabledFor(logging.DEBUG):
            # What it would log of a failure is in the error, too; loading the provider logs for the whole process.
            settings.log_severity_level = FATAL_ONLY
            onnxruntime.set_default_logger_severity(FATAL_ONLY)
        with cuda_errors(self._subject, options.device):
            _load_cuda(onnxruntime)
            for attempt in self._attempts(files):
                try:
                    self._session = self._cuda_session(onnxruntime, settings, index, options, attempt)
                    break
                except Exception as error:
                    if attempt.otherwise is None or is_cuda_fault(error):
                        raise
                    _log.warning("%s: %s, after the error: %s", self._subject, attempt.otherwise, error)
        graphs = attempt.captures
        self._bound = BoundRuns(onnxruntime, self._session, self.spec, device="cuda", index=index, graphs=graphs)

    def _attempts(self, files: Mapping[str, Path]) -> list[_Attempt]:
        """The graphs to try, the best first. TensorRT fuses operators itself; its provider captures one shape only."""
        plain = str(files["graph"])
        if self._record is not None:
            return [_Attempt(plain, captures=False)]
        attempts = [
            _Attempt(plain, captures=True, otherwise="running without CUDA graphs"),
            _Attempt(plain, captures=False),
        ]
        if (fused := files.get(GRAPH_ROLE)) is not None:
            attempts.insert(0, _Attempt(str(fused), captures=True, otherwise="running without the fused operators"))
        return attempts

    def _cuda_session(
        self, onnxruntime: Any, settings: Any, index: int, options: EngineOptions, attempt: _Attempt
    ) -> Any:
        cuda = cuda_options(index, options.precision, graphs=attempt.captures)
        providers: list[Any] = [(CUDA_PROVIDER, cuda), CPU_PROVIDER]
        if self._record is not None:
            profiles, cache = self._record.profiles, self._record.folder
            cache.mkdir(parents=True, exist_ok=True)
            built = ort_tensorrt_options(self.spec, profiles, precision=options.precision, cache=cache)
            providers.insert(0, (TENSORRT_PROVIDER, {"device_id": str(index), **built}))
        session = open_session(onnxruntime, attempt.graph, settings, providers)
        if self._record is not None and TENSORRT_PROVIDER not in session.get_providers():
            raise EngineUnavailable(
                f"{self._subject} was built for {TENSORRT_PROVIDER}, which could not be loaded: install the TensorRT"
                f" that onnxruntime-gpu {onnxruntime.__version__} was built for, or remove {self._record.folder.parent}"
            )
        if CUDA_PROVIDER not in session.get_providers():
            raise EngineUnavailable(
                f"{self._subject}: {CUDA_PROVIDER} could not be loaded: the NVIDIA driver, cuDNN or CUDA"
                f" {onnxruntime.cuda_version} is missing: install the driver, and for the others pip install"
                f" '{self.requirement(options.device)}[cuda,cudnn]'"
            )
        return session

    @property
    def _subject(self) -> str:
        return f"{self.component} on {self.name}"

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        if self._bound is not None:
            if self._record is not None:
                check_shapes(self._subject, self.spec, self._record, feeds)
            with cuda_errors(self._subject, self._device):
                return self._bound.run(feeds)
        names = [spec.name for spec in self.spec.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def _free_scratch_memory(self) -> None:
        if self._arena is not None:
            self._arena.free()

    def _release(self) -> None:
        self._bound = None
        del self._session


def _load_cuda(onnxruntime: Any) -> None:
    """Let the library find CUDA and cuDNN in the wheels that may have been installed with it."""
    with redirect_stdout(StringIO()) as printed:  # its list of missing libraries must not get into our JSON
        onnxruntime.preload_dlls()
    if printed.getvalue():
        _log.debug("onnxruntime.preload_dlls: %s", printed.getvalue().strip())
