"""The ppdiffusers models of a checkpoint, and the tensors that they expect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.errors import CheckpointError
from kandinsky_export.modules import check_movq_config, check_unet_config
from kandinsky_export.vendors import UNet2DConditionModel, VQModel, paddle

Array = npt.NDArray[np.float32]
MODELS: Mapping[str, tuple[type[Any], Callable[[Mapping[str, Any]], None]]] = {
    "unet": (UNet2DConditionModel, check_unet_config),
    "movq": (VQModel, check_movq_config),
}


@dataclass(frozen=True)
class Expected:
    """A tensor that a model expects: its shape in Paddle's layout, and whether PyTorch stores it transposed."""

    shape: tuple[int, ...]
    transposed: bool

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape in PyTorch's layout: Linear weights are [out, in] there and [in, out] in Paddle."""
        return self.shape[::-1] if self.transposed else self.shape


def build(name: str, config: Mapping[str, Any]) -> Any:
    """A ppdiffusers model in evaluation mode whose parameters are declared but take no memory yet.

    Each parameter is named as in the state dict, and so are the weights in every graph traced from it.

    Args:
        name: "unet" or "movq".
        config: its config.

    Raises:
        CheckpointError: the config is not that of a Kandinsky 2.2 model; lists what is not supported.
    """
    model_class, check = MODELS[name]
    check(config)
    try:
        with paddle.LazyGuard():
            model = model_class.from_config(dict(config))
    except (ValueError, TypeError, IndexError, KeyError, AssertionError, ZeroDivisionError) as error:
        raise CheckpointError(f"{name} config", [f"ppdiffusers cannot build the model: {error}"]) from error
    model.eval()
    for parameter_name, parameter in model.named_parameters():
        parameter.name = parameter_name
    return model


def expected_tensors(model: Any) -> dict[str, Expected]:
    """Name → what the model expects, for every tensor of its state dict."""
    linear = {
        f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, paddle.nn.Linear)
    }
    return {
        name: Expected(tuple(parameter.shape), name in linear) for name, parameter in model.named_parameters()
    }


def fill(model: Any, tensors: Mapping[str, Callable[[], Array]]) -> None:
    """Give a built model its values, one tensor at a time."""
    for name, parameter in model.named_parameters():
        parameter.set_value(tensors[name]())
