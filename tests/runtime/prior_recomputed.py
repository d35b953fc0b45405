"""The fake prior's embeddings, recomputed in the simplest way: text by text, without padding or batches.

Legend: E embedding width
"""

from __future__ import annotations

import numpy as np

from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.noise import NoiseSource, TorchNoise
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import CONSTANTS, END, SIDE, START, TOKENS, UNCLIP, VOCABULARY, WIDTH

STEPS = 5
NO_PICTURE = CONSTANTS["negative_image_embeds"]
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def ids_of(text: str) -> list[int]:
    """The token ids of words of letters: tokens are single letters, except "hat" and "at" at the end of a word."""
    tokens = []
    for word in text.lower().split():
        end = next((end for end in ("hat", "at") if word.endswith(end)), word[-1])
        tokens += [*word.removesuffix(end), f"{end}</w>"]
    return [VOCABULARY[token] for token in (START, *tokens[: TOKENS - 2], END)]


def encoded(text: str) -> dict[str, np.ndarray]:
    """The text inputs of the prior for one text, each with a batch of one."""
    ids = np.array([ids_of(text)])
    pool = np.zeros(ids.shape, np.float32)
    pool[0, -1] = 1
    return {**fake_bundle.text_encoder(ids, pool), "text_mask": np.ones(ids.shape, np.float32)}


def picture_embedding(pixels: np.ndarray) -> np.ndarray:
    """The embedding (1, E) of an 8-bit picture (8, 8, 3)."""
    assert pixels.shape == (SIDE, SIDE, 3)
    values = ((pixels / 255).astype(np.float32) - MEAN) / STD
    return fake_bundle.image_encoder(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))["image_embeds"]


def draws(noise: NoiseSource, rows: int = 1, steps: int = STEPS) -> np.ndarray:
    """The noise of one run of the prior, (steps, rows, E): first latents, then the noise of each step but the last."""
    return np.stack([noise.draw((rows, WIDTH)) for _ in range(steps)])


def denoised(text: str, negative: str, noise: np.ndarray, scale: float = 4.0) -> np.ndarray:
    """The embedding (1, E) that the prior makes from noise (steps, E)."""
    steps = len(noise)
    sampler = schedulers.load(UNCLIP).sampler(steps, (1, WIDTH))
    latents = noise[:1]
    for i, t in enumerate(sampler.timesteps):
        step = {"latents": latents, "timestep": np.array([t], np.float32)}
        predicted = fake_bundle.prior(**step, **encoded(text))["predicted_image_embeds"]
        if scale > 1:
            away = fake_bundle.prior(**step, **encoded(negative))["predicted_image_embeds"]
            predicted = away + np.float32(scale) * (predicted - away)
        latents = sampler.step(i, predicted, latents, noise[i + 1 : i + 2] if i + 1 < steps else None).copy()
    return latents * CONSTANTS["clip_std"] + CONSTANTS["clip_mean"]


def embedding(
    text: str, negative: str | None = None, source: NoiseSource | None = None, steps: int = STEPS, scale: float = 4.0
) -> tuple[np.ndarray, np.ndarray]:
    """The embedding and negative embedding of one prompt, each (1, E). The default noise has seed 5."""
    noise = draws(source or TorchNoise(5), 1 if negative is None else 2, steps)
    away = "" if negative is None else negative
    made = denoised(text, away, noise[:, 0], scale)
    return made, NO_PICTURE if negative is None else denoised(negative, negative, noise[:, 1], scale)
