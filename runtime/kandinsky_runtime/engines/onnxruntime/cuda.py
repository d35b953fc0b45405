"""ONNX Runtime's CUDA provider: its options, and runs whose tensors keep their place on the device.

Source of the options and of the rules for CUDA graphs:
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.base import Arrays

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
# What a variant's files call the graph with the provider's own operators.
GRAPH_ROLE = "cuda_graph"
# A session keeps the CUDA graph of every shape that it captured, and the memory that it uses, to its end.
CAPTURED_SHAPES = 8

_NO_GRAPH = -1

Shapes = tuple[tuple[int, ...], ...]


def cuda_options(index: int, precision: str, *, graphs: bool = True) -> dict[str, str]:
    """The CUDA provider's options.

    Args:
        index: of the device.
        precision: of the graph; float32 stays float32 (no TF32), 16-bit convolutions run channels last, as tensor cores
            want them.
        graphs: whether runs may be captured as CUDA graphs.
    """
    return {
        "device_id": str(index),
        # By default the arena doubles whenever it grows: up to twice the memory that is used.
        "arena_extend_strategy": "kSameAsRequested",
        # The algorithms of a shape are measured at its first run; shapes repeat for all steps of a job.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "prefer_nhwc": "0" if precision == "fp32" else "1",
        "use_tf32": "0",
        "enable_cuda_graph": "1" if graphs else "0",
    }


def open_session(onnxruntime: Any, graph: str, settings: Any, providers: list[Any]) -> Any:
    """A session on these providers and no others: the library's retry with fewer of them is off.

    A provider whose libraries are missing is left out without an error: ask the session for its providers.
    """
    return onnxruntime.InferenceSession(graph, settings, providers=providers, enable_fallback=False)


@dataclass
class _Place:
    """The tensors of one tuple of shapes on the device, bound to the session."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    binding: Any
    run_options: Any


class BoundRuns:
    """Runs a session on tensors that stay on the device; a shape's second run is captured as a CUDA graph.

    A shape that comes once (a picture's encoding) is not worth the capture, which runs the graph twice more. The first
    `CAPTURED_SHAPES` shapes that repeat are captured; later ones run kernel by kernel.
    """

    def __init__(
        self, onnxruntime: Any, session: Any, spec: GraphSpec, *, device: str, index: int, graphs: bool
    ) -> None:
        """Keep what a run needs.

        Args:
            onnxruntime: the library.
            session: an `InferenceSession`.
            spec: the graph's signature.
            device: the kind of memory, "cuda".
            index: of the device.
            graphs: whether the session may capture CUDA graphs.
        """
        self._onnxruntime, self._session, self._spec = onnxruntime, session, spec
        self._device, self._index, self._graphs = device, index, graphs
        self._captured: dict[Shapes, _Place] = {}
        self._latest: tuple[Shapes, _Place] | None = None

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Copy the feeds, which fit the signature, to the device, run, and copy the outputs back."""
        place = self._place(feeds)
        for name, array in feeds.items():
            place.inputs[name].update_inplace(array)
        place.binding.synchronize_inputs()
        self._session.run_with_iobinding(place.binding, place.run_options)
        place.binding.synchronize_outputs()
        return {name: value.numpy() for name, value in place.outputs.items()}

    def _place(self, feeds: Arrays) -> _Place:
        """The tensors of the feeds' shapes: those kept, or new ones instead of those of the last shape."""
        shapes = tuple(feeds[spec.name].shape for spec in self._spec.inputs)
        if shapes in self._captured:
            return self._captured[shapes]
        if self._latest is None or self._latest[0] != shapes:
            self._latest = None  # its memory is free before the new shape's is taken
            self._latest = shapes, self._made(feeds)
        elif self._graphs and len(self._captured) < CAPTURED_SHAPES:
            (_, place), self._latest = self._latest, None
            place.run_options = self._run_options(len(self._captured) + 1)
            self._captured[shapes] = place
            return place
        return self._latest[1]

    def _made(self, feeds: Arrays) -> _Place:
        binding, sizes = self._session.io_binding(), self._spec.check(feeds)
        inputs = {spec.name: self._value(feeds[spec.name].shape, spec.dtype) for spec in self._spec.inputs}
        outputs = {spec.name: self._value(spec.shape(sizes), spec.dtype) for spec in self._spec.outputs}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Place(inputs, outputs, binding, self._run_options(_NO_GRAPH))

    def _run_options(self, graph: int) -> Any:
        options = self._onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options

    def _value(self, shape: tuple[int, ...], dtype: str) -> Any:
        make = self._onnxruntime.OrtValue.ortvalue_from_shape_and_type
        return make(list(shape), np.dtype(dtype).type, self._device, self._index)
