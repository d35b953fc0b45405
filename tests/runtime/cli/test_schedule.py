"""`k22 schedule`: the coefficients as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime import fake_bundle
from tests.runtime.command_line import K22


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a bundle without and one with a prior."""
    fake_bundle.write(tmp_path / "bundle")
    fake_bundle.write(tmp_path / "prior-bundle", fake_bundle.with_prior())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json(k22: K22) -> None:
    result = k22("schedule", "bundle", "--steps", 50, "--json")
    assert (result.status, result.err) == (0, "")
    data = json.loads(result.out)
    assert data["scheduler"] == "DDPMScheduler"
    assert [row["timestep"] for row in data["steps"]] == list(range(981, 0, -20))


def test_table(k22: K22) -> None:
    result = k22("schedule", "bundle", "--steps", 5, "--scheduler", "dpm++")
    assert result.status == 0
    assert result.out.startswith("DPMSolverMultistepScheduler, 5 steps")


def test_the_priors_own(k22: K22) -> None:
    data = json.loads(k22("schedule", "prior-bundle", "--prior", "--json").out)
    assert (data["scheduler"], len(data["steps"])) == ("UnCLIPScheduler", 25)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("bundle", "--steps", 0), "--steps is 0; expected a whole number of at least 1"),
        (("bundle", "--steps", 2000), "num_inference_steps is 2000; expected an integer from 1 to 1000"),
        (("bundle", "--scheduler", "best"), "scheduler 'best' is not supported"),
        (("bundle", "--prior"), "cannot do prompt: it does inpaint"),
        (("prior-bundle", "--prior", "--scheduler", "ddim"), "--scheduler is the decoder's; the prior has its own"),
    ],
)
def test_what_is_refused(refused: Callable[..., str], args: tuple[object, ...], text: str) -> None:
    assert text in refused("schedule", *args)
