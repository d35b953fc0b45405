"""Pages of mapped files that leave memory; tests/parity/openvino/test_engine.py has those of OpenVINO."""

from __future__ import annotations

import mmap
import sys
import threading
from pathlib import Path

import pytest

from kandinsky_runtime.engines.openvino import resident
from kandinsky_runtime.engines.openvino.resident import drop_mapped_pages

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are dropped on Linux only")
SIZE = 64 * mmap.PAGESIZE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a name with spaces"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def resident_bytes(file: Path) -> int:
    """Bytes of the file's mappings in this process's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key = line.split()[0]
        if "-" in key:
            inside = line.endswith(str(file))
        elif inside and key == "Rss:":
            total += int(line.split()[1]) * 1024
    return total


@linux
def test_pages_of_a_shared_mapping_are_dropped_and_come_back(file: Path) -> None:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        content = bytes(mapped)
        assert resident_bytes(file) == SIZE
        with drop_mapped_pages(file):
            bytes(mapped)
        assert resident_bytes(file) == 0
        assert bytes(mapped) == content


@linux
def test_pages_are_dropped_within_the_statement_and_after_an_error(file: Path) -> None:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:

        def fail() -> None:
            with drop_mapped_pages(file):
                bytes(mapped)
                for _ in range(200):
                    if not resident_bytes(file):
                        break
                    threading.Event().wait(0.02)
                assert resident_bytes(file) == 0
                bytes(mapped)
                raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            fail()
        assert resident_bytes(file) == 0


@linux
def test_private_changes_are_not_lost(file: Path) -> None:
    """Only read-only shared mappings are touched."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:4] = b"mine"
        with drop_mapped_pages(file):
            pass
        assert mapped[:4] == b"mine"


@linux
def test_another_file_stays(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        bytes(mapped)
        with drop_mapped_pages(other):
            pass
        assert resident_bytes(file) == SIZE


def test_no_thread_is_left(file: Path) -> None:
    before = threading.active_count()
    with drop_mapped_pages(file):
        pass
    assert threading.active_count() == before


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_another_system_does_nothing(platform: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident.sys, "platform", platform)
    before = threading.active_count()
    with drop_mapped_pages(file):
        assert threading.active_count() == before


def test_a_missing_file_does_nothing(tmp_path: Path) -> None:
    before = threading.active_count()
    with drop_mapped_pages(tmp_path / "missing"):
        assert threading.active_count() == before
