"""The ppdiffusers models of a checkpoint, and the tensors that they expect."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoint import Expected
from kandinsky_export.errors import CheckpointError
from kandinsky_export.modules import movq_config_faults, unet_config_faults
from kandinsky_export.vendors import UNet2DConditionModel, VQModel, paddle

Array = npt.NDArray[np.float32]
Config = Mapping[str, Any]

_MODELS: Mapping[str, tuple[type[Any], Callable[[Config], list[str]]]] = {
    "unet": (UNet2DConditionModel, unet_config_faults),
    "movq": (VQModel, movq_config_faults),
}
# What ppdiffusers and Paddle raise for a config of which they can make no model.
_BUILD_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)

_log = logging.getLogger(__name__)


def build_models(configs: Mapping[str, Config], subject: str) -> dict[str, Any]:
    """ppdiffusers models in evaluation mode whose parameters are declared but take no memory yet.

    Each parameter is named as in the state dict, and so are the weights in every graph traced from it. A model's
    `config` has every setting, those that the given config leaves to ppdiffusers included.

    Args:
        configs: of the models, by "unet" and "movq".
        subject: how errors name the checkpoint.

    Raises:
        CheckpointError: lists every setting that is not that of a Kandinsky 2.2 inpainting model, of all configs.
    """
    complete = {name: _complete(name, config) for name, config in configs.items()}
    faults = [f"{name} config: {fault}" for name, config in configs.items() for fault in _class_faults(name, config)]
    faults += [f"{name} config: {fault}" for name, config in complete.items() for fault in _MODELS[name][1](config)]
    models = {}
    if not faults:
        for name, config in complete.items():
            try:
                models[name] = _build(_MODELS[name][0], config)
            except _BUILD_ERRORS as error:
                reason = " ".join(str(error).split())
                faults.append(f"{name} config: ppdiffusers cannot build the model: {reason}")
    if faults:
        raise CheckpointError(subject, faults)
    return models


def _class_faults(name: str, config: Config) -> list[str]:
    wanted, got = _MODELS[name][0].__name__, config.get("_class_name")
    return [] if got in (None, wanted) else [f"`_class_name` is {got!r}; supported: {wanted!r}"]


def _complete(name: str, config: Config) -> dict[str, Any]:
    """The settings that ppdiffusers knows, from the config or by default."""
    parameters = inspect.signature(_MODELS[name][0].__init__).parameters
    defaults = {key: item.default for key, item in parameters.items() if item.default is not inspect.Parameter.empty}
    unknown = [key for key in config if key not in defaults and not key.startswith("_")]
    if meant := [key for key in unknown if config[key] not in (None, False)]:
        _log.warning("%s config: ppdiffusers does not know %s; left out", name, ", ".join(meant))
    return defaults | {key: value for key, value in config.items() if key in defaults}


def _build(model_class: type[Any], config: Config) -> Any:
    with paddle.LazyGuard(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial values, which are never made
        model = model_class.from_config(dict(config))
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.name = name
    return model


def expected_tensors(model: Any) -> dict[str, Expected]:
    """Name → what the model expects, for every tensor of its state dict."""
    linear = {f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, paddle.nn.Linear)}
    return {name: Expected(tuple(parameter.shape), name in linear) for name, parameter in model.named_parameters()}


def fill(model: Any, tensors: Mapping[str, Callable[[], Array]]) -> None:
    """Give a built model its values, one tensor at a time."""
    for name, parameter in model.named_parameters():
        parameter.set_value(tensors[name]())
