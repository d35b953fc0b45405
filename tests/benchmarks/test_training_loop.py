"""The training loop at a stop: the state and the losses are there, and the command knows that it is unfinished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.training.command import StageError, UnfinishedError

torch = pytest.importorskip("torch")


def training(folder: Path, steps: int, **options: Any) -> Any:
    from scripts.training.loop import Schedule, Training

    torch.manual_seed(0)
    return Training(folder, 0, torch.nn.Linear(16, 16), Schedule(steps, 1e-3), threads=1, **options)


def run(made: Any) -> None:
    made.run(lambda step: {"error": made.model(torch.randn(4, 16, generator=step.noise)).square().mean()})


def test_a_stop_keeps_the_state_and_the_losses(tmp_path: Path) -> None:
    with pytest.raises(UnfinishedError, match="stopped at step 1 of 3"):
        run(training(tmp_path, 3, minutes=1e-9))
    (logged,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert logged["step"] == 1
    assert logged["error"] > 0
    made = training(tmp_path, 3)
    run(made)
    assert made.finished
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 3]


def test_a_source_that_changed_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(training(tmp_path, 1, sources={"CLIP": "first"}))
    training(tmp_path, 1, sources={"CLIP": "first"})
    assert "another CLIP" not in capsys.readouterr().out
    training(tmp_path, 2, sources={"CLIP": "second"})
    assert capsys.readouterr().out.endswith("its steps so far were on another CLIP\n")
    training(tmp_path, 1, sources={"CLIP": "second"})
    assert capsys.readouterr().out.endswith("another CLIP; raise --steps to train it on these\n")


def test_weights_that_are_not_there_name_their_stage(tmp_path: Path) -> None:
    from scripts.training.loop import load_average

    with pytest.raises(StageError, match="run scripts/train movq first"):
        load_average(tmp_path / "movq", torch.nn.Linear(1, 1))


def test_frozen_weights_that_are_their_average_stay(tmp_path: Path) -> None:
    made = training(tmp_path, 2)
    with torch.no_grad():
        made.model.weight.add_(1)  # the average lags behind, as that of an encoder before `movq --decoder-only`
    made.model.weight.requires_grad_(False)
    before = made.average.weight.clone()
    made.model.load_state_dict(made.average.state_dict())
    run(made)
    assert torch.equal(made.average.weight, before)
    assert not torch.equal(made.average.bias, torch.zeros(16))
