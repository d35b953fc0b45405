"""The list of unfinished jobs on disk: after a crash, they are reported as lost, and never as done.

Each line of the file is a JSON object with a job's id, its owner and its state. The last line of a job counts. A line
that was cut off by a crash is ignored. The file is rewritten at every start, and when it has grown.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.files import write_whole

FILE = "jobs.jsonl"
LOST, UNFINISHED = "lost", "unfinished"
_KEPT_SECONDS = 7 * 24 * 3600.0
_MOST_LINES = 10_000


class Journal:
    """The jobs of this server and of those before it in the same folder.

    Attributes:
        lost: the owner of each job that a server before this one did not finish, by id.
        ended: the owner of each job that has ended, and whose result is gone, by id.
    """

    def __init__(self, folder: Path) -> None:
        """Read what a server before this one left, and begin a file of its own.

        Raises:
            UsageError: the folder cannot be written to.
        """
        self._path = folder / FILE
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            entries = self._read()
            self._entries = {
                job: entry | {"state": LOST if entry["state"] == UNFINISHED else entry["state"]}
                for job, entry in entries.items()
                if time.time() - entry["time"] < _KEPT_SECONDS
            }
            self._file = self._rewritten()
        except OSError as error:
            raise UsageError(f"the state folder {folder} cannot be used: {error.strerror}") from error
        self.lost = {job: e["owner"] for job, e in self._entries.items() if e["state"] == LOST}
        self.ended = {job: e["owner"] for job, e in self._entries.items() if e["state"] != LOST}

    def write(self, job: str, owner: str, state: str) -> None:
        """Add a line: `UNFINISHED` for a new job, and its last state when it has ended."""
        with self._lock:
            self._entries[job] = {"job": job, "owner": owner, "state": state, "time": time.time()}
            self._file.write(json.dumps(self._entries[job]) + "\n")
            self._file.flush()
            self._lines += 1
            if self._lines > max(_MOST_LINES, 2 * len(self._entries)):
                self._file.close()
                self._file = self._rewritten()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _rewritten(self) -> TextIO:
        while len(self._entries) > _MOST_LINES:
            del self._entries[next(iter(self._entries))]
        text = "".join(json.dumps(entry) + "\n" for entry in self._entries.values())
        write_whole(self._path, text)
        self._lines = len(self._entries)
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
