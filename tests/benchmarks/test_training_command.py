"""How `scripts/train` and its stages end: exit status, one line for an error, and no stage after an unfinished one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.training.command import UNFINISHED, StageError, UnfinishedError, refuse_state, require, run_stage
from scripts.training.pictures import read_shard, shard_numbers
from scripts.training.settings import ROOT, add_minutes, add_threads, parser

ENVIRONMENT = """root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment() { python=$root/python; }
"""
# In the place of Python: notes its arguments; the stage named by STOPPED is unfinished.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> calls
[ "$2" != "scripts.training.${STOPPED:-}" ] || exit 3
"""


def ending(error: BaseException, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit status of a stage whose `main` raises an error."""

    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["stage", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_stage(main)
    return stop.value.code


def test_a_finished_stage_returns() -> None:
    run_stage(lambda: None)


@pytest.mark.parametrize(
    ("error", "arguments", "line"),
    [
        (
            UnfinishedError("movq: stopped at step 7 of 90"),
            ["--steps", "90"],
            "movq: stopped at step 7 of 90; run the same command again to go on\n",
        ),
        (
            UnfinishedError("movq: stopped at step 7 of 90"),
            ["--start=export"],
            "movq: stopped at step 7 of 90; run the same command again, without --start, to go on\n",
        ),
        (KeyboardInterrupt(), [], "stopped; run the same command again to go on\n"),
    ],
)
def test_a_stopped_stage_has_a_status_of_its_own(
    error: BaseException,
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ending(error, arguments, monkeypatch) == UNFINISHED == 3
    assert capsys.readouterr().out == line


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(StageError("no pictures"), [], monkeypatch) == 1
    assert capsys.readouterr() == ("", "scripts/train: no pictures\n")


def test_a_missing_file_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    assert require(tmp_path, "movq") == tmp_path
    with pytest.raises(StageError, match=r"state\.pt is not there; run scripts/train movq first"):
        require(tmp_path / "state.pt", "movq")


def test_a_start_over_a_state_is_refused(tmp_path: Path) -> None:
    refuse_state(tmp_path)
    (tmp_path / "state.pt").touch()
    with pytest.raises(StageError, match="delete the folder to begin from --start, or leave --start out"):
        refuse_state(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with `scripts/train`, and notes of calls in the place of Python."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "train", tmp_path / "scripts")
    (tmp_path / "scripts" / "environment.sh").write_text(ENVIRONMENT)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def train(checkout: Path, *arguments: str, stopped: str = "") -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run `scripts/train`: what it gave, and the calls of Python."""
    run = subprocess.run(
        [checkout / "scripts" / "train", *arguments],
        env={"PATH": os.environ["PATH"], "STOPPED": stopped},
        capture_output=True,
        text=True,
        check=False,
    )
    calls = checkout / "calls"
    return run, calls.read_text().splitlines() if calls.exists() else []


def test_all_stages_run_in_turn(checkout: Path) -> None:
    run, calls = train(checkout)
    assert run.returncode == 0
    names = ("pictures", "movq", "clip", "latents", "unet", "prior", "export")
    assert calls == [f"-m scripts.training.{name}" for name in names]


def test_no_stage_runs_after_an_unfinished_one(checkout: Path) -> None:
    run, calls = train(checkout, stopped="clip")
    assert run.returncode == UNFINISHED
    assert calls == [f"-m scripts.training.{name}" for name in ("pictures", "movq", "clip")]


def test_one_stage_gets_the_options(checkout: Path) -> None:
    run, calls = train(checkout, "movq", "--steps", "9", stopped="movq")
    assert run.returncode == UNFINISHED
    assert calls == ["-m scripts.training.movq --steps 9"]


@pytest.mark.parametrize("argument", ["foo", "--minutes", ""])
def test_an_unknown_stage_lists_the_stages(checkout: Path, argument: str) -> None:
    run, calls = train(checkout, argument, "0.3")
    assert run.returncode == 2
    assert run.stderr == (
        f"scripts/train: no stage '{argument}'; stages: pictures movq clip latents unet prior export sheet judge"
        " (options come after the stage)\n"
    )
    assert calls == []


def test_options_refuse_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    options = parser("A stage.")
    add_threads(options)
    add_minutes(options)
    for arguments in (
        ["--threads", "0"],
        ["--threads", "1.5"],
        ["--minutes", "0"],
        ["--minutes", "nan"],
        ["--min", "1"],
    ):
        with pytest.raises(SystemExit):
            options.parse_args(arguments)
    assert "argument --threads: '0' is no whole number from 1" in capsys.readouterr().err
    assert options.parse_args(["--threads", "2", "--minutes", "0.5"]).minutes == 0.5


def test_pictures_that_are_not_there_name_their_stage(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no training pictures; run scripts/train pictures first"):
        shard_numbers(tmp_path)
    with pytest.raises(StageError, match=r"pictures-00003\.json is not there; run scripts/train pictures first"):
        read_shard(tmp_path, 3)


def test_help_names_the_default_steps_of_the_stages(checkout: Path) -> None:
    run, calls = train(checkout, "--help")
    assert run.returncode == 0
    assert calls == []
    card = (ROOT / "export" / "kandinsky_export" / "drawn_cats" / "README.md").read_text(encoding="utf-8")
    for stage in ("movq", "clip", "unet", "prior"):
        code = (ROOT / "scripts" / "training" / f"{stage}.py").read_text(encoding="utf-8")
        found = re.search(r'"--steps", type=count, default=([\d_]+)', code)
        assert found
        steps = f"{int(found[1]):,}"
        assert re.search(rf"^ +{stage} +{steps} ", run.stdout, re.MULTILINE)
        assert f"| `{stage}` | {steps} |" in card
