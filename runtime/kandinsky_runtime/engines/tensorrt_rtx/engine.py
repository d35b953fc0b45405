"""TensorRT-RTX in ONNX Runtime: runs what `k22 build` built for this GPU.

Written for the interfaces that ONNX Runtime 1.32 and the plugin 0.5 publish. It has not run on a GPU yet
(docs/engines.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines import records
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.cuda import cuda_errors
from kandinsky_runtime.engines.onnxruntime.library import FATAL_ONLY
from kandinsky_runtime.engines.profiles import choose
from kandinsky_runtime.engines.tensorrt_rtx import plugin
from kandinsky_runtime.engines.tensorrt_rtx.options import run_options
from kandinsky_runtime.engines.tensorrt_rtx.shape_runs import ShapeRun
from kandinsky_runtime.files import fingerprint

CONTEXT = "context.onnx"

# A session keeps the CUDA graph of every shape, with its memory, until it ends. One more shape opens a new session.
MAX_SHAPES = 8

_RUNTIME_CACHE = "tensorrt-rtx-runtime"

Shapes = tuple[tuple[int, ...], ...]


class TensorRtRtxEngine(Engine):
    """Runs `onnx-*` variants as `k22 build --engine tensorrt-rtx` built them, weights included."""

    name = "tensorrt-rtx"
    library = plugin.MODULE
    distribution = plugin.DISTRIBUTION
    variants: ClassVar[Mapping[str, str]] = {
        Precision.FP16: "onnx-fp16",
        Precision.BF16: "onnx-bf16",
        Precision.FP32: "onnx-fp32",
    }
    roles = ("graph", "weights")
    needs_build = True
    devices = ("cuda",)

    @classmethod
    def requirement(cls, device: str) -> str:
        """ONNX Runtime and the plugin."""
        return plugin.REQUIREMENT

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        self._record = self.built(self.component, self.digests)
        self._onnxruntime = onnxruntime = plugin.library()
        self._device, self._device_name = plugin.find_device(onnxruntime, options.device), options.device
        machine = plugin.made_with(onnxruntime, self._device)
        self._record.check_machine(machine)
        self._runtime_cache = records.cache_subfolder(_RUNTIME_CACHE) / fingerprint(machine)
        self._runtime_cache.mkdir(parents=True, exist_ok=True)
        self._open_session()

    def _open_session(self) -> None:
        """Load the built engine. CUDA graphs of an earlier session are gone."""
        record = self._record
        entry = record.whole_folder()
        settings = self._onnxruntime.SessionOptions()
        settings.log_severity_level = FATAL_ONLY  # what it would log of a failure is in the error, too
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options = run_options(record.profiles, self._runtime_cache, record.weight_memory)
        with cuda_errors(self._subject, self._device_name):
            settings.add_provider_for_devices([self._device], options)
            self._session = self._onnxruntime.InferenceSession(str(entry / CONTEXT), settings)
        self._runs: dict[Shapes, ShapeRun] = {}

    @property
    def _subject(self) -> str:
        return f"{self.component} on {self.name}"

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        shapes = {tensor.name: feeds[tensor.name].shape for tensor in self.spec.inputs}
        profile = choose(self._subject, self.spec, self._record.profiles, shapes, self._record.command)
        key = tuple(shapes.values())
        if key not in self._runs and len(self._runs) >= MAX_SHAPES:
            self._runs.clear()
            del self._session
            self._open_session()
        with cuda_errors(self._subject, self._device_name):
            if key not in self._runs:
                # One CUDA graph for each shape: the library would replay another shape's under the same number.
                self._runs[key] = ShapeRun(
                    self._onnxruntime,
                    self._session,
                    self._device,
                    self.spec,
                    self.spec.check(feeds),
                    {"nv_profile_index": str(profile), "cuda_graph_annotation_id": str(len(self._runs) + 1)},
                )
            return self._runs[key].run(feeds)

    def _release(self) -> None:
        self._runs.clear()
        del self._session
