"""Runs of one shape on tensors that stay in the GPU's memory, bound to the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.spec import GraphSpec, TensorSpec
from kandinsky_runtime.engines.base import Arrays


class ShapeRun:
    """The tensors of one shape, and how the session runs on them."""

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        device: Any,
        spec: GraphSpec,
        sizes: Mapping[str, int],
        run_options: Mapping[str, str],
    ) -> None:
        """Allocate the tensors and bind them.

        Args:
            onnxruntime: the library.
            session: an `InferenceSession` on the device.
            device: the `OrtEpDevice` in whose memory the tensors are.
            spec: the graph's signature.
            sizes: of each of its symbols.
            run_options: the provider's options for each run.
        """
        self._onnxruntime, self._session = onnxruntime, session
        memory = device.memory_info(onnxruntime.OrtDeviceMemoryType.DEFAULT)

        def allocate(tensor: TensorSpec) -> Any:
            make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
            return make(list(tensor.shape(sizes)), np.dtype(tensor.dtype).type, memory_info=memory)

        self._inputs = {tensor.name: allocate(tensor) for tensor in spec.inputs}
        self._outputs = {tensor.name: allocate(tensor) for tensor in spec.outputs}
        self._results = {
            tensor.name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                list(tensor.shape(sizes)), np.dtype(tensor.dtype).type
            )
            for tensor in spec.outputs
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = onnxruntime.RunOptions()
        for name, text in run_options.items():
            self._options.add_run_config_entry(name, text)

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Copy the feeds to the device, run, and copy the outputs back."""
        on_host = self._onnxruntime.OrtValue.ortvalue_from_numpy
        self._onnxruntime.copy_tensors([on_host(feeds[name]) for name in self._inputs], list(self._inputs.values()))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()
        self._onnxruntime.copy_tensors(list(self._outputs.values()), list(self._results.values()))
        return {name: np.array(value.numpy()) for name, value in self._results.items()}
