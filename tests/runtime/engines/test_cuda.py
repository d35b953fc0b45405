"""The names of CUDA devices, and CUDA's errors, for every engine on NVIDIA GPUs."""

from __future__ import annotations

import pytest

from kandinsky_runtime.engines.cuda import cuda_errors, cuda_index
from kandinsky_runtime.errors import EngineError, EngineUnavailable, TensorError


@pytest.mark.parametrize(
    ("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:17", 17), ("cuda:9999", 9999)]
)
def test_index(device: str, index: int) -> None:
    assert cuda_index(device) == index


@pytest.mark.parametrize(
    "device",
    ["cpu", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:01", "cuda:1 ", " cuda", "cuda:x", "cuda:10000", "cuda:١"],
)
def test_no_index(device: str) -> None:
    assert cuda_index(device) is None


# What ONNX Runtime 1.31.1 and Paddle 3.0 write.
NO_DRIVER = (
    'Parse Failed to parse provider option "device_id": CUDA failure 35: CUDA driver version is insufficient for CUDA'
    " runtime version ; GPU=-1 ; hostname=vm ; expr=cudaGetDeviceCount(&num_devices);"
)
ARENA = (
    "[ONNXRuntimeError] : 1 : FAIL : bfc_arena.cc:358 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool)"
    " Failed to allocate memory for requested buffer of size 1073741824"
)


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        (NO_DRIVER, EngineUnavailable, "unet on x: there is no NVIDIA driver, or it is older than the library's CUDA"),
        ("CUDA failure 100: no CUDA-capable device is detected", EngineUnavailable, "there is no NVIDIA GPU"),
        ("CUDA failure 101: invalid device ordinal ; GPU=3", EngineUnavailable, "there is no GPU cuda:3; nvidia-smi"),
        ("no kernel image is available for execution on the device", EngineUnavailable, "no code for the GPU cuda:3"),
        (ARENA, EngineError, "unet on x: cuda:3 is out of memory: make fewer results at once, choose a smaller size"),
        ("CUDA failure 2: out of memory", EngineError, "cuda:3 is out of memory"),
        ("ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate", EngineError, "is out of memory"),
        ("CUDNN_STATUS_ALLOC_FAILED", EngineError, "is out of memory"),
    ],
)
def test_errors(text: str, kind: type[EngineError], sentence: str) -> None:
    vendor = RuntimeError(text)
    with pytest.raises(EngineError) as caught, cuda_errors("unet on x", "cuda:3"):
        raise vendor
    assert type(caught.value) is kind
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is vendor


@pytest.mark.parametrize("error", [RuntimeError("bad graph"), TensorError("out of memory"), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, cuda_errors("unet on x", "cuda"):
        raise error
    assert caught.value is error
