"""A stage as a command: an error is one line, and the exit status says whether the stage is finished."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

UNFINISHED = 3  # the exit status of a stage that was stopped; its state is saved


class StageError(Exception):
    """A stage cannot run. The message says why, and what to do."""


class UnfinishedError(Exception):
    """A stage was stopped before its last step. The message says where."""


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`. Exit with 1 after a `StageError`, and with `UNFINISHED` if the stage was stopped."""
    try:
        main()
    except StageError as error:
        print(f"scripts/train: {error}", file=sys.stderr)
        sys.exit(1)
    except (UnfinishedError, KeyboardInterrupt) as stop:
        # With the state that is there now, --start would be refused.
        started = any(argument.split("=")[0] == "--start" for argument in sys.argv[1:])
        again = "run the same command again" + (", without --start," if started else "")
        print(f"{str(stop) or 'stopped'}; {again} to go on", flush=True)
        sys.exit(UNFINISHED)


def refuse_state(folder: Path) -> None:
    """Refuse to begin a stage from other weights if its folder has a state already.

    Raises:
        StageError: it has one.
    """
    if (folder / "state.pt").exists():
        raise StageError(
            f"{folder} has a state already, from which the stage goes on: delete the folder to begin from --start, or"
            " leave --start out"
        )


def require(path: Path, stage: str) -> Path:
    """Return the path of a file that a stage makes.

    Raises:
        StageError: it is not there.
    """
    if not path.exists():
        raise StageError(f"{path} is not there; run scripts/train {stage} first")
    return path
