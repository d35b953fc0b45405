"""Entries of compiled graphs: whole, damaged, copied, limited in number."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kandinsky_runtime import files
from kandinsky_runtime.engines import compile_cache
from kandinsky_runtime.engines.compile_cache import compile_cached, new_entry, sealed_sha256, whole_entry
from tests.damage import append, cut_off, flip_a_byte

NAME = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engine"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content is read."""
    names: list[str] = []
    real = compile_cache.file_sha256

    def counted(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(compile_cache, "file_sha256", counted)
    return names


def make(folder: Path, name: str = NAME, data: bytes = b"compiled") -> Path:
    with new_entry(folder, name) as draft:
        (draft / "plan").write_bytes(data)
        (draft / "deep").mkdir()
        (draft / "deep" / "part").write_bytes(data * 2)
    return folder / name


def test_entry_is_whole_with_all_its_files(folder: Path) -> None:
    entry = make(folder)
    assert whole_entry(folder, NAME) == entry
    assert (entry / "plan").read_bytes() == b"compiled"
    assert (entry / "deep" / "part").read_bytes() == b"compiled" * 2
    assert [path.name for path in folder.iterdir()] == [NAME], "no draft is left"


def test_a_missing_entry(folder: Path) -> None:
    assert whole_entry(folder, NAME) is None


@pytest.mark.usefixtures("settled")
def test_unchanged_files_are_not_read_again(folder: Path, read: list[str]) -> None:
    make(folder)
    read.clear()
    assert whole_entry(folder, NAME) is not None
    assert read == []


def test_files_written_just_now_are_read(folder: Path, read: list[str]) -> None:
    """A change within one tick of the file system's clock does not show in a file's times."""
    make(folder)
    read.clear()
    assert whole_entry(folder, NAME) is not None
    assert sorted(read) == ["part", "plan"]


def test_files_that_have_settled_are_read_once_more(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder)
    monkeypatch.setattr(files, "_SETTLED_NS", -1)
    assert whole_entry(folder, NAME) is not None
    read.clear()
    assert whole_entry(folder, NAME) is not None
    assert read == []


@pytest.mark.usefixtures("settled")
def test_copied_entry_is_read_once_and_remembered(folder: Path, tmp_path: Path, read: list[str]) -> None:
    make(folder)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    read.clear()
    for wanted in (["part", "plan"], []):
        assert whole_entry(other, NAME) is not None
        assert sorted(read) == wanted
        read.clear()
    assert [path.name for path in other.iterdir()] == [NAME]


@pytest.mark.usefixtures("settled")
def test_cache_that_cannot_be_written_is_read_each_time(
    folder: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder)
    other = tmp_path / "other"
    shutil.copytree(folder, other)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(compile_cache, "write_whole", refused)
    for _ in range(2):
        read.clear()
        assert whole_entry(other, NAME) is not None
        assert sorted(read) == ["part", "plan"]


@pytest.mark.parametrize("damage", [flip_a_byte, append, cut_off, Path.unlink])
@pytest.mark.parametrize("name", ["plan", "deep/part"])
@pytest.mark.usefixtures("settled")
def test_damaged_file_is_found(name: str, damage: Callable[[Path], None], folder: Path) -> None:
    entry = make(folder)
    time.sleep(0.02)  # more than a tick of the file system's clock
    damage(entry / name)
    assert whole_entry(folder, NAME) is None


def test_an_additional_file_is_found(folder: Path) -> None:
    (make(folder) / "other").write_bytes(b"")
    assert whole_entry(folder, NAME) is None


@pytest.mark.parametrize(
    "seal",
    ["", "{", "[]", "null", "{}", '{"plan": 1}', '{"plan": {}, "deep/part": {}}', '{"plan": "ab", "deep/part": "cd"}'],
)
def test_an_invalid_seal(seal: str, folder: Path) -> None:
    (make(folder) / "sha256.json").write_text(seal)
    assert whole_entry(folder, NAME) is None


@pytest.mark.usefixtures("settled")
def test_stamp_of_another_file_does_not_help(folder: Path) -> None:
    """Of a seal whose stamps do not fit the files, only the sha256 counts."""
    entry = make(folder)
    sealed = json.loads((entry / "sha256.json").read_text())
    sealed["plan"] = {"sha256": "0" * 64, "stamp": [1, 2, 3, 4, 5]}
    (entry / "sha256.json").write_text(json.dumps(sealed))
    assert whole_entry(folder, NAME) is None


def test_sha256_of_a_file_is_known_without_reading_it(folder: Path, read: list[str]) -> None:
    entry = make(folder)
    read.clear()
    assert sealed_sha256(entry, "deep/part") == hashlib.sha256(b"compiled" * 2).hexdigest()
    assert read == []


def test_failure_leaves_nothing(folder: Path) -> None:
    def fail() -> None:
        with new_entry(folder, NAME) as draft:
            (draft / "plan").write_bytes(b"half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()
    assert not list(folder.iterdir())


def test_a_new_entry_replaces_an_older_one(folder: Path) -> None:
    make(folder)
    make(folder, data=b"again")
    assert (folder / NAME / "plan").read_bytes() == b"again"
    assert whole_entry(folder, NAME) is not None


def test_compiled_once(folder: Path) -> None:
    calls: list[str] = []

    def compile_in(entry: Path | None) -> str:
        assert entry is not None
        state = "read" if (entry / "plan").exists() else "made"
        calls.append(state)
        (entry / "plan").write_bytes(b"compiled")
        return state

    assert [compile_cached(folder, NAME, compile_in) for _ in range(2)] == ["made", "read"]
    assert calls == ["made", "read"]


def test_entries_unused_for_longest_are_removed_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "MAX_ENTRIES", 2)
    for age, name in enumerate(("old", "older")):
        os.utime(make(folder, name), (1000 - age, 1000 - age))
    assert whole_entry(folder, "older") is not None  # used now
    make(folder, "new")
    assert sorted(path.name for path in folder.iterdir()) == ["new", "older"]
