"""Paddle Inference, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.cuda import cuda_errors, cuda_index
from kandinsky_runtime.engines.paddle.tensorrt import converted
from kandinsky_runtime.engines.records import BuildRecord
from kandinsky_runtime.engines.tensorrt_inside import check_shapes, record_of
from kandinsky_runtime.errors import EngineUnavailable

# The first size of a GPU's memory pool, which grows as needed.
_POOL_MB = 256
_PRECISION_TYPES = {Precision.FP32: "Float32", Precision.FP16: "Half", Precision.BF16: "Bfloat16"}


class PaddleEngine(Engine):
    """Runs the `paddle` variant through `paddle.inference`.

    On the CPU oneDNN stays off. With it, the UNet of a tiny checkpoint differed by 2e-3 from the eager mode of
    paddlepaddle 3.0.0, where the outputs have a standard deviation of 2e-2; without it, both agree bit for bit. On a
    GPU, Paddle's mixed precision pass turns the float32 program into fp16 or bf16; float32 runs without TF32. If
    `k22 build` has a record of the graph in this precision, it runs with TensorRT, within the record's profiles.
    """

    name = "paddle"
    library = "paddle"
    distribution = "paddlepaddle"
    variants: ClassVar[Mapping[str, str]] = {
        Precision.FP32: "paddle",
        Precision.FP16: "paddle",
        Precision.BF16: "paddle",
    }
    roles = ("program", "params")
    devices = ("cpu", "cuda")
    device_aliases: ClassVar[Mapping[str, str]] = {"gpu": "cuda"}

    @classmethod
    def precisions(cls, device: str) -> tuple[Precision, ...]:
        """Only float32 on the CPU."""
        return (Precision.FP32,) if cuda_index(device) is None else super().precisions(device)

    @classmethod
    def preferred_precisions(cls, device: str) -> tuple[Precision, ...]:
        """float32 on the CPU, fp16 first on a GPU."""
        return (Precision.FP32,) if cuda_index(device) is None else (Precision.FP16, Precision.FP32)

    @classmethod
    def requirement(cls, device: str) -> str:
        """`paddlepaddle-gpu` for a GPU, from PaddlePaddle's package index: PyPI's is too old."""
        if cuda_index(device) is None:
            return cls.distribution
        return "'paddlepaddle-gpu>=3.0' from PaddlePaddle's own package index (docs/engines.md)"

    @classmethod
    def _check_library_features(cls, device: str) -> None:
        if cuda_index(device) is None:
            return
        paddle = _library()
        if not paddle.is_compiled_with_cuda():
            raise EngineUnavailable(
                f"engine {cls.name}: the installed paddlepaddle {paddle.__version__} was built without CUDA:"
                f" pip uninstall paddlepaddle, then pip install {cls.requirement(device)}"
            )

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        paddle = _library()
        self._device, index = options.device, cuda_index(options.device)
        self._record = record_of(type(self), self.component, self.digests, options)
        program, params = files["program"], files["params"]
        if self._record is not None:
            with cuda_errors(self._subject, options.device):
                program, params = self._with_tensorrt(paddle, self._record, files)
        config = paddle.inference.Config(str(program), str(params))
        config.disable_glog_info()
        if index is None:
            config.disable_gpu()
            config.disable_mkldnn()
            config.set_cpu_math_library_num_threads(options.thread_count)
            self._predictor = paddle.inference.create_predictor(config)
            return
        with cuda_errors(self._subject, options.device):
            self._use_gpu(paddle, config, index, options)
            self._predictor = paddle.inference.create_predictor(config)

    def _with_tensorrt(self, paddle: Any, record: BuildRecord, files: Mapping[str, Path]) -> tuple[Path, Path]:
        try:
            return converted(paddle, record, self.spec, files)
        except ImportError as error:
            raise EngineUnavailable(
                f"{self._subject} was built with TensorRT, which this paddlepaddle-gpu lacks ({error}): pip install"
                " tensorrt in the version that it names, or run k22 build again"
            ) from error

    def _use_gpu(self, paddle: Any, config: Any, index: int, options: EngineOptions) -> None:
        if index >= (count := paddle.device.cuda.device_count()):
            there = "none" if not count else ", ".join(f"cuda:{number}" for number in range(count))
            raise EngineUnavailable(f"{self._subject}: there is no GPU {options.device}; Paddle finds {there}")
        if options.precision.is_float32:  # for the whole process: Paddle has no narrower switch
            paddle.base.core.set_cublas_switch(False)
            paddle.base.core.set_cudnn_switch(False)
        precision = getattr(paddle.inference.PrecisionType, _PRECISION_TYPES[options.precision])
        config.enable_use_gpu(_POOL_MB, index, precision)
        if not config.use_gpu():  # without CUDA support, it only logs a message
            raise EngineUnavailable(f"{self._subject}: Paddle Inference refused {options.device}")

    @property
    def _subject(self) -> str:
        return f"{self.component} on {self.name}"

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        if self._record is not None:
            check_shapes(self._subject, self.spec, self._record, feeds)
        with cuda_errors(self._subject, self._device):
            for name, array in feeds.items():
                self._predictor.get_input_handle(name).copy_from_cpu(array)
            self._predictor.run()
            # A Paddle program names its outputs by position.
            handles = [self._predictor.get_output_handle(name) for name in self._predictor.get_output_names()]
            return {spec.name: handle.copy_to_cpu() for spec, handle in zip(self.spec.outputs, handles, strict=True)}

    def _release(self) -> None:
        del self._predictor


def _library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing paddle warns of missing compilers
        import paddle
        import paddle.inference
    return paddle
