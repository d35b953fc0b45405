"""ONNX Runtime with a stand-in for TensorRT-RTX's plugin: it records calls, and the CPU does the work.

Signatures are checked against the installed onnxruntime, and options against what the plugin's header declares.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime

from kandinsky_runtime.engines.tensorrt_rtx.plugin import PROVIDER

# tensorrt_rtx_provider_options.h of the plugin 0.5.0: those that are used.
OPTIONS = {
    "nv_profile_min_shapes",
    "nv_profile_opt_shapes",
    "nv_profile_max_shapes",
    "nv_multi_profile_enable",
    "nv_runtime_cache_path",
    "nv_weight_streaming_budget",
    "nv_max_workspace_size",
    "enable_cuda_graph",
}
RUN_OPTIONS = {"nv_profile_index", "cuda_graph_annotation_id"}


class PretendPlugin(ModuleType):
    """The installed onnxruntime, which finds RTX GPUs once the plugin is registered.

    Attributes:
        gpus: the number of GPUs that the plugin finds.
        registered: the libraries that were registered.
        refusal: the error of the registration, or None.
        compiled: the options of each compilation.
        engines: the number of engines that a compilation makes.
        failure: the error of a compilation, or None.
        sessions: the graph and the options of each session.
        runs: the run options of each run.
    """

    def __init__(self) -> None:
        super().__init__("onnxruntime")
        self.__spec__, self.__version__ = onnxruntime.__spec__, "1.99.0"
        self.gpus, self.registered, self.refusal = 1, list[tuple[str, str]](), None
        self.compiled: list[dict[str, str]] = []
        self.engines, self.failure = 1, None
        self.sessions: list[tuple[Path, dict[str, str]]] = []
        self.runs: list[dict[str, str]] = []
        self.OrtDeviceMemoryType = onnxruntime.OrtDeviceMemoryType
        self.OrtValue = SimpleNamespace(
            ortvalue_from_shape_and_type=self._value, ortvalue_from_numpy=onnxruntime.OrtValue.ortvalue_from_numpy
        )
        pretend = self

        class SessionOptions(onnxruntime.SessionOptions):
            def add_provider_for_devices(self, devices: list[Any], options: Mapping[str, str]) -> None:
                assert all(device.ep_name == PROVIDER for device in devices)
                assert set(options) <= OPTIONS
                self.given = dict(options)

            def add_session_config_entry(self, key: str, value: str) -> None:
                assert (key, value) == ("session.disable_cpu_ep_fallback", "1")

        class RunOptions(onnxruntime.RunOptions):
            def add_run_config_entry(self, key: str, value: str) -> None:
                assert key in RUN_OPTIONS
                self.__dict__.setdefault("given", {})[key] = value

        class InferenceSession(onnxruntime.InferenceSession):
            def __init__(self, path: str, sess_options: Any) -> None:
                pretend.sessions.append((Path(path), sess_options.given))
                super().__init__(path, providers=["CPUExecutionProvider"])

            def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
                pretend.runs.append(dict(run_options.given))
                super().run_with_iobinding(iobinding)

        class ModelCompiler:
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                asked = inspect.signature(onnxruntime.ModelCompiler.__init__).bind(self, *args, **kwargs).arguments
                assert asked["embed_compiled_data_into_model"] is False
                self.graph = Path(asked["input_model_path_or_bytes"])
                pretend.compiled.append(asked["sess_options"].given)

            def compile_to_file(self, output_model_path: str) -> None:
                if pretend.failure is not None:
                    raise pretend.failure
                context = Path(output_model_path)
                shutil.copy(self.graph, context)
                for number in range(pretend.engines):
                    context.with_name(f"{number}.engine").write_bytes(b"engine")

        self.SessionOptions, self.RunOptions = SessionOptions, RunOptions
        self.InferenceSession, self.ModelCompiler = InferenceSession, ModelCompiler

    def register_execution_provider_library(self, registration_name: str, library_path: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        assert registration_name not in [name for name, _ in self.registered], "the library refuses a second time"
        self.registered.append((registration_name, library_path))

    def get_ep_devices(self) -> list[Any]:
        hardware = SimpleNamespace(vendor="NVIDIA", device_id=0x2684, metadata={"Description": "A GPU"})
        gpu = SimpleNamespace(ep_name=PROVIDER, device=hardware, memory_info=lambda kind: ("memory", kind))
        cpu = SimpleNamespace(ep_name="CPUExecutionProvider")
        return [cpu, *([gpu] * self.gpus if self.registered else [])]

    def copy_tensors(self, src: list[Any], dst: list[Any]) -> None:
        for source, target in zip(src, dst, strict=True):
            target.update_inplace(source.numpy())

    def _value(self, *args: Any, **kwargs: Any) -> Any:
        real = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        asked = inspect.signature(real).bind(*args, **kwargs).arguments
        assert asked.get("memory_info") in (None, ("memory", onnxruntime.OrtDeviceMemoryType.DEFAULT))
        return real(asked["shape"], asked["element_type"], "cpu", 0)


def plugin_module() -> ModuleType:
    """The plugin's Python package."""
    module = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    module.__dict__.update(__version__="0.9.0", get_library_path=lambda: "the plugin")
    return module
