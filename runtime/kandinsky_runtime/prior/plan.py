"""Checked prompts, and the embeddings that the prior makes from them, with their noise.

Legend: B samples · E embedding width · S side of an encoded picture
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.prior.prompts import Prompt
from kandinsky_runtime.prior.tokenizer import MAX_SHOWN_CHARACTERS, Tokens, shown
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.noise import NoiseSource

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PromptPlan:
    """Checked prompts, before the run.

    Attributes:
        prompts: one prompt for each sample, or one for all.
        negatives: a negative text for each prompt, or None for the embedding of no picture.
        tokens: the tokens of every different text, or None if there is no text.
        rows: the row of each text in `tokens`.
        pictures: the pixels of each picture, (1, 3, S, S); prompts refer to a picture by its index.
        scheduler: the prior's scheduler.
        steps: the number of steps of the loop.
        guidance_scale: the weight of guidance in the loop; guidance is off at 1 and below.
        notes: messages for the user, one sentence each.
    """

    prompts: tuple[Prompt, ...]
    negatives: tuple[str | None, ...]
    tokens: Tokens | None
    rows: dict[str, int]
    pictures: tuple[Array, ...]
    scheduler: schedulers.Scheduler
    steps: int
    guidance_scale: float
    notes: tuple[str, ...]

    def per_sample(self, prompts: int, repeats: int) -> list[tuple[Prompt, str | None]]:
        """Prompt and negative text of each sample: a single prompt is used for all, and each is repeated in a row."""
        pairs = list(zip(self.prompts, self.negatives, strict=True))
        pairs = pairs * prompts if len(pairs) == 1 else pairs
        return [pair for pair in pairs for _ in range(repeats)]


@dataclass(frozen=True)
class EmbeddingTask:
    """One embedding that the prior makes from a text.

    Attributes:
        sample: the index of the sample.
        text: the text to encode.
        negative: the text that guidance steers away from.
        weight: the weight in the sample's embedding, or None if it is the negative embedding.
        noise: the first latents and the noise of every step that draws, (1 + draws, E).
    """

    sample: int
    text: str
    negative: str
    weight: float | None
    noise: Array


def embeddings_to_make(
    sample: int, prompt: Prompt, negative: str | None, source: NoiseSource, draws: int, width: int
) -> Iterable[EmbeddingTask]:
    """The embeddings that the prior makes for a sample, with noise drawn in diffusers' order.

    With a negative text, each draw has two rows: the prompt's and the negative's. A mix draws for each of its texts in
    turn. It then draws for the negative, even if there is none.
    """
    away = "" if negative is None else negative

    def drawn() -> Array:
        shape = (1 if negative is None else 2, width)
        return np.stack([source.draw(shape) for _ in range(1 + draws)], axis=1)  # (rows, 1 + draws, E)

    if prompt.plain:
        noise = drawn()
        yield EmbeddingTask(sample, prompt.texts[0], away, 1.0, noise[0])
        if negative is not None:
            yield EmbeddingTask(sample, negative, negative, None, noise[1])
        return
    for part, weight in zip(prompt.parts, prompt.weights, strict=True):
        if isinstance(part, str):
            yield EmbeddingTask(sample, part, away, weight, drawn()[0])
    last = drawn()
    if negative is not None:
        yield EmbeddingTask(sample, negative, negative, None, last[0])


def truncation_notes(tokens: Tokens) -> Iterable[str]:
    """A sentence for each truncated text."""
    for dropped in tokens.dropped:
        if dropped is not None:
            part = shown(dropped, MAX_SHOWN_CHARACTERS)
            yield f"a prompt has more tokens than the text encoder takes; its end was cut off: {part}"
