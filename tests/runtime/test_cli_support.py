"""The parser of both command lines: values that begin with a minus, full names only, one sentence for an error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kandinsky_runtime.cli import _parser
from kandinsky_runtime.cli_support import Parser, print_done, print_output, run
from kandinsky_runtime.errors import BundleError, Kandinsky22Error
from kandinsky_runtime.serving.announcement import announce

SOUND = ["inpaint", "bundle", "--image", "cat.png", "--out", "out.png"]
MASK = ["--mask", "mask.png"]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--mask-box", "-250,0,-1,250"], "mask_box", (-250, 0, -1, 250)),
        (["--mask-box=-250,0,-1,250"], "mask_box", (-250, 0, -1, 250)),
        ([*MASK, "--prompt", "-hat"], "prompts", ["-hat"]),
        ([*MASK, "--prompt", "--hat"], "prompts", ["--hat"]),
        ([*MASK, "--prompt", "-"], "prompts", ["-"]),
        ([*MASK, "--prompt", "a", "--prompt", "b", "--mix", "-0.5,1.5"], "mix", (-0.5, 1.5)),
        ([*MASK, "--seed", "-1"], "seed", -1),
        ([*MASK, "--guidance-interval", "-1:2"], "guidance_interval", (-1.0, 2.0)),
        ([*MASK, "--negative-prompt", "-dogs", "--quiet"], "negative_prompt", ["-dogs"]),
    ],
)
def test_a_value_may_begin_with_a_minus(words: list[str], name: str, value: Any) -> None:
    assert getattr(_parser().parse_args([*SOUND, *words]), name) == value


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([*MASK, "--prompt", "--quiet"], "argument --prompt: expected one argument"),
        ([*MASK, "--prompt"], "argument --prompt: expected one argument"),
        ([*MASK, "--prompt", "--seed=3"], "argument --prompt: expected one argument"),
        ([*MASK, "--quiet", "-x"], "unrecognized arguments: -x"),
        ([*MASK, "--promt", "-x"], "unrecognized arguments: --promt -x"),
        ([*MASK, "--num-inf", "3"], "unrecognized arguments: --num-inf 3"),
    ],
)
def test_an_option_is_not_taken_for_a_value(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _parser().parse_args([*SOUND, *words])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_the_process_arguments_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = Parser(prog="p")
    parser.add_argument("--box")
    monkeypatch.setattr("sys.argv", ["p", "--box", "-1,2"])
    assert parser.parse_args().box == "-1,2"


def test_an_error_does_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="k22")
    parser.set_defaults(debug=False, run=raising(BundleError("bundle b", ["one \x1b[2J", "two"])))
    assert run(parser, [], distribution="d") == 1
    assert capsys.readouterr().err == "k22: error: bundle b: 2 faults:\n  - one \\x1b[2J\n  - two\n"


def raising(error: Exception) -> Callable[..., int]:
    def fail(*_: Any) -> int:
        raise error

    return fail


def test_a_report_does_not_need_a_stdout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read_only = tmp_path / "read-only"
    read_only.touch()
    with os.fdopen(os.open(read_only, os.O_RDONLY), "w") as stdout:  # as closed: it refuses to be written to
        monkeypatch.setattr("sys.stdout", stdout)
        with pytest.raises(Kandinsky22Error, match="the output cannot be written to stdout: it is closed; send it to"):
            print_output("the result")
        print_done("wrote out.png")
        announce(["kandinsky"], "::1", 8000)
