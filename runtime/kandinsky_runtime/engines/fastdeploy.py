"""FastDeploy 1.0.7, on the CPU, through its OpenVINO backend.

Unverified: written from the source of release 1.0.7 (2023) and never run with it, because no package registry has it.
FastDeploy 2 runs language models only and has no such interface. Of the other backends of release 1.0.7, ONNX Runtime
reads an ONNX file into memory and then cannot find its weights file, and Paddle Inference is older than the bundle's
program format. TensorRT was not examined.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.errors import EngineError, EngineUnavailable

VERSION = "1.0.7"
_WHERE = "from the wheels that FastDeploy's own installation guide links; PyPI has none"


class FastDeployEngine(Engine):
    """Runs `onnx-fp32` through `fastdeploy.Runtime`. It must be requested by name."""

    name = "fastdeploy"
    library = "fastdeploy"
    distribution = "fastdeploy-python"
    variants: ClassVar[Mapping[str, str]] = {Precision.FP32: "onnx-fp32"}
    roles = ("graph", "weights")
    automatic = False

    @classmethod
    def requirement(cls, device: str) -> str:
        """The release, and where to get it."""
        return f"{cls.distribution}=={VERSION} {_WHERE}"

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        import fastdeploy

        if not hasattr(fastdeploy, "RuntimeOption"):
            raise EngineUnavailable(
                f"this fastdeploy has no RuntimeOption; expected release {VERSION}: pip install"
                f" {self.requirement(options.device)}"
            )
        settings = fastdeploy.RuntimeOption()
        settings.set_model_path(str(files["graph"]), model_format=fastdeploy.ModelFormat.ONNX)
        settings.use_cpu()
        settings.use_openvino_backend()
        settings.set_cpu_thread_num(options.thread_count)
        self._runtime = fastdeploy.Runtime(settings)
        self._outputs = [self._runtime.get_output_info(i).name for i in range(self._runtime.num_outputs())]

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        results = self._runtime.infer(dict(feeds))
        if len(results) != len(self._outputs):
            raise EngineError(f"fastdeploy returned {len(results)} tensors; expected {', '.join(self._outputs)}")
        return dict(zip(self._outputs, results, strict=True))

    def _release(self) -> None:
        del self._runtime
