"""`k22-export` with a stdout that is closed: the files are written, and output that is lost is a failure."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import kandinsky_export
import kandinsky_runtime

CODE = "import sys; from kandinsky_export.cli import main; sys.exit(main())"
PATHS = [str(Path(str(package.__file__)).parents[1]) for package in (kandinsky_export, kandinsky_runtime)]


@pytest.mark.skipif(os.name != "posix", reason="redirections of a POSIX shell")
@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["--version"], 1),
        (["--help"], 1),
        (["checkpoint", "--size", "tiny", "--out", "tiny", "--quiet"], 0),
        (["checkpoint", "--size", "tiny", "--out", "tiny", "--quiet", "--json"], 1),
    ],
)
def test_a_closed_stdout(args: list[str], status: int, tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-c", CODE, *args])
    done = subprocess.run(
        ["sh", "-c", f"{command} >&-"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == status
    assert (tmp_path / "tiny").is_dir() == ("--out" in args)
    if status:
        assert done.stderr.startswith("k22-export: error: the output cannot be written to stdout: it is closed; send")
    else:
        assert done.stderr == ""
