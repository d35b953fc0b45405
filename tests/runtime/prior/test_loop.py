"""The prior's loop on a graph that always predicts the same embedding: feeds, batches, guidance and phases.

`test_pipeline.py` recomputes the numbers of whole runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kandinsky_runtime.observers import Clock, RunObserver
from kandinsky_runtime.prior.loop import denoise, padded_length
from kandinsky_runtime.prior.plan import EmbeddingTask, PromptPlan
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.units import do_all
from tests.runtime.fake_bundle import TEXT_WIDTH, UNCLIP, WIDTH
from tests.tolerances import CLEAN_PRIOR, CLEAN_SMALL

STEPS, TOKENS = 4, 40
RNG = np.random.default_rng(3)
PREDICTION = RNG.standard_normal(WIDTH).astype(np.float32)
MASK = np.zeros((3, TOKENS), np.float32)
for row, length in enumerate((2, 5, 20)):
    MASK[row, :length] = 1
TEXTS = {
    "text_embeds": RNG.standard_normal((3, WIDTH)).astype(np.float32),
    "text_hidden_states": RNG.standard_normal((3, TOKENS, TEXT_WIDTH)).astype(np.float32),
    "text_mask": MASK,
}
ROWS = {"": 0, "a hat": 1, "a long text": 2}


class PredictingGraphs:
    """Graphs whose prior predicts `PREDICTION` for every row."""

    def __init__(self, low_memory: bool = False) -> None:
        self.low_memory = low_memory
        self.runs: list[dict[str, np.ndarray]] = []
        self.during: list[str] = []
        self.finished: list[str] = []

    def engine(self, name: str) -> PredictingGraphs:
        assert name == "prior"
        return self

    def run(self, feeds: dict[str, np.ndarray], during: str) -> dict[str, np.ndarray]:
        self.runs.append(dict(feeds))
        self.during.append(during)
        return {"predicted_image_embeds": np.tile(PREDICTION, (len(feeds["latents"]), 1))}

    def phase_over(self, name: str) -> None:
        self.finished.append(name)


def run(graphs: PredictingGraphs, *names: str, scale: float = 4.0, callback: Any = None) -> np.ndarray:
    scheduler = schedulers.load(UNCLIP)
    tasks = [EmbeddingTask(0, text, "", 1.0, RNG.standard_normal((STEPS, WIDTH)).astype(np.float32)) for text in names]
    plan = PromptPlan((), (), None, ROWS, (), scheduler, STEPS, scale, ())
    sampler = scheduler.sampler(STEPS, (len(tasks), WIDTH))
    units = denoise(graphs, plan, tasks, TEXTS, sampler, RunObserver(callback), "owner", Clock())  # type: ignore[arg-type]
    return do_all(units)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_latents_end_at_a_constant_prediction(scale: float) -> None:
    """UnCLIP predicts x_0, and its last step ends there; see `test_a_perfect_prior_recovers_x0` for the tolerance."""
    graphs = PredictingGraphs()
    latents = run(graphs, "a hat", "a long text", scale=scale)
    np.testing.assert_allclose(latents, [PREDICTION] * 2, rtol=CLEAN_PRIOR, atol=CLEAN_SMALL)
    assert graphs.finished == ["prior"]


def test_halves_of_two_padded_lengths_are_two_batches() -> None:
    graphs = PredictingGraphs()
    run(graphs, "a long text")
    assert [feeds["text_mask"].shape for feeds in graphs.runs] == [(1, 8), (1, 24)] * STEPS
    for feeds, row in zip(graphs.runs[:2], (0, 2), strict=True):
        length = feeds["text_mask"].shape[1]
        np.testing.assert_array_equal(feeds["text_mask"], TEXTS["text_mask"][row : row + 1, :length])
        np.testing.assert_array_equal(feeds["text_hidden_states"], TEXTS["text_hidden_states"][row : row + 1, :length])
        np.testing.assert_array_equal(feeds["text_embeds"], TEXTS["text_embeds"][row : row + 1])
    np.testing.assert_array_equal(graphs.runs[0]["latents"], graphs.runs[1]["latents"])


@pytest.mark.parametrize(("text", "low_memory"), [("a hat", False), ("a long text", True)])
def test_halves_of_one_length_or_with_low_memory_are_one_batch(text: str, low_memory: bool) -> None:
    graphs = PredictingGraphs(low_memory)
    run(graphs, text)
    assert [feeds["text_mask"].shape[0] for feeds in graphs.runs] == [2] * STEPS
    np.testing.assert_array_equal(graphs.runs[0]["text_embeds"], TEXTS["text_embeds"][[0, ROWS[text]]])


def test_each_run_has_its_timestep_and_names_its_step() -> None:
    graphs = PredictingGraphs()
    run(graphs, "a hat", scale=1.0)
    timesteps = [999, 666, 333, 0]
    assert [feeds["timestep"].tolist() for feeds in graphs.runs] == [[float(timestep)] for timestep in timesteps]
    assert graphs.runs[0]["timestep"].dtype == np.float32
    assert graphs.during == [f"step {i + 1} of 4 (timestep {timestep})" for i, timestep in enumerate(timesteps)]


def test_latents_of_the_callback_are_the_next_input() -> None:
    graphs = PredictingGraphs()
    replaced = np.full((1, WIDTH), 0.25, np.float32)
    run(graphs, "a hat", scale=1.0, callback=lambda owner, step, *_: {"latents": replaced} if step == 1 else None)
    np.testing.assert_array_equal(graphs.runs[2]["latents"], replaced)
    assert np.abs(graphs.runs[3]["latents"] - replaced).max() > 0


@given(st.integers(1, 77), st.integers(1, 77))
def test_texts_are_padded_enough_and_to_few_lengths(longest: int, most: int) -> None:
    longest = min(longest, most)
    length = padded_length(longest, most)
    assert longest <= length <= most
    assert length in (8, 16, 24, 32, 48, 64, most)
