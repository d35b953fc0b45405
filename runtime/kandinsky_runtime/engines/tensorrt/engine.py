"""TensorRT: runs what `k22 build` built for this GPU, with its own buffers, stream and CUDA graphs.

Written for the published Python API of TensorRT 10.3 to 11.4. It has not run on a GPU yet (docs/engines.md).
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import TensorSpec
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.profiles import GraphProfile, choose
from kandinsky_runtime.engines.tensorrt import cuda_memory
from kandinsky_runtime.engines.tensorrt.cuda_memory import Buffer, CapturedGraph, Gpu, Stream
from kandinsky_runtime.engines.tensorrt.library import DISTRIBUTION, failure, log_of, tensorrt
from kandinsky_runtime.errors import EngineError

Shapes = tuple[tuple[int, ...], ...]

PLAN = "engine.plan"

# The shapes that have an execution context and a CUDA graph. They share the memory of activations, inputs and outputs.
MAX_CONTEXTS = 4

_log = logging.getLogger(__name__)


class TensorRTEngine(Engine):
    """Runs `onnx-*` variants as `k22 build --engine tensorrt` built them.

    The built engine has no weights: they are read from the bundle when the engine is loaded. Then all GPU memory is
    allocated, for the largest shapes that it was built for.
    """

    name = "tensorrt"
    library = "tensorrt"
    distribution = DISTRIBUTION
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
        """The library, and the bindings of the CUDA runtime."""
        return f"{DISTRIBUTION} {cuda_memory.DISTRIBUTION}"

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        library = tensorrt()
        self._record = record = self.built(self.component, self.digests)
        with ExitStack() as resources:
            self._gpu = Gpu.open(options.device)
            record.check_machine(made_with(library, self._gpu))
            self._log = log_of(library)
            self._engine = self._load(library, files["graph"])
            self._check_tensors(library)
            self._stream = Stream()
            resources.callback(self._stream.free)

            def allocate(size: int, what: str) -> Buffer:
                buffer = Buffer(size, what)
                resources.callback(buffer.free)
                return buffer

            self._buffers = {
                tensor.name: allocate(_largest_size(tensor, record.profiles), f"`{tensor.name}` of {self.component}")
                for tensor in (*self.spec.inputs, *self.spec.outputs)
            }
            self._activations = allocate(self._engine.device_memory_size_v2, f"the activations of {self.component}")
            self._managed = library.ExecutionContextAllocationStrategy.USER_MANAGED
            self._contexts: OrderedDict[Shapes, _ShapeContext] = OrderedDict()
            self._resources = resources.pop_all()

    def _load(self, library: Any, graph: Path) -> Any:
        """The built engine, with the weights of the graph's file."""
        entry = self._record.whole_folder()
        engine = library.Runtime(self._log).deserialize_cuda_engine((entry / PLAN).read_bytes())
        if engine is None:
            raise failure(self._log, f"TensorRT cannot load the engine of {self.component}")
        refitter = library.Refitter(engine, self._log)
        parser = library.OnnxParserRefitter(refitter, self._log)
        if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
            raise failure(self._log, f"TensorRT cannot put the weights of {graph} into the engine of {self.component}")
        return engine

    def _check_tensors(self, library: Any) -> None:
        """Refuse an engine whose inputs and outputs differ from the signature: its buffers could be too small."""
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        found = {name: np.dtype(library.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        expected = {tensor.name: np.dtype(tensor.dtype) for tensor in (*self.spec.inputs, *self.spec.outputs)}
        if found != expected:
            raise EngineError(
                f"the engine that was built for {self.component} has {_listed(found)}; expected {_listed(expected)}, as"
                f" in the bundle's manifest; build it again: {self._record.command} {self._record.options}"
            )

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        self._gpu.use()
        prepared = self._context_for(tuple(feeds[tensor.name].shape for tensor in self.spec.inputs))
        for name, array in feeds.items():
            self._buffers[name].upload(array, self._stream)
        self._enqueue(prepared)
        outputs = {
            tensor.name: np.empty(tuple(prepared.context.get_tensor_shape(tensor.name)), np.float32)
            for tensor in self.spec.outputs
        }
        for name, array in outputs.items():
            self._buffers[name].download(array, self._stream)
        self._stream.synchronize()
        return outputs

    def _enqueue(self, prepared: _ShapeContext) -> None:
        """Queue a run: call by call for the first run of a shape, which initialises TensorRT, then as a graph."""
        if prepared.graph is None and prepared.warm and prepared.capturable:
            try:
                prepared.graph = self._stream.capture(lambda: self._execute(prepared.context))
            except EngineError as error:
                prepared.capturable = False
                _log.warning("%s runs without a CUDA graph: %s", self.component, error)
        if prepared.graph is None:
            self._execute(prepared.context)
            prepared.warm = True
        else:
            prepared.graph.launch(self._stream)

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(int(self._stream.handle)):
            raise failure(self._log, f"TensorRT cannot run {self.component}")

    def _context_for(self, shapes: Shapes) -> _ShapeContext:
        """The context for these shapes, made now if there is none."""
        if shapes in self._contexts:
            self._contexts.move_to_end(shapes)
            return self._contexts[shapes]
        by_name = {tensor.name: shape for tensor, shape in zip(self.spec.inputs, shapes, strict=True)}
        subject = f"{self.component} on {self.name}"
        number = choose(subject, self.spec, self._record.profiles, by_name, self._record.command)
        while len(self._contexts) >= MAX_CONTEXTS:
            self._contexts.popitem(last=False)[1].free()
        prepared = self._contexts[shapes] = _ShapeContext(self._context(number, by_name))
        return prepared

    def _context(self, profile: int, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        context = self._engine.create_execution_context(self._managed)
        if context is None:
            raise failure(self._log, f"TensorRT cannot make an execution context for {self.component}")
        context.set_device_memory(self._activations.pointer, self._activations.size)
        done = context.set_optimization_profile_async(profile, int(self._stream.handle))
        for name, shape in shapes.items():
            done = done and context.set_input_shape(name, shape)
        for name, buffer in self._buffers.items():
            done = done and context.set_tensor_address(name, buffer.pointer)
        if not done:
            raise failure(self._log, f"TensorRT does not take the shapes {dict(shapes)} of {self.component}")
        return context

    def _release(self) -> None:
        self._gpu.use()
        for prepared in self._contexts.values():
            prepared.free()
        self._contexts.clear()
        del self._engine
        self._resources.close()


@dataclass
class _ShapeContext:
    """A context for fixed shapes.

    Attributes:
        context: the execution context.
        graph: the captured graph of a run; None before the capture.
        warm: whether a run has initialised the context.
        capturable: whether a capture may be tried.
    """

    context: Any
    graph: CapturedGraph | None = None
    warm: bool = False
    capturable: bool = True

    def free(self) -> None:
        if self.graph is not None:
            self.graph.free()


def made_with(library: Any, gpu: Gpu) -> dict[str, str]:
    """The library and the GPU that an engine is built for. It runs nowhere else."""
    return {"TensorRT": library.__version__, "GPU": gpu.name, "compute capability": gpu.capability}


def _largest_size(tensor: TensorSpec, profiles: tuple[GraphProfile, ...]) -> int:
    """The size of the tensor in bytes at the largest MAX."""
    item = np.dtype(tensor.dtype).itemsize
    return max(math.prod(profile.shapes(tensor)[-1]) for profile in profiles) * item


def _listed(dtypes: Mapping[str, np.dtype[Any]]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in sorted(dtypes.items()))
