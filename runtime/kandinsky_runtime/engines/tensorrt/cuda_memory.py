"""A GPU, its buffers, a stream and captured graphs: the few calls of the CUDA runtime that the TensorRT engine makes.

They go through NVIDIA's `cuda.bindings`, which has 31 MB, imports without a GPU and follows the CUDA versions. PyTorch
and CuPy have gigabytes. With ctypes, this package would have to find the library and describe its structures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.cuda import cuda_index
from kandinsky_runtime.errors import EngineError, EngineUnavailable, UsageError

DISTRIBUTION = "cuda-bindings"

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        index: the GPU's number.
        name: the GPU's name.
        capability: the compute capability, such as "8.6".
    """

    index: int
    name: str
    capability: str

    @classmethod
    def open(cls, device: str) -> Gpu:
        """Find a GPU, "cuda" or "cuda:N", and make it the current device of the calling thread.

        Raises:
            UsageError: `device` is another name.
            EngineUnavailable: `cuda.bindings` is not installed, or CUDA finds no GPU of this number.
        """
        cudart, index = _cudart(), cuda_index(device)
        if index is None:
            raise UsageError(f"device is {device!r}; expected cuda or cuda:N")
        try:
            count = _call(cudart.cudaGetDeviceCount)
        except EngineError as error:
            raise EngineUnavailable(f"CUDA finds no GPU here: {error}") from error
        if index >= count:
            raise EngineUnavailable(f"CUDA finds {count} GPUs here, numbered from 0; got device cuda:{index}")
        properties = _call(cudart.cudaGetDeviceProperties, index)
        gpu = cls(index, properties.name.decode(), f"{properties.major}.{properties.minor}")
        gpu.use()
        return gpu

    def use(self) -> None:
        """Make it the current device of the calling thread."""
        _call(_cudart().cudaSetDevice, self.index)


class Stream:
    """A queue of work on the GPU, which runs in order."""

    def __init__(self) -> None:
        self.handle = _call(_cudart().cudaStreamCreate)

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        _call(_cudart().cudaStreamSynchronize, self.handle)

    def capture(self, enqueue: Callable[[], None]) -> CapturedGraph:
        """The work that `enqueue` queues, as a graph. Nothing is run.

        Raises:
            EngineError: some of the work cannot be captured.
        """
        cudart = _cudart()
        _call(cudart.cudaStreamBeginCapture, self.handle, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            enqueue()
        except EngineError:
            cudart.cudaStreamEndCapture(self.handle)  # it fails, too; the first error is the one to report
            raise
        graph = _call(cudart.cudaStreamEndCapture, self.handle)
        try:
            return CapturedGraph(_call(cudart.cudaGraphInstantiate, graph, 0))
        finally:
            _call(cudart.cudaGraphDestroy, graph)

    def free(self) -> None:
        """Free it."""
        _call(_cudart().cudaStreamDestroy, self.handle)


class CapturedGraph:
    """Work that `Stream.capture` captured; one call queues it again."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        _call(_cudart().cudaGraphLaunch, self._handle, stream.handle)

    def free(self) -> None:
        """Free it."""
        _call(_cudart().cudaGraphExecDestroy, self._handle)


class Buffer:
    """Memory on the GPU."""

    def __init__(self, size: int, what: str) -> None:
        """Allocate.

        Args:
            size: in bytes.
            what: the buffer's content, for errors.

        Raises:
            EngineError: the GPU does not have that much free memory.
        """
        cudart = _cudart()
        error, pointer = cudart.cudaMalloc(max(size, 1))
        if error == cudart.cudaError_t.cudaErrorMemoryAllocation:
            raise EngineError(
                f"the GPU has no {size / 1e9:.2f} GB of memory free for {what}: choose a smaller size or batch"
            )
        _check(error, "cudaMalloc")
        self.pointer, self.size = int(pointer), size

    def upload(self, array: Array, stream: Stream) -> None:
        """Queue a copy from a contiguous array to the start of the buffer."""
        self._copy(self.pointer, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice", stream)

    def download(self, array: Array, stream: Stream) -> None:
        """Queue a copy from the start of the buffer to a contiguous array."""
        self._copy(array.ctypes.data, self.pointer, array.nbytes, "cudaMemcpyDeviceToHost", stream)

    def free(self) -> None:
        """Free it."""
        _call(_cudart().cudaFree, self.pointer)

    @staticmethod
    def _copy(target: int, source: int, size: int, kind: str, stream: Stream) -> None:
        cudart = _cudart()
        _call(cudart.cudaMemcpyAsync, target, source, size, getattr(cudart.cudaMemcpyKind, kind), stream.handle)


def _cudart() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineUnavailable(f"cuda.bindings cannot be imported ({error}): pip install {DISTRIBUTION}") from error
    return runtime


def _call(function: Callable[..., tuple[Any, ...]], *args: Any) -> Any:
    """The value that a call returns in addition to its status; None if there is none."""
    status, *values = function(*args)
    _check(status, function.__name__)
    return values[0] if values else None


def _check(status: Any, name: str) -> None:
    cudart = _cudart()
    if status != cudart.cudaError_t.cudaSuccess:
        _, text = cudart.cudaGetErrorString(status)
        raise EngineError(f"{name}: {text.decode()}")
