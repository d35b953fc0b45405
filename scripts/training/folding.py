"""MoVQ's latents brought to mean 0 and deviation 1, exactly: no picture changes.

The pipelines never apply `scaling_factor`, so the scale must be part of the weights. The encoder's last convolution
takes it, and each of the decoder's convolutions that read the latents takes the inverse. All of them are 1 × 1.
"""

from __future__ import annotations

import torch
from diffusers import VQModel
from torch import nn


@torch.no_grad()
def fold_scale(model: VQModel, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Make `encode` return (latents - mean) / deviation, and `decode` take them; mean and deviation are (4,)."""
    last = model.quant_conv
    last.bias.copy_((last.bias - mean) / deviation)
    last.weight.div_(deviation[:, None, None, None])
    for name, module in model.named_modules():
        reads_latents = name == "post_quant_conv" or name.endswith((".conv_y", ".conv_b"))
        if reads_latents and isinstance(module, nn.Conv2d):
            module.bias.add_(module.weight[:, :, 0, 0] @ mean)
            module.weight.mul_(deviation[None, :, None, None])


@torch.no_grad()
def fill_codebook(model: VQModel, latents: torch.Tensor, seed: int) -> None:
    """Fill the codebook with centres of latents (n, 4), found by k-means.

    The inpainting pipelines decode without it; it is here so that a decode with quantisation is not noise.
    """
    generator = torch.Generator().manual_seed(seed)
    codes = model.quantize.embedding.weight
    centres = latents[torch.randperm(len(latents), generator=generator)[: len(codes)]].clone()
    for _ in range(20):
        nearest = torch.cdist(latents, centres).argmin(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, latents)
        counts = torch.bincount(nearest, minlength=len(centres))
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    codes.copy_(centres)
