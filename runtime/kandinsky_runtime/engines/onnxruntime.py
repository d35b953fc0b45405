"""ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions

_ERRORS_ONLY = 3


class OnnxRuntimeEngine(Engine):
    """Runs `onnx-*` variants through `onnxruntime.InferenceSession`."""

    name = "onnxruntime"
    library = "onnxruntime"
    distribution = "onnxruntime"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "onnx-fp32"}
    roles = ("graph", "weights")

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.thread_count
        settings.log_severity_level = _ERRORS_ONLY
        self._session = onnxruntime.InferenceSession(str(files["graph"]), settings, providers=["CPUExecutionProvider"])

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        names = [spec.name for spec in self.spec.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def _release(self) -> None:
        del self._session
