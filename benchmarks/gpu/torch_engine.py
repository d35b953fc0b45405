"""PyTorch behind the runtime's own engine interface, so that every contestant is measured by the same loop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch.fx.experimental.proxy_tensor import make_fx

from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions

CONFIGS = Path(__file__).parent / "configs"
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchEager(Engine):
    """diffusers' modules, or the exported graph node by node if diffusers is not installed."""

    name = "torch"
    library = "torch"
    distribution = "torch"
    variants: ClassVar[Mapping[str, str]] = dict.fromkeys(_DTYPES, "onnx-fp32")
    roles = ("graph", "weights")
    devices = ("cpu", "cuda")
    compile_mode: ClassVar[str | None] = None

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        self._dtype, self._device = _DTYPES[options.precision], options.device
        module = _module(self.component, files["graph"], self._dtype, self._device)
        self._call: Any = module if self.compile_mode is None else _Compiled(module, self.compile_mode)

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        with torch.no_grad():
            inputs = [torch.from_numpy(feeds[spec.name]).to(self._device) for spec in self.spec.inputs]
            outputs = self._call(*inputs)
            return {
                spec.name: output.float().cpu().numpy() for spec, output in zip(self.spec.outputs, outputs, strict=True)
            }

    def _release(self) -> None:
        del self._call
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def operations(self, feeds: Arrays) -> int:
        """Floating-point operations of the matrix products and convolutions of a run, counted by PyTorch."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.run(feeds)
        return int(counter.get_total_flops())


class TorchCompiled(TorchEager):
    """The same after `torch.compile`; every shape is compiled by itself."""

    name = "torch-compile"
    compile_mode = "default"


def source() -> str:
    """The modules that the PyTorch engines run here."""
    try:
        import diffusers
    except ImportError:
        return "the exported graph, node by node (diffusers is not installed)"
    return f"diffusers {diffusers.__version__}'s modules"


def _module(component: str, graph: Path, dtype: torch.dtype, device: str) -> torch.nn.Module:
    try:
        import diffusers  # noqa: F401
    except ImportError:
        return _Graph(graph, dtype, device)
    model = "unet" if component == "unet" else "movq"
    network = _diffusers_model(model, graph).eval().to(device, dtype)
    return _WRAPPERS[component](network)


class _Graph(torch.nn.Module):
    """The graph, with floats of one type throughout; float32 at the boundary."""

    def __init__(self, graph: Path, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        from torch_graph import TorchGraph

        self.graph, self.dtype = TorchGraph(graph, device, dtype), dtype

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.graph(*(item.to(self.dtype) for item in inputs))


class _Compiled:
    """A module compiled for each shape by itself."""

    def __init__(self, module: torch.nn.Module, mode: str) -> None:
        settings = torch._dynamo.config
        limit = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"  # since PyTorch 2.6
        setattr(settings, limit, 64)
        self._module, self._mode = module, mode
        self._compiled: dict[tuple[torch.Size, ...], Any] = {}

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shapes = tuple(item.shape for item in inputs)
        if shapes not in self._compiled:
            module = self._module
            if isinstance(module, _Graph):  # the compiler does not follow numpy: trace, which runs it once
                module = make_fx(module, pre_dispatch=True)(*inputs)
            self._compiled[shapes] = torch.compile(module, mode=self._mode, dynamic=False)
        return self._compiled[shapes](*inputs)


class _UNet(torch.nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, image_embeds: torch.Tensor) -> tuple[torch.Tensor]:
        dtype = self.unet.dtype
        condition = {"image_embeds": image_embeds.to(dtype)}
        return self.unet(sample.to(dtype), timestep, None, added_cond_kwargs=condition, return_dict=False)


class _Encoder(torch.nn.Module):
    def __init__(self, movq: Any) -> None:
        super().__init__()
        self.encoder, self.quant_conv = movq.encoder, movq.quant_conv

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.quant_conv(self.encoder(image.to(self.quant_conv.weight.dtype))),)


class _Decoder(torch.nn.Module):
    def __init__(self, movq: Any) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = movq.decoder, movq.post_quant_conv

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
        latents = latents.to(self.post_quant_conv.weight.dtype)
        return (self.decoder(self.post_quant_conv(latents), latents),)


_WRAPPERS = {"unet": _UNet, "movq_encoder": _Encoder, "movq_decoder": _Decoder}


def _diffusers_model(model: str, graph: Path) -> Any:
    """diffusers' model with the weights that the graph reads; the other half of MoVQ keeps its initial weights.

    Raises:
        ValueError: the graph has a weight that the model lacks.
    """
    from diffusers import UNet2DConditionModel, VQModel, logging

    logging.set_verbosity_error()
    config = json.loads((CONFIGS / f"{model}.json").read_text(encoding="utf-8"))
    network = {"unet": UNet2DConditionModel, "movq": VQModel}[model].from_config(config)
    state = {}
    for tensor in onnx.load(graph).graph.initializer:
        if tensor.name in network.state_dict():
            array = numpy_helper.to_array(tensor)
            state[tensor.name] = torch.from_numpy(np.array(array.T if array.ndim == 2 else array))
    missing, unexpected = network.load_state_dict(state, strict=False)
    if unexpected or (model == "unet" and missing):
        raise ValueError(f"the graph's weights are not those of the model: {(*unexpected, *missing)[:5]}")
    return network
