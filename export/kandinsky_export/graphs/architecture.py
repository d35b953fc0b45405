"""The ppdiffusers models of a checkpoint, and the tensors that they expect."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.checkpoint import Expected
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.decoder_modules import movq_config_faults, unet_config_faults
from kandinsky_export.graphs.prior_modules import (
    image_encoder_config_faults,
    prior_config_faults,
    text_encoder_config_faults,
)
from kandinsky_export.vendors import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PriorTransformer,
    UNet2DConditionModel,
    VQModel,
    no_init_weights,
    paddle,
)

Array = npt.NDArray[np.float32]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class _Architecture:
    """How a model is built from its config.

    Attributes:
        model: the model's class.
        faults: a function from a config with its defaults to its faults.
        settings: the class whose arguments are the settings: the model's, or its config's.
    """

    model: type[Any]
    faults: Callable[[Config], list[str]]
    settings: type[Any]

    def build(self, config: Config) -> Any:
        if self.settings is self.model:
            return self.model.from_config(dict(config))
        return self.model(self.settings(**config))


_MODELS: Mapping[str, _Architecture] = {
    "unet": _Architecture(UNet2DConditionModel, unet_config_faults, UNet2DConditionModel),
    "movq": _Architecture(VQModel, movq_config_faults, VQModel),
    "text_encoder": _Architecture(CLIPTextModelWithProjection, text_encoder_config_faults, CLIPTextConfig),
    "image_encoder": _Architecture(CLIPVisionModelWithProjection, image_encoder_config_faults, CLIPVisionConfig),
    "prior": _Architecture(PriorTransformer, prior_config_faults, PriorTransformer),
}
# Keys that transformers and PaddleNLP add to the settings of a config.
_NO_SETTINGS = frozenset(
    {"architectures", "dtype", "model_type", "paddlenlp_version", "torch_dtype", "transformers_version"}
)
# Settings of newer versions of diffusers, with the value for what ppdiffusers always builds.
_BUILT_ALWAYS = {"mid_block_add_attention": True}
# The errors of ppdiffusers and Paddle for a config without a model.
_BUILD_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)

_log = logging.getLogger(__name__)


def build_models(configs: Mapping[str, Config], subject: str) -> dict[str, Any]:
    """ppdiffusers models in evaluation mode whose parameters are declared but take no memory yet.

    Each parameter is named as in the state dict, and so are the weights in every graph traced from it. A model's
    `config` has every setting, those that the given config leaves to ppdiffusers included.

    Args:
        configs: the models' configs, by "unet", "movq", "text_encoder", "image_encoder" and "prior".
        subject: the checkpoint's name in errors.

    Raises:
        CheckpointError: lists every setting that is not that of a Kandinsky 2.2 model, of all configs.
    """
    complete = {name: _complete(name, config) for name, config in configs.items()}
    faults = [f"{name} config: {fault}" for name, config in configs.items() for fault in _class_faults(name, config)]
    faults += [f"{name} config: {fault}" for name, config in complete.items() for fault in _MODELS[name].faults(config)]
    models = {}
    if not faults:
        for name, config in complete.items():
            try:
                models[name] = _build(_MODELS[name], config)
            except _BUILD_ERRORS as error:
                reason = " ".join(str(error).split())
                faults.append(f"{name} config: ppdiffusers cannot build the model: {reason}")
    if faults:
        raise CheckpointError(subject, faults)
    return models


def _class_faults(name: str, config: Config) -> list[str]:
    wanted, got = _MODELS[name].model.__name__, config.get("_class_name")
    return [] if got in (None, wanted) else [f"`_class_name` is {got!r}; supported: {wanted!r}"]


def _complete(name: str, config: Config) -> dict[str, Any]:
    """The settings that ppdiffusers knows, from the config or by default."""
    parameters = inspect.signature(_MODELS[name].settings.__init__).parameters
    defaults = {key: item.default for key, item in parameters.items() if item.default is not inspect.Parameter.empty}
    unknown = [key for key in config if key not in {*defaults, *_NO_SETTINGS} and not key.startswith("_")]
    if dropped := [key for key in unknown if config[key] not in (None, False, _BUILT_ALWAYS.get(key))]:
        _log.warning("%s config: ppdiffusers does not know the settings %s: they are ignored", name, ", ".join(dropped))
    return defaults | {key: value for key, value in config.items() if key in defaults}


def _build(architecture: _Architecture, config: Config) -> Any:
    with paddle.LazyGuard(), no_init_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial values, which are never made
        model = architecture.build(config)
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
