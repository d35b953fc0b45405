"""The list of unfinished jobs: bounded, for one server, and no reason for a job to fail."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path
from typing import Any

import pytest

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving import journal as module
from kandinsky_runtime.serving.jobs import CANCELLED, COMPLETED
from kandinsky_runtime.serving.journal import FILE, UNFINISHED, Journal
from kandinsky_runtime.serving.store import Store


class FullDisk:
    """A file whose disk is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


class Ended:
    """A job, as the store sees it."""

    def __init__(self, name: str, state: str = COMPLETED, *, interrupted: bool = False) -> None:
        self.id, self.owner, self.state, self.interrupted, self.kept_bytes = name, "", state, interrupted, 0


def test_it_is_rewritten_and_forgets_the_oldest(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("first", "me", UNFINISHED)
    for number in range(20_000):
        journal.write(f"job{number}", "me", UNFINISHED)
        journal.write(f"job{number}", "me", COMPLETED)
    assert len((tmp_path / FILE).read_text().splitlines()) <= 20_010
    journal.close()
    again = Journal(tmp_path)
    assert again.lost == {"first": "me"}, "an unfinished job is never forgotten"
    assert len(again.ended) == 10_000
    assert "job19999" in again.ended
    assert "job9999" not in again.ended
    again.close()


def test_two_servers_do_not_share_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("job", "me", UNFINISHED)
    before = (tmp_path / FILE).read_text()
    with pytest.raises(UsageError, match="is used by another server; give each"):
        Journal(tmp_path)
    assert (tmp_path / FILE).read_text() == before
    journal.close()
    again = Journal(tmp_path)
    assert again.lost == {"job": "me"}
    again.close()


def test_a_full_disk_stops_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    journal = Journal(tmp_path)
    store = Store(600, 1000, journal)

    def no_room(path: Path, content: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(module, "write_whole", no_room)
        assert journal._file is not None
        journal._file.close()
        journal._file = FullDisk()  # type: ignore[assignment]
        jobs: list[Any] = [Ended("one"), Ended("two"), Ended("three", UNFINISHED)]
        for job in jobs:
            store.add(job)
        store.ended(jobs[0])
    assert [record.message for record in caplog.records if "cannot be written" in record.message] == [
        f"{tmp_path / FILE} cannot be written, a crash would lose jobs unnoticed: [Errno 28] No space left on device"
    ], "it is logged once"
    store.ended(jobs[1])
    assert f"{tmp_path / FILE} is written again" in caplog.text
    store.close()
    again = Journal(tmp_path)
    assert (set(again.ended), set(again.lost)) == ({"one", "two"}, {"three"})
    again.close()


def test_a_job_that_the_end_of_the_server_interrupts_is_lost(tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(600, 1000, Journal(tmp_path))
        jobs: list[Any] = [Ended("stopped", CANCELLED, interrupted=True), Ended("cancelled", CANCELLED)]
        for job in jobs:
            store.add(job)
            store.ended(job)
        store.close()
        store.ended(jobs[1])

    asyncio.run(run())
    again = Journal(tmp_path)
    assert (set(again.lost), set(again.ended)) == ({"stopped"}, {"cancelled"})
    again.close()
