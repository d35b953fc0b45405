"""What the measures need of a judge, and the judge of the drawn world in that form.

Legend: N pictures · H, W height and width in pixels · D features
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.quality.tasks import SIZE, Task
from kandinsky_runtime.errors import UsageError

_AT_ONCE = 32  # pictures, so that the judge needs little memory


class Seen(Protocol):
    """A thing that a judge sees: its kind, its colour, and its box (left, top, right, bottom in [0, 1])."""

    @property
    def kind(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def box(self) -> tuple[float, float, float, float]: ...
    @property
    def side(self) -> str: ...


class Reading(Protocol):
    """What a judge sees in a picture: each thing that is there, by its name in `benchmarks.drawings.THINGS`."""

    @property
    def things(self) -> Mapping[str, Seen]: ...


class Judge(Protocol):
    """Looks at pictures (N, H, W, 3) uint8. `name` changes if the judge does."""

    name: str

    def look(self, pictures: np.ndarray) -> tuple[Sequence[Reading], np.ndarray]:
        """What each picture shows, and its features (N, D)."""


class DrawnWorldJudge:
    """The judge of `benchmarks.judge`."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the weights at `path`; None for the shipped ones.

        Raises:
            FileNotFoundError: they are not there.
        """
        import benchmarks.judge as package

        path = Path(package.__path__[0]) / "weights.npz" if path is None else path
        self.name = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self._judge = package.Judge.load(path)

    def look(self, pictures: np.ndarray) -> tuple[list[Reading], np.ndarray]:
        """See `Judge`."""
        from benchmarks.judge import Reading as Read

        features = self._judge.features(pictures)
        return [Read.of(row) for row in self._judge.outputs(features)], features


def open_judge(path: Path | None = None) -> DrawnWorldJudge | None:
    """The judge at `path`, or the shipped one; None with a message on stdout if the shipped weights are not there.

    Raises:
        UsageError: the file at `path` cannot be read, or is not a judge's weights.
    """
    if path is not None:
        return _named_judge(path)
    try:
        return DrawnWorldJudge()
    except (FileNotFoundError, ModuleNotFoundError) as error:
        print(
            f"There is no judge ({error}): prompt accuracy and Fréchet distances are left out. They need the judge's"
            " weights; scripts/train judge makes them.",
            flush=True,
        )
        return None


def _named_judge(path: Path) -> DrawnWorldJudge:
    """The judge at `path`, after it has looked at a picture."""
    try:
        judge = DrawnWorldJudge(path)
        _, features = judge.look(np.zeros((1, SIZE, SIZE, 3), np.uint8))
        if not np.isfinite(features).all():
            raise ValueError("its features are not finite")
    except OSError as error:
        raise UsageError(f"--judge {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(
            f"--judge {path} is not a judge's weights ({_reason(error)}); expected an .npz that scripts/train judge"
            " wrote"
        ) from error
    return judge


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]


def look_at(judge: Judge, pictures: np.ndarray) -> tuple[list[Reading], np.ndarray]:
    """Look at many pictures (N, H, W, 3), a few at a time."""
    parts = [judge.look(pictures[k : k + _AT_ONCE]) for k in range(0, len(pictures), _AT_ONCE)]
    return [reading for readings, _ in parts for reading in readings], np.concatenate([part for _, part in parts])


@dataclass(frozen=True)
class Verdict:
    """Whether a result is what its task asked for.

    Attributes:
        thing: the thing is there, of the right kind; for a thing to take away, that it is gone.
        colour: it is there in its colour; None for a thing to take away.
        place: its middle is in the mask, and on the side that the prompt names; None for a thing to take away.
    """

    thing: bool
    colour: bool | None
    place: bool | None

    @classmethod
    def of(cls, task: Task, reading: Reading, *, inpainting: bool = True) -> Verdict:
        """Judge a result by what was read from it."""
        seen = reading.things.get(task.name)
        if task.wanted is None:
            return cls(seen is None, None, None)
        if seen is None or seen.kind != task.wanted.kind:
            return cls(False, False, False)
        place = not task.names_side or seen.side == task.wanted.side
        if inpainting:
            height, width = task.mask.shape
            x, y = (seen.box[0] + seen.box[2]) / 2, (seen.box[1] + seen.box[3]) / 2
            row, column = min(max(int(y * height), 0), height - 1), min(max(int(x * width), 0), width - 1)
            place = place and bool(task.mask[row, column])
        return cls(True, seen.colour == task.wanted.colour, place)


def accuracy(verdicts: Sequence[Verdict]) -> dict[str, float | int | None]:
    """Shares of what is right, in [0, 1]: of the things to add, and of those to take away."""
    added = [verdict for verdict in verdicts if verdict.colour is not None]
    removed = [verdict for verdict in verdicts if verdict.colour is None]
    return {
        "added": len(added),
        "thing": _share([verdict.thing for verdict in added]),
        "thing_and_colour": _share([verdict.thing and bool(verdict.colour) for verdict in added]),
        "place": _share([bool(verdict.place) for verdict in added]),
        "removed": len(removed),
        "gone": _share([verdict.thing for verdict in removed]),
    }


def _share(right: Sequence[bool]) -> float | None:
    return sum(right) / len(right) if right else None
