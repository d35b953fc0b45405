"""Tables of coefficients: folding, the number of predictions in use, and weights that are not finite."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.schedulers.table import Table
from tests.tolerances import FOLDED_TABLE

STEPS = 6


def table(name: str, **options: Any) -> Table:
    return schedulers.load(options, name).table(STEPS)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "unclip"])
def test_a_folded_table_gives_the_same_steps(name: str) -> None:
    whole = table(name)
    folded = whole.folded()
    assert whole.update is not None
    assert folded.update is not None
    assert folded.update.shape == (STEPS, 2)
    assert folded.predictions_in_use == 0
    sample, output = np.random.default_rng(0).standard_normal((2, STEPS))
    prediction = whole.prediction[:, 0] * sample + whole.prediction[:, 1] * output
    expected = whole.update[:, 0] * sample + whole.update[:, 1] * output + whole.update[:, 2] * prediction
    np.testing.assert_allclose(folded.update[:, 0] * sample + folded.update[:, 1] * output, expected, atol=FOLDED_TABLE)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("ddpm", {}, 1),
        ("euler", {}, 1),
        ("dpm++", {"solver_order": 2}, 2),
        ("dpm++", {"solver_order": 3}, 3),
        ("unipc", {"solver_order": 1}, 2),
        ("unipc", {"solver_order": 2}, 3),
    ],
    ids=str,
)
def test_predictions_in_use(name: str, options: dict[str, Any], count: int) -> None:
    """UniPC's corrector also uses the prediction at the end of the last step."""
    assert table(name, **options).predictions_in_use == count


@pytest.mark.parametrize(("name", "options"), [("euler", {}), ("dpm++", {"solver_order": 2}), ("unipc", {})], ids=str)
def test_a_table_whose_predictions_are_needed_is_not_folded(name: str, options: dict[str, Any]) -> None:
    whole = table(name, **options)
    assert whole.folded() is whole


@pytest.mark.parametrize("field", ["prediction", "update", "noise", "forward"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_weight_that_is_not_finite_is_named(field: str, bad: float) -> None:
    whole = table("ddpm")
    weights = getattr(whole, field).copy()
    weights[2:4] = bad
    with pytest.raises(
        SchedulerError, match=rf"the {field} weights of step 3 \(timestep {whole.timesteps[2]}\) are not finite"
    ):
        dataclasses.replace(whole, **{field: weights})


@pytest.mark.parametrize(
    ("options", "learns"),
    [({}, False), ({"variance_type": "learned"}, True), ({"variance_type": "learned_range"}, True)],
)
def test_learned_variances(options: dict[str, Any], learns: bool) -> None:
    assert table("ddpm", **options).learns_variance is learns
