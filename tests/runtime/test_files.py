"""Files that are written whole or not at all; stamps, hashes and fingerprints; the cache folder."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from kandinsky_runtime import files
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.files import (
    cache_folder,
    file_sha256,
    fingerprint,
    hold,
    is_folder,
    is_settled,
    read_pipe,
    stamp,
    sync_folder,
    write_whole,
)
from tests.runtime.pipes import fed_pipe


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


# -- write_whole --


@pytest.mark.parametrize(
    ("content", "written"),
    [
        ("", b""),
        ("a\né\n", "a\né\n".encode()),
        (b"\x00\xff\r\n", b"\x00\xff\r\n"),
        (lambda stream: stream.write(b"streamed"), b"streamed"),
        (lambda stream: [stream.write(b"in "), stream.write(b"parts")], b"in parts"),
        (lambda stream: None, b""),
    ],
    ids=["nothing", "text", "bytes", "function", "function with several writes", "function without a write"],
)
@pytest.mark.parametrize("old", [None, b"an older and longer content"])
def test_content(content: Any, written: bytes, old: bytes | None, file: Path) -> None:
    if old is not None:
        file.write_bytes(old)
    write_whole(file, content)
    assert file.read_bytes() == written
    assert list(file.parent.iterdir()) == [file], "no temporary file is left"


class Interrupted(BaseException):
    """An error like KeyboardInterrupt, which no `except Exception` catches."""


def fail_with(error: BaseException) -> Callable[[IO[bytes]], None]:
    def content(stream: IO[bytes]) -> None:
        stream.write(b"half of the new")
        stream.flush()
        raise error

    return content


@pytest.mark.parametrize("error", [RuntimeError("no more"), OSError("disk full"), Interrupted()])
@pytest.mark.parametrize("old", [None, b"old"])
def test_after_an_error_of_the_content_the_old_file_is_there(
    error: BaseException, old: bytes | None, file: Path
) -> None:
    if old is not None:
        file.write_bytes(old)
    with pytest.raises(type(error)) as caught:
        write_whole(file, fail_with(error))
    assert caught.value is error
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == ({} if old is None else {file: old})


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
def test_after_an_error_of_the_system_the_old_file_is_there(
    owner: Any, call: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, fail)
        with pytest.raises(OSError, match="no more"):
            write_whole(file, "new")
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == {file: b"old"}


def test_the_file_is_on_disk_before_it_replaces_the_old_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"old")
    events: list[str] = []
    flush, replace = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        events.append("flush folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "flush file")
        flush(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        assert self.read_bytes() == b"new"
        assert target.read_bytes() == b"old"
        events.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", replaced)
    write_whole(file, "new")
    assert events == ["flush file", "replace", *(["flush folder"] if os.name == "posix" else [])]


@pytest.mark.parametrize("content", ["text", lambda stream: pytest.fail("called")])
def test_a_folder_that_is_missing(content: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "file", content)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_not_replaced(file: Path) -> None:
    file.mkdir()
    with pytest.raises(OSError, match="."):
        write_whole(file, "new")
    assert file.is_dir()
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has a umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o000, 0o666)])
def test_permissions_follow_the_umask(umask: int, mode: int, file: Path) -> None:
    """As for a file that `open` creates; a temporary file of `tempfile` is readable by its owner only."""
    before = os.umask(umask)
    try:
        write_whole(file, "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.skipif(os.name != "posix", reason="Windows refuses to replace an open file")
def test_a_reader_keeps_the_old_content(file: Path) -> None:
    write_whole(file, "old")
    with file.open("rb") as reader:
        write_whole(file, "new")
        assert reader.read() == b"old"
    assert file.read_bytes() == b"new"


def test_concurrent_writers_and_a_reader_see_whole_files_only(file: Path) -> None:
    contents = [bytes([65 + number]) * (200_000 + number) for number in range(4)]
    write_whole(file, contents[0])
    start, errors = threading.Barrier(len(contents) + 1), []

    def write(content: bytes) -> None:
        start.wait()
        for _ in range(10):
            try:
                write_whole(file, lambda stream: [stream.write(content[:1000]), stream.write(content[1000:])])
            except BaseException as error:  # a thread's error is lost otherwise
                errors.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    start.wait()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(file.read_bytes())
    for writer in writers:
        writer.join()
    assert not errors
    assert seen <= set(contents)
    assert file.read_bytes() in contents
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems cannot."""

    def fail(_: int) -> None:
        raise OSError("Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    sync_folder(tmp_path)


# -- stamps --


def test_a_stamp_changes_with_the_file(file: Path) -> None:
    file.write_bytes(b"one")
    first = stamp(file)
    assert stamp(file) == first
    file.write_bytes(b"other")
    os.utime(file, ns=(first[1], first[1]))
    assert stamp(file) != first, "the size differs"
    file.write_bytes(b"two")
    time.sleep(0.02)  # more than a tick of the file system's clock
    os.utime(file, ns=(first[1], first[1]))
    assert stamp(file) != first, "the time of the last change of its entry differs"


def test_a_replaced_file_has_another_stamp(file: Path) -> None:
    file.write_bytes(b"one")
    first = stamp(file)
    write_whole(file, b"one")
    assert stamp(file) != first


def test_no_stamp_of_a_missing_file(file: Path) -> None:
    with pytest.raises(FileNotFoundError):
        stamp(file)


def test_a_stamp_has_settled_after_some_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"one")
    taken = stamp(file)
    assert not is_settled(taken)
    now = time.time_ns()
    monkeypatch.setattr(files.time, "time_ns", lambda: now + 3_000_000_000)
    assert is_settled(taken)


