"""The cache of what came from the Paddle store: `$XDG_CACHE_HOME/kandinsky22-deploy/hub/OWNER--NAME`.

If `$XDG_CACHE_HOME` is not set, `~/.cache` takes its place. A file is written as FILE.part, renamed when it is whole,
and never requested again: a complete folder needs no network. `.k22-hub.json` in the folder records URL, size and ETag
of each file. Remove the folder to fetch everything again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from kandinsky_export.hub.http import Remote
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.files import cache_folder, write_whole

LEDGER_NAME = ".k22-hub.json"
LEDGER_SCHEMA = 1
LOCK_NAME = ".k22-hub.lock"

_LOG = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Where checkpoints from the Paddle store are kept.

    Raises:
        UsageError: the user has no home.
    """
    folder = cache_folder()
    if folder is None:
        raise UsageError("there is no folder to keep checkpoints in: set XDG_CACHE_HOME to one")
    return folder / "hub"


class CacheFolder:
    """The files of one checkpoint, whole or in part, and the ledger that says where each came from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole, self._partial = _read_ledger(path / LEDGER_NAME)

    def lacks(self, urls: Mapping[str, str]) -> dict[str, str]:
        """Those of `urls`, by file, whose file is not here or came from elsewhere."""
        return {file: url for file, url in urls.items() if not self._holds(file, url)}

    def _holds(self, file: str, url: str) -> bool:
        known, path = self._whole.get(file), self.path / file
        return known is not None and known.url == url and path.is_file() and path.stat().st_size == known.size

    def part(self, file: str) -> Path:
        """Where a file grows."""
        return self.path / f"{file}.part"

    def partial(self, file: str) -> Remote | None:
        """What the bytes in `part(file)` are the beginning of; None if they are of no use."""
        return self._partial.get(file)

    def received(self, file: str) -> int:
        """Number of bytes that need not be fetched again."""
        part = self.part(file)
        return part.stat().st_size if file in self._partial and part.exists() else 0

    def keep_partial_of(self, file: str, remote: Remote) -> None:
        """Discard a partial file unless it is surely the beginning of `remote`."""
        if self._partial.get(file) != remote or remote.etag is None or self.received(file) > remote.size:
            self.discard(file)

    def discard(self, file: str) -> None:
        """Forget a partial file."""
        self.part(file).unlink(missing_ok=True)
        if self._partial.pop(file, None) is not None:
            self._save()

    def begin(self, file: str, remote: Remote) -> None:
        """Start a file from its first byte. It is recorded first, so that it can be resumed after an interruption."""
        self.part(file).parent.mkdir(parents=True, exist_ok=True)
        self.part(file).unlink(missing_ok=True)
        self._whole.pop(file, None)
        self._partial[file] = remote
        self._save()

    def finish(self, file: str) -> None:
        """Give a whole file its name."""
        self.part(file).replace(self.path / file)
        self._whole[file] = self._partial.pop(file)
        self._save()

    def _save(self) -> None:
        document = {
            "schema": LEDGER_SCHEMA,
            "whole": {file: asdict(remote) for file, remote in self._whole.items()},
            "partial": {file: asdict(remote) for file, remote in self._partial.items()},
        }
        ledger = self.path / LEDGER_NAME
        write_whole(ledger, json.dumps(document, indent=1))


def _read_ledger(path: Path) -> tuple[dict[str, Remote], dict[str, Remote]]:
    """The whole and the partial files by name; nothing is known of either if the ledger is missing or damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != LEDGER_SCHEMA:
            return {}, {}
        whole, partial = (
            {file: Remote(**entry) for file, entry in document[kind].items()} for kind in ("whole", "partial")
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}, {}
    return whole, partial


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from filling `folder` at the same time; waits for one that does."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOG.warning("another process is fetching into %s: waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
