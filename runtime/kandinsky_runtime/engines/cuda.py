"""NVIDIA GPUs, for all engines: the device's number, and CUDA's errors in one clear sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kandinsky_runtime.errors import EngineError, EngineUnavailable, Kandinsky22Error

_DEVICE = re.compile(r"cuda(?::(0|[1-9][0-9]{0,3}))?")

# Parts of the libraries' error texts, in lower case: CUDA's names, numbers and texts, the status of cuDNN and cuBLAS,
# and the allocators' texts. https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html
_OUT_OF_MEMORY = (
    "out of memory",
    "cudaerrormemoryallocation",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "failed to allocate memory for requested buffer",
    "resourceexhausted",
)
_NO_DEVICE = ("cudaerrornodevice", "cuda failure 100:", "no cuda-capable device")
_NO_SUCH_DEVICE = ("cudaerrorinvaliddevice", "cuda failure 101:", "invalid device ordinal", "invalid device id")
_OLD_DRIVER = ("cudaerrorinsufficientdriver", "cuda failure 35:", "driver version is insufficient")
_OTHER_GPU = ("cudaerrornokernelimagefordevice", "cuda failure 209:", "no kernel image is available", "arch_mismatch")


def cuda_index(device: str) -> int | None:
    """The number of a CUDA device: 0 for "cuda", 1 for "cuda:1"; None for any other name."""
    match = _DEVICE.fullmatch(device)
    return None if match is None else int(match[1] or 0)


@contextmanager
def cuda_errors(subject: str, device: str) -> Iterator[None]:
    """Replace the errors of CUDA that a user can act on by ours; other errors pass unchanged.

    Args:
        subject: the graph and the engine, "unet on onnxruntime".
        device: "cuda" or "cuda:N".

    Raises:
        EngineUnavailable: there is no such GPU, or driver, GPU and library do not fit each other.
        EngineError: the GPU is out of memory.
    """
    try:
        yield
    except Kandinsky22Error:
        raise
    except Exception as error:  # vendors raise nearly anything
        if (ours := _translated(subject, device, str(error).lower())) is not None:
            raise ours from error
        raise


def is_cuda_fault(error: Exception) -> bool:
    """Whether the error is ours, or one that `cuda_errors` replaces."""
    return isinstance(error, Kandinsky22Error) or _translated("", "", str(error).lower()) is not None


def _translated(subject: str, device: str, text: str) -> EngineError | None:
    if any(mark in text for mark in _OUT_OF_MEMORY):
        return EngineError(
            f"{subject}: {device} is out of memory: make fewer results at once, choose a smaller size, precision fp16"
            " or low_memory, or end other programs that use the GPU"
        )
    for marks, fault in (
        (_NO_DEVICE, f"there is no NVIDIA GPU here; got device {device}: choose device cpu"),
        (_NO_SUCH_DEVICE, f"there is no GPU {device}; nvidia-smi lists the GPUs, and cuda:0 is the first"),
        (
            _OLD_DRIVER,
            "there is no NVIDIA driver, or it is older than the library's CUDA: install a newer driver, or the library"
            " for an older CUDA",
        ),
        (_OTHER_GPU, f"the installed library has no code for the GPU {device}: install one that supports it"),
    ):
        if any(mark in text for mark in marks):
            return EngineUnavailable(f"{subject}: {fault}")
    return None