# -- hashes and names --


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 7])
def test_sha256_of_a_file(size: int, file: Path) -> None:
    data = os.urandom(size)
    file.write_bytes(data)
    steps: list[int] = []
    assert file_sha256(file, steps.append) == file_sha256(file) == hashlib.sha256(data).hexdigest()
    assert sum(steps) == size


def test_a_fingerprint_differs_if_any_part_does() -> None:
    parts: dict[str, object] = {"name": "a", "sizes": [1, 2], "deep": {"x": 1.5}, "path": Path("p"), "none": None}
    same = dict(reversed(parts.items()))
    assert fingerprint(parts) == fingerprint(same), "the order does not matter"
    others = [{**parts, key: "other"} for key in parts] + [{**parts, "more": 1}, {**parts, "sizes": [2, 1]}]
    assert len({fingerprint(item) for item in (parts, *others)}) == 1 + len(others)
    assert len(fingerprint(parts)) == 32


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "kandinsky22-deploy"
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == tmp_path / "home" / ".cache" / "kandinsky22-deploy"


def test_a_user_without_a_home_has_no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is None


# -- folders and pipes --


def test_a_folder_that_cannot_be_asked_for_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_folder(tmp_path)
    assert not is_folder(tmp_path / "nowhere")
    assert not is_folder(tmp_path / ("n" * 300))

    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert not is_folder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_are_read_up_to_a_limit(tmp_path: Path, file: Path) -> None:
    file.write_bytes(b"regular")
    assert read_pipe(file, "image", 3) is None
    assert read_pipe(tmp_path, "image", 3) is None
    with pytest.raises(FileNotFoundError):
        read_pipe(tmp_path / "nowhere", "image", 3)
    with pytest.raises(
        InputError, match="image pipe is a pipe or a device with more than 3 bytes; expected less: give a file"
    ):
        read_pipe(fed_pipe(tmp_path / "pipe", b"four"), "image pipe", 3)
    assert read_pipe(fed_pipe(tmp_path / "other", b"four"), "image", 4) == b"four"


# -- hold --


def test_one_process_holds_a_file(file: Path) -> None:
    code = f"from pathlib import Path; from kandinsky_runtime.files import hold; hold(Path({str(file)!r}))"
    command = [sys.executable, "-c", code]
    with hold(file):
        assert b"BlockingIOError" in subprocess.run(command, capture_output=True, check=False).stderr
        with pytest.raises(BlockingIOError, match="another process holds it"):
            hold(file)
    assert subprocess.run(command, check=False).returncode == 0
    hold(file).close()


def test_a_file_system_without_locks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with hold(file), hold(file):
        pass
