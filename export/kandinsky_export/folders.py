"""Folders and files that appear whole or not at all.

A folder is written as a hidden sibling, `.NAME.partial-XXXXXXXX`, and renamed when it is whole. A folder that it
replaces is renamed to the same name with `-old` at its end until then. The process that writes a sibling holds an
advisory lock on it. A sibling without a lock was left behind by a killed process. On a system without such locks it
stays.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kandinsky_export.errors import ExportError
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.files import sync_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial-"
_OLD = "-old"


@contextmanager
def new_folder(target: Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling of `target` to fill; it takes the target's name when the block ends without an error.

    Its content is flushed to disk before it is renamed. An error or an interrupt removes it. A killed process leaves it
    behind, and the next call for the same target removes it.

    Args:
        target: the folder to make.
        marker: a file that every folder of this kind has; only such a folder is ever replaced.
        overwrite: whether to replace `target` if it exists.

    Raises:
        UsageError: an invalid `target`, see `check_target`, or another process made it during the block.
        ExportError: the disk is full, or the folder cannot be written.
    """
    with _disk_errors_explained(target):
        place = target.resolve()
        _remove_leftovers(place)
        check_target(target, marker=marker, overwrite=overwrite)
        with _partial_sibling(place) as partial:
            yield partial
            _flush(partial)
            _swap(partial, place, overwrite=overwrite)


def check_target(target: Path, *, marker: str, overwrite: bool) -> None:
    """Refuse a target folder before any work is done for it; see `new_folder`.

    Raises:
        UsageError: its parent is missing, it is or contains the current folder, it exists and `overwrite` is false,
            or it has content of another kind.
        ExportError: the folder cannot be read.
    """
    with _disk_errors_explained(target):
        place = target.resolve()
        if not place.parent.is_dir():
            raise UsageError(f"{place.parent} is not a folder; create it first")
        if Path.cwd().is_relative_to(place):
            raise UsageError(f"{target} is or contains the current folder; choose another folder")
        content = _content(place)
        if content and not overwrite:
            raise UsageError(f"{target} exists; choose another folder, or replace it with --overwrite")
        if content and marker not in content:
            raise UsageError(f"{target} has no {marker} in it, so it is not replaced; choose another folder")


def _content(place: Path) -> set[str]:
    """The names in a folder; none if it does not exist, and one empty name for a file.

    It reads again if another process replaced the folder in the meantime.
    """
    while True:
        try:
            before = place.stat()
            names = {path.name for path in place.iterdir()} if place.is_dir() else {""}
            if os.path.samestat(before, place.stat()):
                return names
        except FileNotFoundError:
            return set()


@contextmanager
def _disk_errors_explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"cannot write {target}: the disk is full; free some space and try again"
        else:
            message = f"{target} was not written: {error}"  # the error may be one of reading
        raise ExportError(message) from error


@contextmanager
def _partial_sibling(place: Path) -> Iterator[Path]:
    """A new folder next to `place`, locked while the block runs, and removed after it if it is still there."""
    token = secrets.token_hex(4)
    unlocked = place.with_name(f".{place.name}.new-{token}")
    partial = place.with_name(f".{place.name}{_PARTIAL}{token}")
    try:
        unlocked.mkdir()
        with _locked(unlocked):
            unlocked.rename(partial)  # locked before it has the name that others look for
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(unlocked, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder for the block; false if another process holds its lock, or if there are no locks here."""
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free
    finally:
        os.close(descriptor)


def _swap(partial: Path, place: Path, *, overwrite: bool) -> None:
    """Rename `partial` to `place`, which may exist; if that fails, the old folder is put back."""
    old = partial.with_name(partial.name + _OLD)
    try:
        while not _renamed(partial, place):
            if not overwrite:
                raise UsageError(f"{place} was made by another process in the meantime; add --overwrite to replace it")
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):  # another process replaces it, too
                place.rename(old)
    except BaseException:
        with suppress(OSError):
            old.rename(place)
        raise
    sync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def _renamed(folder: Path, place: Path) -> bool:
    """Rename a folder; false if `place` has content."""
    try:
        folder.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _remove_leftovers(place: Path) -> None:
    """Remove what killed processes left next to `place`, and put back a folder that one of them was replacing."""
    for path in place.parent.glob(f".{glob.escape(place.name)}{_PARTIAL}*"):
        with suppress(OSError), _locked(path) as free:
            if not free:
                continue
            if path.name.endswith(_OLD) and not place.exists():
                path.rename(place)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("r+b") as stream:  # Windows flushes only what can be written
                os.fsync(stream.fileno())
    sync_folder(folder)
