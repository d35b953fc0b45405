"""A bundle on disk: the only place that knows its file names, and the checks that guard it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from kandinsky_runtime.errors import BundleError
from kandinsky_runtime.manifest import Component, Manifest, Variant, parse

MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)
_BLOCK = 1 << 20
_MAX_MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; `Bundle.open` has checked its manifest and that every file is there at its size."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open a bundle.

        Raises:
            BundleError: not a bundle, too new, or it lists every file that is missing, of another size, or outside.
        """
        root = Path(path)
        if not root.is_dir():
            raise BundleError(str(path), ["no such folder; make a bundle with k22-export bundle CHECKPOINT --out DIR"])
        file = root / MANIFEST
        if not file.is_file():
            raise BundleError(str(path), [f"not a bundle: it has no {MANIFEST}"])
        if file.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleError(str(path), [f"{MANIFEST} is over {_MAX_MANIFEST_BYTES >> 20} MiB"])
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(str(path), [f"{MANIFEST} cannot be read ({error})"]) from error
        bundle = cls(root, parse(text, str(path)))
        bundle._check_presence()
        return bundle

    def component(self, name: str) -> Component:
        """The component called `name`.

        Raises:
            BundleError: the bundle has no such component.
        """
        try:
            return self.manifest.components[name]
        except KeyError:
            raise BundleError(str(self.root), [f"it has no component `{name}`"]) from None

    def paths(self, variant: Variant) -> dict[str, Path]:
        """The variant's files by role."""
        return {role: self.root / path for role, path in variant.files.items()}

    def check_content(self, variants: Iterable[Variant] | None = None, *, progress: bool = False) -> None:
        """Compare the sha256 of the files of `variants` (None: of all files) with the manifest.

        A file that was found good before and whose size, times and inode are the same is not read again.

        Raises:
            BundleError: lists every file whose content changed.
        """
        wanted = (
            set(self.manifest.files)
            if variants is None
            else {path for variant in variants for path in variant.files.values()}
        )
        seen = _SeenFiles(self.root)
        unread = {path for path in wanted if not seen.matches(path, self.manifest.files[path].sha256)}
        total = sum(self.manifest.files[path].bytes for path in unread)
        faults = []
        with tqdm(total=total, unit="B", unit_scale=True, desc="checking", disable=not progress, leave=False) as bar:
            for path in sorted(unread):
                stamp = _stamp(self.root / path)
                if file_sha256(self.root / path, bar) == self.manifest.files[path].sha256:
                    seen.add(path, stamp, self.manifest.files[path].sha256)
                else:
                    faults.append(f"{path} has changed since it was written (sha256 differs); export the bundle again")
        if faults:
            raise BundleError(str(self.root), faults)
        seen.save()

    def _check_presence(self) -> None:
        faults = []
        root = self.root.resolve()
        for path, entry in self.manifest.files.items():
            file = self.root / path
            if not file.is_file():
                faults.append(f"{path} is missing")
            elif not file.resolve().is_relative_to(root):
                faults.append(f"{path} is a link that leaves the bundle's folder")
            elif (size := file.stat().st_size) != entry.bytes:
                faults.append(f"{path} has {size:,} bytes; the manifest says {entry.bytes:,}")
        if faults:
            raise BundleError(str(self.root), faults)


def file_sha256(path: Path, bar: tqdm | None = None) -> str:
    """The sha256 of a file in hex; `bar` advances by the bytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            if bar is not None:
                bar.update(len(block))
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where this package keeps what it can make again: `$XDG_CACHE_HOME/kandinsky22-deploy`, by default `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kandinsky22-deploy"


def _stamp(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


class _SeenFiles:
    """Remembers which files were found good, by what the file system says of them, in the user's cache folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]
        self.file = cache_folder() / "checked" / f"{key}.json"
        self.entries: dict[str, list[object]] = self._load()

    def matches(self, path: str, sha256: str) -> bool:
        return self.entries.get(path) == [*_stamp(self.root / path), sha256]

    def add(self, path: str, stamp: list[int], sha256: str) -> None:
        self.entries[path] = [*stamp, sha256]

    def save(self) -> None:
        """Keep the entries; a cache folder that cannot be written only means reading the files again next time."""
        temporary = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.entries))
            temporary.replace(self.file)
        except OSError as error:
            _log.info("cannot remember the check in %s: %s", self.file, error)

    def _load(self) -> dict[str, list[object]]:
        try:
            data = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        return dict(data) if isinstance(data, Mapping) else {}
