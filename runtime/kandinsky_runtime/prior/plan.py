"""Checked prompts, and the embeddings that the prior makes of them, with their noise.

Legend: B samples · E embedding width · S side of an encoded picture
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.prior.prompts import Prompt
from kandinsky_runtime.prior.tokenizer import LONGEST_IN_A_MESSAGE, Tokens, shown
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.noise import NoiseSource

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PromptPlan:
    """Checked prompts, before anything is computed from them.

    Attributes:
        prompts: one for each sample, or one for all.
        negatives: a negative text for each prompt, or None for the embedding of an empty picture.
        tokens: the tokens of every different text; None if there is none.
        rows: the row of each text in `tokens`.
        pictures: pixels (1, 3, S, S) of each picture, in the order of its number in the prompts.
        scheduler: the prior's.
        steps: steps of the loop.
        guidance_scale: weight of the loop's guidance; 1 and below for none.
        notes: what the user should know, one sentence each.
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
        """Prompt and negative of each sample: a single one is used for all, and each is repeated in a row."""
        pairs = list(zip(self.prompts, self.negatives, strict=True))
        pairs = pairs * prompts if len(pairs) == 1 else pairs
        return [pair for pair in pairs for _ in range(repeats)]


@dataclass(frozen=True)
class EmbeddingTask:
    """One embedding that the prior makes: of `text`, away from `negative`.

    Attributes:
        sample: the sample's number.
        text, negative: the texts.
        weight: the weight in the sample's embedding; None for its negative embedding.
        noise: first latents and every step's noise, (1 + draws, E).
    """

    sample: int
    text: str
    negative: str
    weight: float | None
    noise: Array


def embeddings_to_make(
    sample: int, prompt: Prompt, negative: str | None, source: NoiseSource, draws: int, width: int
) -> Iterable[EmbeddingTask]:
    """The embeddings that the prior makes for a sample, their noise drawn in diffusers' order.

    With a negative text each draw has two rows, the prompt's and the negative's. A mix draws for one of its texts after
    the other, and at last for the negative, even if there is none.
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
    """A sentence for each text that was cut off."""
    for dropped in tokens.dropped:
        if dropped is not None:
            yield f"a prompt is longer than the text encoder's tokens; left out: {shown(dropped, LONGEST_IN_A_MESSAGE)}"
