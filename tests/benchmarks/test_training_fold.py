"""MoVQ's scale folded into its weights: pictures stay, latents get mean 0 and deviation 1."""

from __future__ import annotations

import pytest

from tests.tolerances import FOLDED_MEAN, FOLDED_PICTURE, FOLDED_SPREAD, SPATIAL_NORM

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def test_folding_changes_latents_and_no_picture() -> None:
    from scripts.training.folding import fold_scale
    from scripts.training.movq import CONFIG

    torch.manual_seed(0)
    model = diffusers.VQModel(**CONFIG).eval()
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = model.encode(pictures).latents
        before = model.decode(latents, force_not_quantize=True).sample
        variance, mean = torch.var_mean(latents, dim=(0, 2, 3))
        fold_scale(model, mean, variance.sqrt())
        folded = model.encode(pictures).latents
        after = model.decode(folded, force_not_quantize=True).sample
    assert torch.allclose(folded.mean(dim=(0, 2, 3)), torch.zeros(4), atol=FOLDED_MEAN)
    assert torch.allclose(folded.std(dim=(0, 2, 3)), torch.ones(4), atol=FOLDED_SPREAD)
    assert torch.allclose(before, after, atol=FOLDED_PICTURE)


def test_spatial_norm_of_training_is_diffusers() -> None:
    from diffusers.models.attention_processor import SpatialNorm

    from scripts.training.movq import spatial_norm

    torch.manual_seed(0)
    norm = SpatialNorm(64, 4)
    features, latents = torch.randn(2, 64, 16, 24), torch.randn(2, 4, 4, 6)
    assert torch.allclose(norm(features, latents), spatial_norm(norm, features, latents), atol=SPATIAL_NORM)
