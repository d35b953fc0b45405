"""The embeddings that the prior makes for a sample, and the order of their draws.

Oracles: diffusers' order of draws, as `tests/golden/prior.npz` confirms it for whole runs.
"""

from __future__ import annotations

import numpy as np
import pytest

from kandinsky_runtime.prior.plan import EmbeddingTask, PromptPlan, embeddings_to_make, truncation_notes
from kandinsky_runtime.prior.prompts import Prompt
from kandinsky_runtime.prior.tokenizer import MAX_SHOWN_CHARACTERS, Tokens
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.noise import RecordingNoise, TorchNoise
from tests.runtime.fake_bundle import UNCLIP, WIDTH

DRAWS = 3
PLAIN = Prompt(("a hat",), plain=True)
MIX = Prompt(("a hat", 0, "cats"), (0.5, 2.0, -1.0))


def plan(*prompts: Prompt) -> PromptPlan:
    negatives = tuple(f"not {number}" for number in range(len(prompts)))
    return PromptPlan(prompts, negatives, None, {}, (), schedulers.load(UNCLIP), 5, 4.0, ())


def made(prompt: Prompt, negative: str | None) -> tuple[list[EmbeddingTask], tuple[np.ndarray, ...]]:
    """The embeddings for sample 7, and the draws."""
    recording = RecordingNoise(TorchNoise(5))
    return list(embeddings_to_make(7, prompt, negative, recording, DRAWS, WIDTH)), recording.draws


def texts(tasks: list[EmbeddingTask]) -> list[tuple[str, str, float | None]]:
    assert {task.sample for task in tasks} <= {7}
    assert {task.noise.shape for task in tasks} <= {(1 + DRAWS, WIDTH)}
    return [(task.text, task.negative, task.weight) for task in tasks]


def test_a_text_alone() -> None:
    tasks, draws = made(PLAIN, None)
    assert texts(tasks) == [("a hat", "", 1.0)]
    assert [draw.shape for draw in draws] == [(1, WIDTH)] * (1 + DRAWS)
    np.testing.assert_array_equal(tasks[0].noise, np.concatenate(draws))


def test_a_text_and_its_negative_share_draws_of_two_rows() -> None:
    tasks, draws = made(PLAIN, "bad")
    assert texts(tasks) == [("a hat", "bad", 1.0), ("bad", "bad", None)]
    assert [draw.shape for draw in draws] == [(2, WIDTH)] * (1 + DRAWS)
    for row, task in enumerate(tasks):
        np.testing.assert_array_equal(task.noise, [draw[row] for draw in draws])


@pytest.mark.parametrize("negative", [None, "bad"])
def test_a_mix_draws_for_each_text_and_then_for_the_negative(negative: str | None) -> None:
    tasks, draws = made(MIX, negative)
    away = negative or ""
    expected = [("a hat", away, 0.5), ("cats", away, -1.0), *([] if negative is None else [("bad", "bad", None)])]
    assert texts(tasks) == expected
    count = 1 + DRAWS
    assert len(draws) == 3 * count, "the negative's draws are made even if there is no negative"
    for number, task in enumerate(tasks):
        np.testing.assert_array_equal(task.noise, [draw[0] for draw in draws[number * count : (number + 1) * count]])


def test_a_picture_needs_no_embedding_of_the_prior() -> None:
    tasks, draws = made(Prompt((0,)), None)
    assert tasks == []
    assert len(draws) == 1 + DRAWS


def test_samples_of_several_prompts() -> None:
    prompts = plan(PLAIN, MIX)
    expected = [(PLAIN, "not 0"), (PLAIN, "not 0"), (MIX, "not 1"), (MIX, "not 1")]
    assert prompts.per_sample(2, 2) == expected


def test_samples_of_one_prompt_for_all() -> None:
    assert plan(MIX).per_sample(3, 1) == [(MIX, "not 0")] * 3


def test_each_truncated_text_has_a_note() -> None:
    long = "x" * (MAX_SHOWN_CHARACTERS + 1)
    tokens = Tokens(np.zeros((3, 2), np.int64), np.ones((3, 2), np.float32), ("rompt", None, long), 0)
    first, second = truncation_notes(tokens)
    assert first == "a prompt has more tokens than the text encoder takes; its end was cut off: 'rompt'"
    assert second.endswith(f"… ({len(long)} characters)")
    assert len(second) < MAX_SHOWN_CHARACTERS + 200
