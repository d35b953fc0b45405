"""ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.errors import EngineError

_ERRORS_ONLY = 3


class OnnxRuntimeEngine(Engine):
    """Runs `onnx-*` variants through `onnxruntime.InferenceSession`."""

    name = "onnxruntime"
    library = "onnxruntime"
    distribution = "onnxruntime"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "onnx-fp32"}

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.thread_count
        settings.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                str(files["graph"]), settings, providers=["CPUExecutionProvider"]
            )
        except _failures() as error:
            raise EngineError(f"ONNX Runtime cannot load {self.component} from {files['graph']}: {error}") from error

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        names = [spec.name for spec in self.spec.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except _failures() as error:
            raise EngineError(f"ONNX Runtime failed in {self.component}: {error}") from error

    def close(self) -> None:
        del self._session


def _failures() -> tuple[type[BaseException], ...]:
    """The exceptions of the library, which have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile")
    found: list[Any] = [getattr(state, name) for name in (*names, "NotImplemented", "RuntimeException")]
    return (*found, RuntimeError, MemoryError)
