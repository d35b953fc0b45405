"""Standard streams that are closed, full, or that nobody reads any more: no picture is lost, and no failure hidden."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kandinsky_runtime.cli import options
from tests.runtime import fake_bundle
from tests.runtime.cli.test_cli import folder, inpaint  # noqa: F401 (the fixture)
from tests.runtime.command_line import Result

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")

CLOSED = "k22: error: the output cannot be written to stdout: it is closed; send it to"
FULL = "k22: error: the output cannot be written to stdout: No space left on device; send it to"
Shell = Callable[..., Result]


@pytest.fixture
def shell(folder: Path) -> Shell:  # noqa: F811
    """Run a command with redirections; its status, and the output that they leave."""
    site = fake_bundle.install(folder / "site-packages" / "of-the-shell", {"fake": "fake_bundle:FakeEngine"})
    tests, package = Path(fake_bundle.__file__), Path(options.__file__)
    paths = [str(site), str(tests.parent), str(tests.parents[2]), str(package.parents[2])]
    code = "import sys; from kandinsky_runtime.cli import main; sys.exit(main())"

    def run(redirections: str, *args: object) -> Result:
        command = shlex.join([sys.executable, "-c", code, *map(str, args)])
        done = subprocess.run(
            ["bash", "-c", f"{command} {redirections}"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.mark.parametrize(
    ("redirections", "out"),
    [
        ("2>&-", "wrote out.png (seed 3)\n"),
        ("2>/dev/full", "wrote out.png (seed 3)\n"),
        ("2>&1 | head -c 5 >/dev/null; exit ${PIPESTATUS[0]}", ""),
        (">&-", ""),
        (">/dev/full", ""),
        ("<&- >&- 2>&-", ""),
    ],
)
def test_a_picture_needs_no_stream(shell: Shell, redirections: str, out: str) -> None:
    assert shell("", *inpaint("--quiet", out="expected.png")).status == 0
    result = shell(redirections, *inpaint())
    assert (result.status, result.out) == (0, out)
    assert "Traceback" not in result.err
    assert Path("out.png").read_bytes() == Path("expected.png").read_bytes()


@pytest.mark.parametrize("args", [["inspect", "bundle"], ["schedule", "bundle"], ["--version"], ["--help"]])
@pytest.mark.parametrize(("redirection", "text"), [(">&-", CLOSED), (">/dev/full", FULL)])
def test_output_that_is_lost_is_a_failure(shell: Shell, args: list[str], redirection: str, text: str) -> None:
    result = shell(redirection, *args)
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(text)
    assert result.err.count("\n") == 1


def test_a_report_that_was_asked_for_is_output(shell: Shell) -> None:
    result = shell(">&-", *inpaint("--json", "--quiet"))
    assert result.status == 1
    assert result.err.startswith(CLOSED)
    assert Path("out.png").is_file()


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("args", "status"), [(["inspect", "nowhere"], 1), (["inspect", "nowhere", "--debug"], 1), (["--nonsense"], 2)]
)
def test_the_status_of_an_error_that_cannot_be_shown(
    shell: Shell, args: list[str], redirection: str, status: int
) -> None:
    assert shell(redirection, *args) == (status, "", "")
