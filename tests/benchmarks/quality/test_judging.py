"""What counts as right, and shares of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.drawings.scene import make_thing
from benchmarks.quality.judging import Verdict, accuracy, look_at, open_judge
from benchmarks.quality.tasks import Task


@dataclass(frozen=True)
class Seen:
    kind: str = "top hat"
    colour: str = "red"
    box: tuple[float, float, float, float] = (0.4, 0.1, 0.6, 0.3)
    side: str = "left"


@dataclass(frozen=True)
class Reading:
    things: dict[str, Seen] = field(default_factory=dict)


def task(kind: str = "top hat", name: str = "hat", side: str | None = None) -> Task:
    mask = np.zeros((10, 10), np.uint8)
    mask[1:4, 3:7] = 255
    blank = np.zeros((10, 10, 3), np.uint8)
    wanted = make_thing(np.random.default_rng(0), kind, "red", side)
    return Task(f"a red {kind}", name, wanted, side is not None, blank, blank, mask)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(), (True, True, True)),
        (Seen(colour="blue"), (True, False, True)),
        (Seen(box=(0.4, 0.6, 0.6, 0.9)), (True, True, False)),
        (Seen(box=(0.9, 0.9, 1.2, 1.3)), (True, True, False)),
        (Seen(kind="crown"), (False, False, False)),
        (None, (False, False, False)),
    ],
)
def test_things_to_add(seen: Seen | None, expected: tuple[bool, bool, bool]) -> None:
    verdict = Verdict.of(task(), Reading({} if seen is None else {"hat": seen}))
    assert (verdict.thing, verdict.colour, verdict.place) == expected


def test_things_to_take_away() -> None:
    gone = replace(task(), wanted=None)
    assert Verdict.of(gone, Reading({"balloon": Seen()})) == Verdict(True, None, None)
    assert Verdict.of(gone, Reading({"hat": Seen()})) == Verdict(False, None, None)


@pytest.mark.parametrize(("side", "right"), [("left", True), ("right", False)])
def test_the_side_that_a_prompt_names(side: str, right: bool) -> None:
    asked = task("balloon", "balloon", side)
    assert Verdict.of(asked, Reading({"balloon": Seen("balloon")})).place is right
    unnamed = replace(asked, names_side=False)
    assert Verdict.of(unnamed, Reading({"balloon": Seen("balloon")})).place is True


def test_text_to_image_has_no_mask() -> None:
    seen = Seen(box=(0.4, 0.6, 0.6, 0.9))
    assert Verdict.of(task(), Reading({"hat": seen}), inpainting=False).place is True


def test_shares() -> None:
    verdicts = [Verdict(True, True, True), Verdict(True, False, True), Verdict(False, False, False)]
    found = accuracy([*verdicts, Verdict(True, None, None)])
    assert found["added"] == 3
    assert found["thing"] == pytest.approx(2 / 3)
    assert found["thing_and_colour"] == pytest.approx(1 / 3)
    assert found["place"] == pytest.approx(2 / 3)
    assert (found["removed"], found["gone"]) == (1, 1)
    assert accuracy(verdicts)["gone"] is None


def test_missing_weights_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert open_judge(tmp_path / "none.npz") is None
    out = capsys.readouterr().out
    assert "They need the judge's weights; scripts/train judge makes them." in out


def test_many_pictures_are_looked_at_in_parts() -> None:
    class Counting:
        name = "counting"

        def look(self, pictures: np.ndarray) -> tuple[list[Reading], np.ndarray]:
            assert len(pictures) <= 32
            return [Reading() for _ in pictures], pictures.reshape(len(pictures), -1)[:, :1].astype(float)

    pictures = np.arange(70, dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    readings, features = look_at(Counting(), pictures)
    assert len(readings) == 70
    assert features[:, 0].tolist() == list(range(70))
