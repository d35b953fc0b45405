"""Paddle and what is built on it, imported once and without the warnings that they print while they load."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
    import paddle2onnx.paddle2onnx_cpp2py_export as paddle2onnx
    from ppdiffusers import DDPMScheduler, KandinskyV22InpaintPipeline
    from ppdiffusers.models.attention_processor import Attention
    from ppdiffusers.models.unet_2d_condition import UNet2DConditionModel
    from ppdiffusers.models.vq_model import VQModel

__all__ = [
    "Attention",
    "DDPMScheduler",
    "KandinskyV22InpaintPipeline",
    "UNet2DConditionModel",
    "VQModel",
    "paddle",
    "paddle2onnx",
]
