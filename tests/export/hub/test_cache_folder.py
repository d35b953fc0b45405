"""The ledger, the lock and the disk under the cache."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from kandinsky_export import hub
from kandinsky_export.errors import DownloadError
from kandinsky_export.hub.cache_folder import LEDGER_NAME, LOCK_NAME, CacheFolder
from tests.export.hub.checkpoint import NAME, PADDLE_FILES, UNET, WEIGHTS, contents
from tests.export.hub.fake_server import FakeServer
from tests.export.hub.fake_store import fetch, part_of, wait_until


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "whole": {"a": 1}, "partial": {}}'])
def test_a_damaged_ledger_counts_for_nothing(damage: str, store: FakeServer, tmp_path: Path) -> None:
    folder = fetch(tmp_path)
    (folder / LEDGER_NAME).write_text(damage)
    store.requests.clear()
    fetch(tmp_path)
    assert len(store.gets()) == len(PADDLE_FILES)


def test_an_interruption_between_a_files_name_and_its_record(
    store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: CacheFolder) -> None:
        if (folder.path / UNET).read_bytes() != WEIGHTS:
            raise KeyboardInterrupt
        save(folder)

    fetch(tmp_path)
    store.files.update({f"/mirror/{NAME}/{file}": content[::-1] for file, content in PADDLE_FILES.items()})
    save = CacheFolder._save
    with monkeypatch.context() as patch:
        patch.setattr(CacheFolder, "_save", interrupted)
        patch.setenv(hub.PADDLE_STORE_VARIABLE, f"{store.url}/mirror")
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path)
    assert contents(fetch(tmp_path)) == PADDLE_FILES


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_keeps_what_came(
    number: int, store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(WEIGHTS):
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DownloadError, match=r"the disk is full at .*: free some space and try again"):
            fetch(tmp_path)
    store.requests.clear()
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert store.gets(UNET) == []


def test_a_cache_that_cannot_be_written(store: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(DownloadError, match=r"cannot be used: .*choose another cache folder"):
        fetch(tmp_path)


def test_two_processes_do_not_fetch_into_the_same_folder(
    store: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = part_of(tmp_path).parents[1]
    folder.mkdir(parents=True)
    with FileLock(folder / LOCK_NAME):
        other = threading.Thread(target=fetch, args=[tmp_path])
        other.start()
        wait_until(lambda: "another process is fetching" in caplog.text)
        assert store.requests == []
    other.join(10)
    assert contents(folder) == PADDLE_FILES
