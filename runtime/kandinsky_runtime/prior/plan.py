"""What the prior is asked for, checked, and the embeddings that it has to make, with their noise.

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
class Plan:
    """Checked prompts, before anything is computed of them.

    Attributes:
        prompts: one for each sample, or fewer that are still to be shared out.
        negatives: a negative text for each prompt, or None for the embedding of no picture.
        tokens: of every different text; None where there is none.
        rows: of each text in `tokens`.
        pictures: pixels (1, 3, S, S) of each picture, by its `id`.
        method: the scheduler.
        steps: of the loop.
        guidance_scale: weight of the loop's guidance; 1 and below: none.
        notes: what the user should know, one sentence each.
    """

    prompts: tuple[Prompt, ...]
    negatives: tuple[str | None, ...]
    tokens: Tokens | None
    rows: dict[str, int]
    pictures: dict[int, Array]
    method: schedulers.Scheduler
    steps: int
    guidance_scale: float
    notes: tuple[str, ...]

    def shared_out(self, prompts: int, repeats: int) -> list[tuple[Prompt, str | None]]:
        """Prompt and negative of each sample: those given once serve all, and each is repeated in a row."""
        pairs = list(zip(self.prompts, self.negatives, strict=True))
        pairs = pairs * prompts if len(pairs) == 1 else pairs
        return [pair for pair in pairs for _ in range(repeats)]


@dataclass(frozen=True)
class Job:
    """One embedding that the prior makes: of `text`, away from `negative`.

    Attributes:
        sample: whose it is.
        weight: in the sample's embedding; None for its negative embedding.
        noise: first latents and every step's noise, (1 + draws, E).
    """

    sample: int
    text: str
    negative: str
    weight: float | None
    noise: Array


def jobs_of(
    sample: int, prompt: Prompt, negative: str | None, source: NoiseSource, draws: int, width: int
) -> Iterable[Job]:
    """What the prior has to make for a sample, its noise drawn in the reference's order.

    With a negative text each draw has two rows, the prompt's and the negative's. A mix draws for one of its texts after
    the other, and at last for the negative, also where there is none.
    """
    away = "" if negative is None else negative

    def drawn() -> Array:
        shape = (1 if negative is None else 2, width)
        return np.stack([source.draw(shape) for _ in range(1 + draws)], axis=1)  # (rows, 1 + draws, E)

    if prompt.plain:
        noise = drawn()
        yield Job(sample, prompt.texts[0], away, 1.0, noise[0])
        if negative is not None:
            yield Job(sample, negative, negative, None, noise[1])
        return
    for part, weight in zip(prompt.parts, prompt.weights, strict=True):
        if isinstance(part, str):
            yield Job(sample, part, away, weight, drawn()[0])
    last = drawn()
    if negative is not None:
        yield Job(sample, negative, negative, None, last[0])


def truncation_notes(tokens: Tokens) -> Iterable[str]:
    """A sentence for each text that was cut off."""
    for dropped in tokens.dropped:
        if dropped is not None:
            yield f"a prompt is longer than the text encoder's tokens; left out: {shown(dropped, LONGEST_IN_A_MESSAGE)}"
