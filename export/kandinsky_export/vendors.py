"""Paddle and what is built on it, imported once and without the warnings that they print while they load."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
    import paddle2onnx.paddle2onnx_cpp2py_export as paddle2onnx
    from paddlenlp.transformers.model_utils import no_init_weights
    from ppdiffusers import DDPMScheduler, KandinskyV22InpaintPipeline, KandinskyV22Pipeline
    from ppdiffusers.models.attention_processor import Attention
    from ppdiffusers.models.prior_transformer import PriorTransformer
    from ppdiffusers.models.unet_2d_condition import UNet2DConditionModel
    from ppdiffusers.models.vq_model import VQModel
    from ppdiffusers.transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

__all__ = [
    "Attention",
    "CLIPTextConfig",
    "CLIPTextModelWithProjection",
    "CLIPVisionConfig",
    "CLIPVisionModelWithProjection",
    "DDPMScheduler",
    "KandinskyV22InpaintPipeline",
    "KandinskyV22Pipeline",
    "PriorTransformer",
    "UNet2DConditionModel",
    "VQModel",
    "no_init_weights",
    "paddle",
    "paddle2onnx",
]
