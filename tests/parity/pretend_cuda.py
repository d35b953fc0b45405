"""Fakes of ONNX Runtime and Paddle Inference with a GPU: they record calls, and the CPU does the work."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class PretendOnnxruntime(ModuleType):
    """The installed onnxruntime, with a CUDA provider that is the CPU's.

    Attributes:
        found: the providers that the build has.
        opened: the requested providers of every session.
        failure: a function from the number of earlier sessions to the error to raise instead of opening one, or None.
        left_out: whether the library silently leaves the provider out, as it does if CUDA is not installed.
        graph_ids: the `gpu_graph_id` of every run.
        places: (device, number) of every tensor.
        printed: the text that `preload_dlls` prints.
    """

    def __init__(self) -> None:
        super().__init__("onnxruntime")
        self.__spec__, self.__version__, self.cuda_version = onnxruntime.__spec__, "1.99.0", "13.0"
        self.found: list[str] = ["TensorrtExecutionProvider", CUDA, CPU]
        self.opened: list[list[Any]] = []
        self.failure: Callable[[int], Exception | None] = lambda number: None
        self.left_out = False
        self.graph_ids: list[str] = []
        self.places: list[tuple[str, int]] = []
        self.printed = ""
        self.SessionOptions = onnxruntime.SessionOptions
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._value)
        pretend = self

        class RunOptions(onnxruntime.RunOptions):
            def add_run_config_entry(self, key: str, value: str) -> None:
                assert key == "gpu_graph_id"
                super().add_run_config_entry(key, value)
                self.graph_id = value

        class InferenceSession(onnxruntime.InferenceSession):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                asked = inspect.signature(onnxruntime.InferenceSession.__init__).bind(self, *args, **kwargs).arguments
                pretend.opened.append(asked["providers"])
                if CUDA in provider_names(asked["providers"]):
                    assert asked["kwargs"] == {"enable_fallback": False}, "the library would retry with other providers"
                if (error := pretend.failure(len(pretend.opened) - 1)) is not None:
                    raise error
                self.pretended = [CPU] if pretend.left_out else provider_names(asked["providers"])
                super().__init__(*args, **kwargs | {"providers": [CPU]})

            def get_providers(self) -> list[str]:
                return self.pretended

            def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
                pretend.graph_ids.append(run_options.graph_id)
                super().run_with_iobinding(iobinding, run_options)

        self.RunOptions, self.InferenceSession = RunOptions, InferenceSession

    def get_available_providers(self) -> list[str]:
        return self.found

    def set_default_logger_severity(self, severity: int) -> None:
        assert severity == 4, "the library's log messages are in the errors, too"

    def preload_dlls(self) -> None:
        print(self.printed, end="")

    def _value(self, *args: Any, **kwargs: Any) -> Any:
        real = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        asked = inspect.signature(real).bind(*args, **kwargs).arguments
        self.places.append((asked["device_type"], asked["device_id"]))
        return _DeviceValue(real(asked["shape"], asked["element_type"], "cpu", 0)._ortvalue)


class _DeviceValue(onnxruntime.OrtValue):
    """A tensor whose `numpy` is a copy, as for device memory; for CPU memory it is a view."""

    def numpy(self) -> Any:
        return super().numpy().copy()


class PretendPaddle(ModuleType):
    """The installed paddle, which claims to be built for CUDA; `calls` has the calls of every config."""

    def __init__(self, gpus: int = 1) -> None:
        super().__init__("paddle")
        import paddle
        from paddle import inference

        self.__spec__, self.__version__ = paddle.__spec__, "3.9.0"
        self.built_with_cuda, self.refuses = True, False
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.switches: dict[str, bool] = {}
        self.failure: Exception | None = None
        pretend = self

        class Config(inference.Config):  # type: ignore[misc]
            def __getattribute__(self, name: str) -> Any:
                real = super().__getattribute__(name)
                if name.startswith("__") or not callable(real):
                    return real
                if name == "use_gpu":
                    return lambda: not pretend.refuses

                def call(*args: Any) -> Any:
                    pretend.calls.append((name, args))
                    return None if name == "enable_use_gpu" else real(*args)

                return call

        def create_predictor(config: Any) -> Any:
            if pretend.failure is not None:
                raise pretend.failure
            return inference.create_predictor(config)

        self.inference = SimpleNamespace(
            Config=Config, create_predictor=create_predictor, PrecisionType=inference.PrecisionType
        )
        self.__path__: list[str] = []  # a package
        self.conversions: list[dict[str, Any]] = []
        self.tensorrt = self._tensorrt()
        self.device = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: gpus))
        self.base = SimpleNamespace(
            core=SimpleNamespace(
                set_cublas_switch=lambda on: self.switches.update(cublas=on),
                set_cudnn_switch=lambda on: self.switches.update(cudnn=on),
            )
        )
        assert not paddle.is_compiled_with_cuda(), "the tests are for a machine without a GPU"

    def _tensorrt(self) -> ModuleType:
        """`paddle.tensorrt` of paddlepaddle-gpu 3.0, as declared in its source; a conversion copies the program."""

        def config(inputs: list[Any], *, save_model_dir: str, precision_mode: str) -> dict[str, Any]:
            return {"inputs": inputs, "save_model_dir": save_model_dir, "precision_mode": precision_mode}

        def given(*, warmup_data: tuple[Any, ...], name: str) -> dict[str, Any]:
            return {"warmup_data": warmup_data, "name": name}

        def convert(model_path: str, config: dict[str, Any]) -> None:
            self.conversions.append(config)
            program = Path(model_path)
            shutil.copy(program, config["save_model_dir"] + ".json")
            shutil.copy(program.with_suffix(".pdiparams"), config["save_model_dir"] + ".pdiparams")

        module, export = ModuleType("paddle.tensorrt"), ModuleType("paddle.tensorrt.export")
        export.__dict__.update(
            TensorRTConfig=config, Input=given, PrecisionMode=SimpleNamespace(FP32="FP32", FP16="FP16", BF16="BF16")
        )
        module.__dict__.update(convert=convert, export=export, __path__=[])
        return module

    def is_compiled_with_cuda(self) -> bool:
        return self.built_with_cuda


def provider_names(providers: Sequence[Any]) -> list[str]:
    """The providers, without their options."""
    return [item if isinstance(item, str) else item[0] for item in providers]
