"""TensorRT-RTX as a plugin of ONNX Runtime: registered once a process, and the GPUs that it finds.

https://nvidia.github.io/TensorRT-RTX-EP-ABI/integration-guide.html
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import threading
from typing import Any

from kandinsky_runtime.engines.cuda import cuda_index
from kandinsky_runtime.engines.onnxruntime.library import onnxruntime_library
from kandinsky_runtime.errors import EngineUnavailable

MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
DISTRIBUTION = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
REQUIREMENT = f"onnxruntime {DISTRIBUTION}"
PROVIDER = "NvTensorRTRTXExecutionProvider"

# What this package calls; onnxruntime 1.24 is the first with all of it.
_CALLS = ("register_execution_provider_library", "get_ep_devices", "ModelCompiler", "copy_tensors")
_NO_DRIVER = ("libcuda.so", "libnvidia-ml.so", "nvcuda.dll", "nvml.dll")

_lock = threading.Lock()


def library() -> Any:
    """Import ONNX Runtime and register the plugin, if that was not done before.

    Raises:
        EngineUnavailable: one of them is not installed or too old, or there is no NVIDIA driver.
    """
    try:
        onnxruntime = onnxruntime_library()
    except ImportError as error:
        raise EngineUnavailable(f"onnxruntime cannot be imported ({error}): pip install {REQUIREMENT}") from error
    if missing := [name for name in _CALLS if not hasattr(onnxruntime, name)]:
        raise EngineUnavailable(
            f"onnxruntime {onnxruntime.__version__} has no {', '.join(missing)}; expected 1.24 or newer:"
            f" pip install --upgrade {REQUIREMENT}"
        )
    with _lock:
        if not _found(onnxruntime):
            _register(onnxruntime)
    return onnxruntime


def find_device(onnxruntime: Any, device: str) -> Any:
    """The `OrtEpDevice` of a GPU.

    Args:
        onnxruntime: from `library`.
        device: "cuda" or "cuda:N".

    Raises:
        EngineUnavailable: there is no such GPU, or TensorRT-RTX does not support it.
    """
    found, index = _found(onnxruntime), cuda_index(device) or 0
    if not found:
        raise EngineUnavailable(
            "there is no RTX GPU here: TensorRT-RTX needs compute capability 8.6, 8.9, or 12.0 and later; choose"
            " another engine"
        )
    if index >= len(found):
        raise EngineUnavailable(
            f"there is no RTX GPU {device}; TensorRT-RTX found {len(found)}, and cuda:0 is the first"
        )
    return found[index]


def made_with(onnxruntime: Any, device: Any) -> dict[str, str]:
    """The libraries and the GPU that an engine is built for. It runs nowhere else."""
    try:
        plugin = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # the package for CUDA 12
        plugin = str(importlib.import_module(MODULE).__version__)
    gpu = device.device
    return {
        "TensorRT-RTX plugin": plugin,
        "onnxruntime": str(onnxruntime.__version__),
        "GPU": f"{gpu.metadata.get('Description') or gpu.vendor} {gpu.device_id:#06x}",
    }


def _found(onnxruntime: Any) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]


_registered: list[Any] = []


def _register(onnxruntime: Any) -> None:
    """Register the plugin with a module of ONNX Runtime, once; without a GPU it registers, and describes no device."""
    if any(known is onnxruntime for known in _registered):
        return
    logging.getLogger(MODULE).setLevel(logging.ERROR)  # its warnings are in the error below, too
    try:
        plugin = importlib.import_module(MODULE)
        onnxruntime.register_execution_provider_library(PROVIDER, plugin.get_library_path())
    except ImportError as error:
        raise EngineUnavailable(f"{MODULE} cannot be imported ({error}): pip install {REQUIREMENT}") from error
    except Exception as error:  # ONNX Runtime has a class of its own for each status
        text = " ".join(str(error).split())
        if any(name in text for name in _NO_DRIVER):
            raise EngineUnavailable(
                "there is no NVIDIA driver here, and TensorRT-RTX needs one: install it, or choose another engine"
            ) from error
        raise EngineUnavailable(f"onnxruntime cannot load the plugin of TensorRT-RTX: {text}") from error
    _registered.append(onnxruntime)
