"""Compiled graphs on disk: every entry is a folder that is either whole and unchanged, or rebuilt.

The name of an entry is a fingerprint of everything that it was made from. In addition to the vendor's files, an entry
holds their sha256 (the seal), which is written last. So a truncated or changed file is found before the vendor's
library reads it; OpenVINO 2026.4.1 computes with whatever such a file contains. A file is read for the check only if
its stamp shows that it may have changed since it last passed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from kandinsky_runtime.files import file_sha256, is_settled, stamp, write_whole

Result = TypeVar("Result")

# The limits for all entries of a folder. The entries that were unused for longest are removed first; the newest stays.
MAX_ENTRIES = 32
MAX_BYTES = 16 * 10**9

_SEAL = "sha256.json"
_DRAFT = ".draft-"
_DRAFT_SECONDS = 3600  # an older one was left behind by a process that died

_log = logging.getLogger(__name__)


def compile_cached(folder: Path | None, name: str, compile_in: Callable[[Path | None], Result]) -> Result:
    """Compile with the help of the entry `name`, which is rebuilt if it is missing or damaged.

    A fault of the cache costs time and nothing else.

    Args:
        folder: the folder of all entries; None for no cache.
        name: the entry's fingerprint.
        compile_in: a function that compiles with the vendor's files in a folder, and writes them if they are missing;
            without a folder it compiles from scratch.
    """
    if folder is None:
        return compile_in(None)
    entry = folder / name
    if _is_whole(entry):
        try:
            compiled = compile_in(entry)
        except Exception as error:  # vendors raise nearly anything; a faulty graph fails again below
            _log.info("the cache entry %s cannot be used: %s", entry, error)
        else:
            _touch(entry)
            return compiled
    shutil.rmtree(entry, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=folder))
    except OSError as error:
        _log.info("nothing can be written to %s: %s", folder, error)
        return compile_in(None)
    try:
        try:
            compiled = compile_in(draft)
        except Exception as error:  # as above; a full disk must not fail a run
            _log.info("compiling without a cache after: %s", error)
            return compile_in(None)
        _keep(draft, entry)
        return compiled
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def whole_entry(folder: Path, name: str) -> Path | None:
    """The entry `name`, marked as used now; None if it is missing or damaged."""
    entry = folder / name
    if not _is_whole(entry):
        return None
    _touch(entry)
    return entry


def ensure_entry(folder: Path, name: str, write: Callable[[Path], object]) -> bool:
    """Make the entry `name` if it is missing or damaged: `write` fills a folder, which becomes the entry.

    Returns:
        Whether the entry had to be made.

    Raises:
        OSError: it cannot be written.
    """
    if whole_entry(folder, name) is not None:
        return False
    with new_entry(folder, name) as draft:
        write(draft)
    return True


def sealed_sha256(entry: Path, name: str) -> str:
    """The sha256 of a file of a whole entry, from its seal."""
    sha256: str = json.loads((entry / _SEAL).read_text(encoding="utf-8"))[name]["sha256"]
    return sha256


@contextlib.contextmanager
def new_entry(folder: Path, name: str) -> Iterator[Path]:
    """A folder to write files into. It becomes the entry `name`, and replaces an older one, if the block ends without
    an error.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=folder))
    try:
        yield draft
        shutil.rmtree(folder / name, ignore_errors=True)
        _seal(draft, folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _keep(draft: Path, entry: Path) -> None:
    """Make a draft the entry if that is possible."""
    try:
        _seal(draft, entry)
    except OSError as error:  # another process was first, or the disk is full
        _log.info("the entry %s is not kept: %s", entry, error)


def _seal(draft: Path, entry: Path) -> None:
    """Make a draft the entry, unless it is empty. Then remove the entries beyond the limits."""
    if files := _files(draft):
        for file in files.values():
            _to_disk(file)
        (draft / _SEAL).write_text(json.dumps(_states(files)), encoding="utf-8")
        draft.rename(entry)
    _prune(entry.parent)


def _prune(folder: Path) -> None:
    used = {path: path.stat().st_mtime for path in folder.iterdir() if path.is_dir()}
    drafts = {path for path in used if path.name.startswith(_DRAFT)}
    gone = [path for path in drafts if time.time() - used[path] > _DRAFT_SECONDS]
    total = 0
    for rank, path in enumerate(sorted(used.keys() - drafts, key=lambda path: used[path], reverse=True)):
        total += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if rank and (rank >= MAX_ENTRIES or total > MAX_BYTES):
            gone.append(path)
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)


def _is_whole(entry: Path) -> bool:
    """Whether an entry's files are those that were sealed. The seal is updated for files that had to be read."""
    try:
        sealed = json.loads((entry / _SEAL).read_text(encoding="utf-8"))
        files = _files(entry)
        if sealed.keys() != files.keys():
            return False
        if all(stamp(file) == sealed[name]["stamp"] for name, file in files.items()):
            return True
        states = _states(files)
        if any(states[name]["sha256"] != sealed[name]["sha256"] for name in files):
            return False
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):  # a seal may contain anything
        return False
    if states != sealed:
        _reseal(entry, states)
    return True


def _reseal(entry: Path, states: Mapping[str, Mapping[str, object]]) -> None:
    """Write the state of files that passed the check; if that is impossible, they are read again next time."""
    with contextlib.suppress(OSError):
        write_whole(entry / _SEAL, json.dumps(states))


def _files(folder: Path) -> dict[str, Path]:
    """Every file except the seal, by its path within the folder."""
    return {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file() and path.name != _SEAL
    }


def _states(files: Mapping[str, Path]) -> dict[str, dict[str, object]]:
    """The sha256 of files, and their stamps if any later change would show in them."""
    taken = {name: stamp(file) for name, file in files.items()}
    sums = {name: file_sha256(file) for name, file in files.items()}
    return {name: {"sha256": sums[name], "stamp": taken[name] if is_settled(taken[name]) else None} for name in files}


def _to_disk(file: Path) -> None:
    """Flush a file to disk: after a power failure, no stamp may vouch for bytes that were lost."""
    if os.name == "posix":  # elsewhere fsync needs a file that is open for writing
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _touch(entry: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(entry)
