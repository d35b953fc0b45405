"""A fake of `cuda.bindings.runtime`: a GPU of host memory that accepts the calls of the published API only.

It fails if the behaviour of a real one is undefined: a copy outside an allocation, a stream or graph that was freed,
work that cannot be captured.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np

from tests.runtime import vendor_api

GIGABYTE = 10**9


class Stream:
    def __init__(self) -> None:
        self.captured: list[Callable[[], None]] | None = None
        self.launches = 0

    def __int__(self) -> int:
        return id(self)


class FakeCuda:
    """A machine with GPUs or without. The functions of `module` act on it."""

    def __init__(self, version: str = vendor_api.CUDA_VERSIONS[-1], gpus: int = 1, memory: int = 8 * GIGABYTE) -> None:
        self.gpus, self.memory = gpus, memory
        self.name, self.capability = "NVIDIA Fake", (8, 6)
        self.current = -1
        self.allocated: dict[int, np.ndarray] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.instantiated = 0
        self.copies: list[tuple[str, int]] = []
        self.module = self._module(vendor_api.TABLE["cuda"][version])

    def enqueue(self, handle: int, work: Callable[[], None]) -> None:
        """Run work on a stream, or capture it."""
        stream = self.streams[handle]
        if stream.captured is None:
            work()
        else:
            stream.captured.append(work)

    def buffer(self, pointer: int, size: int) -> np.ndarray:
        """The bytes at a pointer that was allocated."""
        array = self.allocated[pointer]
        assert size <= array.nbytes, f"{size} bytes in a buffer of {array.nbytes}"
        return array[:size]

    def _module(self, table: dict[str, Any]) -> types.ModuleType:
        module = types.ModuleType("cuda.bindings.runtime")
        module.__spec__ = ModuleSpec(module.__name__, None)
        enums = vendor_api.enums(table["enums"])
        vars(module).update(enums)
        self.error, self.kind = enums["cudaError_t"], enums["cudaMemcpyKind"]
        for name, arguments in table["functions"].items():
            setattr(module, name, self._checked(name, arguments))
        return module

    def _checked(self, name: str, arguments: list[str]) -> Callable[..., tuple[Any, ...]]:
        act = getattr(self, f"_{name}")

        def call(*args: Any) -> tuple[Any, ...]:
            if len(args) != len(arguments):
                raise vendor_api.NotInTheApi(f"{name} takes {arguments}; got {args}")
            status, *values = act(*args)
            return getattr(self.error, status), *values

        call.__name__ = name
        return call

    def _cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return ("cudaSuccess", self.gpus) if self.gpus else ("cudaErrorNoDevice", None)

    def _cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return "cudaSuccess", f"what {error.name} means".encode()

    def _cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        major, minor = self.capability
        return "cudaSuccess", types.SimpleNamespace(name=self.name.encode(), major=major, minor=minor)

    def _cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        self.current = device
        return ("cudaSuccess",)

    def _cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if sum(array.nbytes for array in self.allocated.values()) + size > self.memory:
            return "cudaErrorMemoryAllocation", None
        array = np.full(size, 0xAA, np.uint8)
        self.allocated[array.ctypes.data] = array
        return "cudaSuccess", array.ctypes.data

    def _cudaFree(self, pointer: int) -> tuple[Any, ...]:
        del self.allocated[pointer]
        return ("cudaSuccess",)

    def _cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: Stream) -> tuple[Any, ...]:
        if self.streams[int(stream)].captured is not None:
            return ("cudaErrorStreamCaptureUnsupported",)
        inside = target if kind == self.kind.cudaMemcpyHostToDevice else source
        self.buffer(inside, size)
        self.copies.append((kind.name, size))
        ctypes.memmove(target, source, size)
        return ("cudaSuccess",)

    def _cudaStreamCreate(self) -> tuple[Any, ...]:
        stream = Stream()
        self.streams[int(stream)] = stream
        return "cudaSuccess", stream

    def _cudaStreamDestroy(self, stream: Stream) -> tuple[Any, ...]:
        del self.streams[int(stream)]
        return ("cudaSuccess",)

    def _cudaStreamSynchronize(self, stream: Stream) -> tuple[Any, ...]:
        assert self.streams[int(stream)].captured is None
        return ("cudaSuccess",)

    def _cudaStreamBeginCapture(self, stream: Stream, mode: Any) -> tuple[Any, ...]:
        self.streams[int(stream)].captured = []
        return ("cudaSuccess",)

    def _cudaStreamEndCapture(self, stream: Stream) -> tuple[Any, ...]:
        captured, stream.captured = stream.captured, None
        return ("cudaSuccess", captured) if captured else ("cudaErrorStreamCaptureInvalidated", None)

    def _cudaGraphInstantiate(self, graph: list[Callable[[], None]], flags: int) -> tuple[Any, ...]:
        self.instantiated += 1
        self.graphs[self.instantiated] = graph
        return "cudaSuccess", self.instantiated

    def _cudaGraphDestroy(self, graph: list[Callable[[], None]]) -> tuple[Any, ...]:
        return ("cudaSuccess",)

    def _cudaGraphLaunch(self, executable: int, stream: Stream) -> tuple[Any, ...]:
        for work in self.graphs[executable]:
            self.enqueue(int(stream), work)
        stream.launches += 1
        return ("cudaSuccess",)

    def _cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:
        del self.graphs[executable]
        return ("cudaSuccess",)
