"""A slice of the mutants: typed errors only. All 120,000 run by `python -m benchmarks.mutants`."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from benchmarks.mutants.__main__ import kinds, run
from benchmarks.mutants.mutation import mutant
from benchmarks.mutants.subjects import pictures, read_as_picture_and_mask, weights

FORMATS, OTHERS = kinds()
SUBJECTS = pictures() | weights()


def test_there_are_twelve_formats() -> None:
    assert len(FORMATS) == 12
    assert len(OTHERS) == 3


@pytest.mark.parametrize("kind", [*FORMATS, *OTHERS])
def test_sound_files_are_read(kind: str, tmp_path: Path) -> None:
    subject = SUBJECTS[kind]
    for name, data in subject.examples.items():
        (tmp_path / name).write_bytes(data)
    for name, data in subject.examples.items():
        if subject.is_picture:
            for way in read_as_picture_and_mask(data):
                way()
        else:
            subject.read(tmp_path, name)


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp", "safetensors", "lora", "tokenizer"])
def test_mutants(kind: str) -> None:
    result = run(kind, 60, seed=1)
    assert result["faults"] == []
    assert result["read"] + result["refused"] == (120 if kind in FORMATS else 60)
    assert 0 < result["peak"] < 3 << 30


def test_mutants_are_seeded_and_differ() -> None:
    (first, second) = list(SUBJECTS["png"].examples.values())[:2]
    made = [mutant((1, 0, number), first, second) for number in range(50)]
    assert made == [mutant((1, 0, number), first, second) for number in range(50)]
    assert len({*made}) > 45
    assert made != [mutant((2, 0, number), first, second) for number in range(50)]


def test_most_mutated_png_files_have_sound_checksums() -> None:
    (first, second) = list(SUBJECTS["png"].examples.values())[:2]
    heads = [mutant((3, 0, number), first, second)[8:33] for number in range(200)]
    sound = [head for head in heads if head[21:] == zlib.crc32(head[4:21]).to_bytes(4, "big")]
    assert len(sound) > 100


def test_a_worker_that_dies_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(kind: str, seed: int, first: int, count: int) -> tuple[int, list[dict[str, int]]]:
        return (-11, [{"at": first}]) if first == 0 else (0, [{"read": count, "refused": 0, "peak": 1}])

    monkeypatch.setattr("benchmarks.mutants.__main__._work", died)
    result = run("png", 3, seed=0)
    assert result["faults"] == [{"fault": 0, "problem": "the process ended with status -11"}]
    assert result["read"] == 2
