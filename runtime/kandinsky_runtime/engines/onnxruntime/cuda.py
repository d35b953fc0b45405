"""ONNX Runtime's CUDA provider: its options, and runs whose tensors stay on the device.

Source of the options and of the rules for CUDA graphs:
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.base import Arrays

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
# The role, among a variant's files, of the graph with the provider's own operators.
GRAPH_ROLE = "cuda_graph"
# A session keeps the CUDA graph of every captured shape, with its memory, until the session ends.
MAX_CAPTURED_SHAPES = 8

_NO_GRAPH = -1

Shapes = tuple[tuple[int, ...], ...]


def cuda_options(index: int, precision: Precision, *, graphs: bool = True) -> dict[str, str]:
    """The CUDA provider's options.

    Args:
        index: the device's number.
        precision: the graph's precision. float32 stays float32 (no TF32); 16-bit convolutions run channels last, the
            layout of tensor cores.
        graphs: whether runs may be captured as CUDA graphs.
    """
    return {
        "device_id": str(index),
        # By default the arena doubles whenever it grows: up to twice the memory that is used.
        "arena_extend_strategy": "kSameAsRequested",
        # The algorithms are measured at the first run of a shape, and used in every later step.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "prefer_nhwc": "1" if precision.is_16_bit else "0",
        "use_tf32": "0",
        "enable_cuda_graph": "1" if graphs else "0",
    }


def open_session(onnxruntime: Any, graph: str, settings: Any, providers: list[Any]) -> Any:
    """A session on these providers only: the library's retry with fewer of them is off.

    The library silently leaves out a provider whose own libraries are missing. Check the session's providers.
    """
    return onnxruntime.InferenceSession(graph, settings, providers=providers, enable_fallback=False)


@dataclass
class _DeviceTensors:
    """The tensors for one tuple of shapes on the device, bound to the session."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    binding: Any
    run_options: Any


class BoundRuns:
    """Runs a session on tensors that stay on the device; a shape's second run is captured as a CUDA graph.

    A shape that occurs once (when a picture is encoded) is not worth the capture, which runs the graph twice more. The
    first `MAX_CAPTURED_SHAPES` shapes that repeat are captured; later ones run kernel by kernel.
    """

    def __init__(
        self, onnxruntime: Any, session: Any, spec: GraphSpec, *, device: str, index: int, graphs: bool
    ) -> None:
        """Prepare runs of a session.

        Args:
            onnxruntime: the library.
            session: an `InferenceSession`.
            spec: the graph's signature.
            device: the kind of memory, "cuda".
            index: the device's number.
            graphs: whether the session may capture CUDA graphs.
        """
        self._onnxruntime, self._session, self._spec = onnxruntime, session, spec
        self._device, self._index, self._graphs = device, index, graphs
        self._captured: dict[Shapes, _DeviceTensors] = {}
        self._latest: tuple[Shapes, _DeviceTensors] | None = None

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Copy the feeds, which fit the signature, to the device; run; copy the outputs back."""
        tensors = self._tensors(feeds)
        for name, array in feeds.items():
            tensors.inputs[name].update_inplace(array)
        tensors.binding.synchronize_inputs()
        self._session.run_with_iobinding(tensors.binding, tensors.run_options)
        tensors.binding.synchronize_outputs()
        return {name: value.numpy() for name, value in tensors.outputs.items()}

    def _tensors(self, feeds: Arrays) -> _DeviceTensors:
        """The tensors for the feeds' shapes: existing ones, or new ones in place of those for the last shape."""
        shapes = tuple(feeds[spec.name].shape for spec in self._spec.inputs)
        if shapes in self._captured:
            return self._captured[shapes]
        if self._latest is None or self._latest[0] != shapes:
            self._latest = None  # frees its memory before the new shape's is allocated
            self._latest = shapes, self._allocate(feeds)
        elif self._graphs and len(self._captured) < MAX_CAPTURED_SHAPES:
            (_, tensors), self._latest = self._latest, None
            tensors.run_options = self._run_options(len(self._captured) + 1)
            self._captured[shapes] = tensors
            return tensors
        return self._latest[1]

    def _allocate(self, feeds: Arrays) -> _DeviceTensors:
        binding, sizes = self._session.io_binding(), self._spec.check(feeds)
        inputs = {spec.name: self._value(feeds[spec.name].shape, spec.dtype) for spec in self._spec.inputs}
        outputs = {spec.name: self._value(spec.shape(sizes), spec.dtype) for spec in self._spec.outputs}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _DeviceTensors(inputs, outputs, binding, self._run_options(_NO_GRAPH))

    def _run_options(self, graph: int) -> Any:
        options = self._onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options

    def _value(self, shape: tuple[int, ...], dtype: str) -> Any:
        make = self._onnxruntime.OrtValue.ortvalue_from_shape_and_type
        return make(list(shape), np.dtype(dtype).type, self._device, self._index)
