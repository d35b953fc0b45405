"""The list of unfinished jobs on disk: after a crash, they are reported as lost, and never as done.

Each line of the file is a JSON object with a job's id, its owner and its state. The last line of a job counts. A line
that was cut off by a crash is ignored. The file is rewritten at every start, and when it has grown. A disk that is full
stops no job: the file is then written again with the next line.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.files import hold, write_whole

FILE, LOCK = "jobs.jsonl", "jobs.lock"
LOST, UNFINISHED = "lost", "unfinished"
_KEPT_SECONDS = 7 * 24 * 3600.0
_MOST_KEPT = 10_000  # of the lost ones, and of those that have ended: as many as `Store` remembers
_FEWEST_LINES = 10_000  # of a file that is worth rewriting

_log = logging.getLogger(__name__)


class Journal:
    """The jobs of this server and of those before it in the same folder.

    Attributes:
        lost: the owner of each job that a server before this one did not finish, by id.
        ended: the owner of each job that has ended, and whose result is gone, by id.
    """

    def __init__(self, folder: Path) -> None:
        """Read what a server before this one left, and begin a file of its own.

        Raises:
            UsageError: another server uses the folder, or it cannot be written to.
        """
        self._path = folder / FILE
        self._lock = threading.Lock()
        # Entries by job: the unfinished ones, and those of `lost` and `ended`, the oldest first.
        self._unfinished: dict[str, dict[str, Any]] = {}
        self._lost: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, dict[str, Any]] = {}
        self._lines = 0
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held = hold(folder / LOCK)
        except BlockingIOError as error:
            raise UsageError(
                f"the state folder {folder} is used by another server; give each server a folder of its own"
            ) from error
        except OSError as error:
            raise UsageError(f"the state folder {folder} cannot be used: {error.strerror}") from error
        try:
            for entry in sorted(self._read().values(), key=lambda entry: float(entry["time"])):
                self._note(entry | {"state": LOST if entry["state"] == UNFINISHED else entry["state"]})
            self._file: TextIO | None = self._rewritten()
        except OSError as error:
            self._held.close()
            raise UsageError(f"the state folder {folder} cannot be used: {error.strerror}") from error
        self.lost = {job: entry["owner"] for job, entry in self._lost.items()}
        self.ended = {job: entry["owner"] for job, entry in self._ended.items()}

    def write(self, job: str, owner: str, state: str) -> None:
        """Add a line: `UNFINISHED` for a new job, and its last state when it has ended.

        If the disk cannot take it, the log says so, and the job goes on.
        """
        entry = {"job": job, "owner": owner, "state": state, "time": time.time()}
        with self._lock:
            self._note(entry)
            if self._closed:
                return
            try:
                self._append(entry)
            except OSError as error:
                if self._file is not None:
                    _log.error("%s cannot be written, a crash would lose jobs unnoticed: %s", self._path, error)
                self._abandon_file()

    def close(self) -> None:
        """Close the file, and let another server use the folder."""
        with self._lock:
            self._closed = True
            self._abandon_file()
            self._held.close()

    def _note(self, entry: dict[str, Any]) -> None:
        """Keep an entry in memory: all of unfinished jobs, and the newest of the others."""
        job = entry["job"]
        self._unfinished.pop(job, None)
        kept = {UNFINISHED: self._unfinished, LOST: self._lost}.get(entry["state"], self._ended)
        kept[job] = entry
        while kept is not self._unfinished and kept:
            oldest = next(iter(kept.values()))
            if len(kept) <= _MOST_KEPT and time.time() - float(oldest["time"]) < _KEPT_SECONDS:
                return
            del kept[oldest["job"]]

    def _append(self, entry: dict[str, Any]) -> None:
        """Write an entry that is kept in memory already."""
        if self._file is None:  # after an error
            self._file = self._rewritten()
            _log.info("%s is written again", self._path)
            return
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        self._lines += 1
        if self._lines > max(_FEWEST_LINES, 2 * self._count):
            rewritten = self._rewritten()
            self._file.close()
            self._file = rewritten

    def _abandon_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # it is closed even if its last line cannot be written
                file.close()

    @property
    def _count(self) -> int:
        return len(self._lost) + len(self._ended) + len(self._unfinished)

    def _entries(self) -> list[dict[str, Any]]:
        return [*self._lost.values(), *self._ended.values(), *self._unfinished.values()]

    def _rewritten(self) -> TextIO:
        entries = self._entries()
        write_whole(self._path, "".join(json.dumps(entry) + "\n" for entry in entries))
        self._lines = len(entries)
        return self._path.open("a", encoding="utf-8")

    def _read(self) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = {}
        if not self._path.exists():
            return entries
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                job, _ = str(entry["job"]), (entry["owner"], entry["state"], float(entry["time"]))
            except (ValueError, KeyError, TypeError):
                continue
            entries[job] = entry
        return entries
