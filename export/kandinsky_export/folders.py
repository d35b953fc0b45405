"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kandinsky_runtime.errors import UsageError

from kandinsky_export.errors import ExportError

_MARK = ".partial-"


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling of `target` to fill; it takes the target's name when the block ends without an error.

    What it holds is flushed to disk before it is renamed. An error removes it; a killed process leaves it behind, and
    the next call for the same target removes it then.

    Raises:
        UsageError: `target` exists and `overwrite` is false, or its parent is missing.
        ExportError: the disk is full, or the folder cannot be written.
    """
    check_target(target, overwrite=overwrite)
    _remove_leftovers(target)
    partial = target.with_name(f".{target.name}{_MARK}{os.getpid()}")
    try:
        partial.mkdir()
        yield partial
        _flush(partial)
        _swap(partial, target)
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target folder before any work is done for it; see `new_folder`."""
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is no folder; make it first")
    if target.exists() and not overwrite and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} exists; choose another place, or replace it with --overwrite")


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new one, never a part."""
    partial = path.with_name(f".{path.name}{_MARK}{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _swap(partial: Path, target: Path) -> None:
    """Put `partial` in the place of `target`, which may exist; a failure puts the old one back."""
    old = target.with_name(f".{target.name}{_MARK}{os.getpid()}-old")
    had_old = target.exists()
    if had_old:
        target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        if had_old:
            old.rename(target)
        raise
    _sync(target.parent)
    if had_old:
        shutil.rmtree(old)


def _remove_leftovers(target: Path) -> None:
    for path in target.parent.glob(f".{target.name}{_MARK}*"):
        pid = path.name.rpartition(_MARK)[2].removesuffix("-old")
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if path.name.endswith("-old") and not target.exists():
            path.rename(target)  # killed between the two renames: the old folder is still the valid one
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError if path.is_dir() else ()):  # some file systems cannot flush a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
