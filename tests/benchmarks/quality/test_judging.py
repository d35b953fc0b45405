"""What counts as right, and shares of it."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import benchmarks.judge
from benchmarks.drawings.scene import make_thing
from benchmarks.quality.judging import Verdict, accuracy, look_at, open_judge
from benchmarks.quality.tasks import Task
from kandinsky_runtime.errors import UsageError


@dataclass(frozen=True)
class Seen:
    kind: str = "top hat"
    colour: str = "red"
    box: tuple[float, float, float, float] = (0.4, 0.1, 0.6, 0.3)
    side: str = "left"


@dataclass(frozen=True)
class Reading:
    things: dict[str, Seen] = field(default_factory=dict)


def saved(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def array_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


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


def test_missing_shipped_weights_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.judge, "__path__", [str(tmp_path)])
    assert open_judge() is None
    out = capsys.readouterr().out
    assert "They need the judge's weights; scripts/train judge makes them." in out


def test_a_judge_that_is_named(tmp_path: Path) -> None:
    weights = Path(benchmarks.judge.__path__[0]) / "weights.npz"
    (tmp_path / "copy.npz").write_bytes(weights.read_bytes())
    named, shipped = open_judge(tmp_path / "copy.npz"), open_judge()
    assert named is not None
    assert shipped is not None
    assert named.name == shipped.name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"# A text\n", "is not a judge's weights (Cannot load file"),
        (b"", "is not a judge's weights (No data left in file)"),
        (b"PK\x03\x04 damaged", "is not a judge's weights (File is not a zip file)"),
        (saved(image_embeds=np.ones(3)), "is not a judge's weights (it has no 'conv0.weight')"),
        (saved(**{"conv0.weight": np.ones((75, 16)), "conv0.bias": np.ones(7)}), "is not a judge's weights ("),
        (saved(**{"conv0.weight": np.array(["text"])}), "is not a judge's weights ("),
        (array_file(), "is not a judge's weights ("),
    ],
    ids=["missing", "text", "empty", "damaged", "other arrays", "other shapes", "texts", "npy"],
)
def test_a_named_judge_that_cannot_be_used_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "judge.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(f"--judge {path} {message}")):
        open_judge(path)


def test_a_folder_is_no_judge(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        open_judge(tmp_path)


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
