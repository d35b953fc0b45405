"""A bundle on disk: its files, and the checks of their presence and content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.manifest import (
    IMAGE_TO_IMAGE,
    INPAINT,
    PICTURE_PROMPT,
    PROMPT,
    TEXT_TO_IMAGE,
    Component,
    FileEntry,
    Manifest,
    Variant,
)
from kandinsky_runtime.bundle.manifest import MANIFEST as MANIFEST
from kandinsky_runtime.bundle.manifest_reader import parse
from kandinsky_runtime.checks import flag
from kandinsky_runtime.errors import BundleError, UsageError
from kandinsky_runtime.files import cache_folder, file_sha256, is_settled, stamp, write_whole
from kandinsky_runtime.progress import ProgressBar

_PLAIN = "export one from a plain decoder, such as kandinsky-2-2-decoder"
_REMEDIES = {
    INPAINT: "export one from an inpainting decoder, such as kandinsky-2-2-decoder-inpaint",
    TEXT_TO_IMAGE: _PLAIN,
    IMAGE_TO_IMAGE: _PLAIN,
    PROMPT: "export it again with --prior, or give image embeddings",
    PICTURE_PROMPT: "export it again with --prior and its image encoder",
}

_log = logging.getLogger(__name__)
_MAX_MANIFEST_BYTES = 16 << 20
_SECONDS_BEFORE_BAR = 0.5


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `Bundle.open` has checked its manifest, and the presence and size of every file.

    Attributes:
        root: the bundle's folder.
        manifest: the content of its manifest.
        trusted: whether the content of its files is used unchecked.
    """

    root: Path
    manifest: Manifest
    trusted: bool = False

    @classmethod
    def open(cls, path: str | os.PathLike[str], trust: bool = False) -> Bundle:
        """Open a bundle.

        Args:
            path: its folder.
            trust: whether the content of its files is used without comparing it with the manifest. A file that was
                changed without a change of its size is then not noticed. For a mount that nobody can write to.

        Raises:
            BundleError: it is not a bundle or is too new, or files are missing or have another size; every fault is
                listed. A link is followed, also out of the folder, because the content is checked before it is used.
                With `trust`, it is a fault.
            UsageError: `path` is not a path, or `trust` not a bool.
        """
        trusted = flag("trust", trust)
        if not isinstance(path, (str, os.PathLike)):
            raise UsageError(f"the bundle is a {type(path).__name__}; expected the path of its folder")
        subject = f"bundle {os.fspath(path)}"
        root = Path(path).absolute()
        manifest = parse(_read_manifest(root, subject), subject)
        if faults := [fault for item in manifest.files.items() if (fault := _presence_fault(root, *item))]:
            raise BundleError(subject, faults)
        if trusted and (faults := [fault for path in manifest.files if (fault := _link_fault(root, path))]):
            raise BundleError(subject, faults)
        return cls(root, manifest, trusted)

    @classmethod
    def of(cls, bundle: str | os.PathLike[str] | Bundle, trust: bool = False) -> Bundle:
        """An opened bundle, or the bundle at a path; with `trust`, opened again if it is not trusted.

        Errors are those of `open`.
        """
        if not isinstance(bundle, Bundle):
            return cls.open(bundle, trust)
        return bundle if not flag("trust", trust) or bundle.trusted else cls.open(bundle.root, trust)

    @property
    def subject(self) -> str:
        """The bundle's name in errors."""
        return f"bundle {self.root}"

    def component(self, name: str) -> Component:
        """The component called `name`.

        Raises:
            BundleError: the bundle has no such component.
        """
        try:
            return self.manifest.components[name]
        except KeyError:
            listed = ", ".join(self.manifest.components)
            raise BundleError(self.subject, [f"it has no component `{name}`; it has {listed}"]) from None

    def paths(self, variant: Variant) -> dict[str, Path]:
        """The path of each of the variant's files by its role."""
        return {role: self.root / path for role, path in variant.files.items()}

    def require(self, task: str) -> None:
        """Refuse a task, one of `manifest.TASKS`, that the bundle cannot do.

        Raises:
            UsageError: it cannot do the task; the text names what it can do, and the remedy.
        """
        if task not in self.manifest.tasks:
            raise self.cannot(task)

    def cannot(self, task: str) -> UsageError:
        """The error for a task that the bundle cannot do."""
        able = ", ".join(self.manifest.tasks) or "nothing"
        return UsageError(f"{self.subject} cannot do {task}: it does {able}; {_REMEDIES[task]}")

    def constants(self, path: str) -> dict[str, npt.NDArray[np.float32]]:
        """The arrays of one of the bundle's `.npz` files. The file's content is checked first.

        Raises:
            BundleError: the file changed, or is not an `.npz` file.
        """
        self.check_files([path])
        try:
            with (self.root / path).open("rb") as file:  # numpy leaves a file that it opened open after some errors
                archive = np.load(file, allow_pickle=False)
                if not isinstance(archive, np.lib.npyio.NpzFile):
                    raise ValueError("not an .npz file")
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(self.subject, [f"{path} cannot be read ({error})"]) from error

    def extra_files(self) -> list[str]:
        """The files in the folder that are not in the manifest, sorted. Nothing reads them."""
        present = {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()}
        return sorted(present - {MANIFEST, *self.manifest.files})

    def check_content(self, variants: Iterable[Variant] | None = None, *, progress: bool = False) -> None:
        """Compare the sha256 of the files of `variants` (None: of all files) with the manifest.

        A file that passed before is not read again while its size, times and inode stay the same.

        Raises:
            BundleError: files changed or cannot be read; every one is listed.
        """
        if variants is None:
            self.check_files(self.manifest.files, progress=progress)
        else:
            self.check_files({path for item in variants for path in item.files.values()}, progress=progress)

    def check_files(self, paths: Iterable[str], *, progress: bool = False) -> None:
        """`check_content` for the files at these paths of the manifest; nothing for a bundle that is trusted."""
        if self.trusted:
            return
        files, wanted = self.manifest.files, set(paths)
        seen = _SeenFiles(self.root)
        unread = [path for path in sorted(wanted) if not seen.has(path, files[path])]
        total = sum(files[path].bytes for path in unread)
        with ProgressBar(
            total=total,
            unit="B",
            unit_scale=True,
            desc="checking",
            disable=not progress,
            leave=False,
            delay=_SECONDS_BEFORE_BAR,
        ) as bar:
            faults = [fault for path in unread if (fault := self._content_fault(path, seen, bar))]
        seen.save()
        if faults:
            raise BundleError(self.subject, faults)

    def _content_fault(self, path: str, seen: _SeenFiles, bar: ProgressBar) -> str | None:
        """What is wrong with a file's content, or None. A file without a fault is added to `seen`."""
        entry = self.manifest.files[path]
        try:
            taken = stamp(self.root / path)
            if file_sha256(self.root / path, bar.update) != entry.sha256:
                return f"{path} has changed since it was written (its sha256 differs): export the bundle again"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        seen.add(path, entry, taken)
        return None


def _read_manifest(root: Path, subject: str) -> str:
    file = root / MANIFEST
    try:
        if not root.is_dir():
            reason = "is a file, not a bundle's folder" if root.exists() else "there is no such folder"
            raise BundleError(subject, [f"{reason}; make a bundle with k22-export bundle CHECKPOINT --out DIR"])
        if not file.is_file():
            raise BundleError(subject, [f"not a bundle: the folder has no {MANIFEST}"])
        if (size := file.stat().st_size) > _MAX_MANIFEST_BYTES:
            raise BundleError(subject, [f"{MANIFEST} has {size:,} bytes; expected at most {_MAX_MANIFEST_BYTES:,}"])
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(subject, [f"{MANIFEST} cannot be read ({error})"]) from error


def _presence_fault(root: Path, path: str, entry: FileEntry) -> str | None:
    file = root / path
    try:
        if not file.is_file():
            return f"{path} {_absence(file)}"
        size = file.stat().st_size
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return None if size == entry.bytes else f"{path} has {size:,} bytes; the manifest says {entry.bytes:,}"


def _link_fault(root: Path, path: str) -> str | None:
    """What is wrong with a file of a bundle that is trusted, or None: a link may lead to what others can change."""
    if (root / path).resolve().is_relative_to(root.resolve()):
        return None
    return f"{path} is a link that leaves the folder, and its content is not checked: copy the bundle with cp -rL"


def _absence(file: Path) -> str:
    """Why there is no file at a path."""
    if file.exists():
        return "is a folder or a device, not a file"
    if file.is_symlink():
        return "is a link to a file that does not exist; download or copy the bundle again"
    return "is missing"


class _SeenFiles:
    """The files of a bundle that passed their check, with their stamps, kept in the user's cache folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        folder = cache_folder()
        key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
        self._file = None if folder is None else folder / "checked" / f"{key}.json"
        self._entries = self._load()
        self._changed = False

    def has(self, path: str, entry: FileEntry) -> bool:
        """Whether the file passed its check and has not changed since."""
        try:
            return self._entries.get(path) == [*stamp(self._root / path), entry.sha256]
        except OSError:
            return False

    def add(self, path: str, entry: FileEntry, taken: list[int]) -> None:
        """Remember a file that passed its check after its stamp was taken, unless it changed only just now."""
        if is_settled(taken):
            self._entries[path] = [*taken, entry.sha256]
            self._changed = True

    def save(self) -> None:
        """Write what was added. Without a usable cache folder, the files are read again next time."""
        if self._file is None or not self._changed:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps(self._entries))
        except OSError as error:
            _log.info("cannot remember the check in %s: %s", self._file, error)

    def _load(self) -> dict[str, object]:
        if self._file is None:
            return {}
        try:
            data = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return data if isinstance(data, dict) else {}
