"""The bundle's manifest: a frozen, versioned description, read with all faults reported at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kandinsky_runtime.errors import BundleError
from kandinsky_runtime.spec import DTYPES, GraphSpec, Range, TensorSpec, symbol_of

FORMAT = "kandinsky22-bundle"
SCHEMA = 1
COMPONENTS = ("unet", "movq_encoder", "movq_decoder")
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: its size and the sha256 of its content, in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Variant:
    """One compiled form of a component. `files` maps a role (`program`, `params`, `graph`, `weights`) to a path."""

    precision: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Component:
    """A graph: its signature and the forms in which the bundle has it."""

    spec: GraphSpec
    variants: Mapping[str, Variant]


@dataclass(frozen=True)
class Manifest:
    """Everything that a bundle says of itself.

    Attributes:
        components: by name, see `COMPONENTS`.
        scheduler: the checkpoint's scheduler config, as published.
        files: every file but the manifest, by path relative to the bundle, with `/`.
        source: where the weights came from: `name`, `format`, and `files` with their sha256.
        written_by: versions of the tools that wrote the bundle.
        parity: figures of the last verification, empty before it.
    """

    components: Mapping[str, Component]
    scheduler: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    source: Mapping[str, Any] = field(default_factory=dict)
    written_by: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)

    def variants(self) -> tuple[str, ...]:
        """The variants that every component has, in the manifest's order."""
        columns = [component.variants for component in self.components.values()]
        return tuple(name for name in columns[0] if all(name in column for column in columns))

    def to_json(self) -> str:
        """The manifest's text."""
        return json.dumps({"format": FORMAT, "schema": SCHEMA} | asdict(self), indent=1) + "\n"


def parse(text: str, subject: str) -> Manifest:
    """Read a manifest.

    Args:
        text: the file's content.
        subject: how errors name the bundle.

    Raises:
        BundleError: not a manifest, or written for a newer schema, or it lists every fault.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BundleError(subject, [f"manifest.json is not JSON ({error})"]) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(subject, [f"manifest.json does not say it is a {FORMAT}"])
    schema = data.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise BundleError(subject, [f"manifest.json has no usable `schema` ({schema!r})"])
    if schema > SCHEMA:
        raise BundleError(
            subject, [f"bundle schema {schema}; this runtime reads up to {SCHEMA}: upgrade kandinsky22-deploy"]
        )
    return _Reader(subject).manifest(data)


class _Reader:
    """Collects faults while it reads, so that one error reports them all."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.faults: list[str] = []

    def manifest(self, data: dict[str, Any]) -> Manifest:
        files = {path: self.file(path, entry) for path, entry in self.mapping(data, "files").items()}
        entries = self.mapping(data, "components")
        self.faults += [f"component `{name}` is missing" for name in COMPONENTS if name not in entries]
        components = {name: self.component(name, entry, files) for name, entry in entries.items()}
        scheduler = self.mapping(data, "scheduler")
        extras = {key: self.mapping(data, key) for key in ("source", "written_by", "parity")}
        if self.faults:
            raise BundleError(self.subject, self.faults)
        return Manifest(components=components, scheduler=scheduler, files=files, **extras)

    def mapping(self, owner: Any, key: str, where: str = "manifest.json") -> dict[str, Any]:
        value = owner.get(key) if isinstance(owner, dict) else None
        if not isinstance(value, dict):
            self.faults.append(f"{where}: `{key}` is missing or no object")
            return {}
        return value

    def sequence(self, owner: Any, key: str, where: str) -> list[Any]:
        value = owner.get(key) if isinstance(owner, dict) else None
        if not isinstance(value, list):
            self.faults.append(f"{where}: `{key}` is missing or no list")
            return []
        return value

    def file(self, path: str, entry: Any) -> FileEntry:
        if fault := path_fault(path):
            self.faults.append(f"file {path!r} {fault}")
        size = entry.get("bytes") if isinstance(entry, dict) else None
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if not _is_count(size) or not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            self.faults.append(f"file {path!r} needs `bytes` and a hexadecimal `sha256`")
            return FileEntry(0, "")
        return FileEntry(int(size), digest)

    def component(self, name: str, entry: Any, files: Mapping[str, FileEntry]) -> Component:
        where = f"component `{name}`"
        spec = self.mapping(entry, "spec", where)
        ranges = {symbol: self.range(symbol, value, where) for symbol, value in self.mapping(spec, "ranges", where).items()}
        inputs = tuple(self.tensor(item, ranges, where) for item in self.sequence(spec, "inputs", where))
        outputs = tuple(self.tensor(item, ranges, where) for item in self.sequence(spec, "outputs", where))
        variants = {
            key: self.variant(f"{where} variant `{key}`", value, files)
            for key, value in self.mapping(entry, "variants", where).items()
        }
        return Component(GraphSpec(inputs, outputs, ranges), variants)

    def range(self, symbol: str, value: Any, where: str) -> Range:
        if (
            isinstance(value, dict)
            and set(value) == {"min", "max", "multiple"}
            and all(_is_count(value[key]) and value[key] > 0 for key in ("min", "multiple"))
            and (value["max"] is None or _is_count(value["max"]))
        ):
            return Range(**value)
        self.faults.append(f"{where}: range of `{symbol}` needs min, max and multiple")
        return Range()

    def tensor(self, item: Any, ranges: Mapping[str, Range], where: str) -> TensorSpec:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or item.get("dtype") not in DTYPES:
            self.faults.append(f"{where}: a tensor needs `name` and a `dtype` of {', '.join(DTYPES)}")
            return TensorSpec("", "float32", ())
        dims = self.sequence(item, "dims", f"{where}, tensor `{item['name']}`")
        for dim in dims:
            if isinstance(dim, str):
                try:
                    known = symbol_of(dim) in ranges
                except ValueError:
                    known = False
            else:
                known = _is_count(dim) and dim > 0
            if not known:
                self.faults.append(f"{where}, tensor `{item['name']}`: {dim!r} is no dimension")
        return TensorSpec(item["name"], item["dtype"], tuple(dims))

    def variant(self, where: str, value: Any, files: Mapping[str, FileEntry]) -> Variant:
        roles = self.mapping(value, "files", where)
        precision = value.get("precision") if isinstance(value, dict) else None
        if precision not in PRECISIONS:
            self.faults.append(f"{where}: precision {precision!r} is none of {', '.join(PRECISIONS)}")
        self.faults += [f"{where}: `{role}` names {path!r}, which `files` lacks" for role, path in roles.items() if path not in files]
        return Variant(str(precision), roles)


def path_fault(path: str) -> str | None:
    """What is wrong with a path that a manifest names, or None: it has to stay inside the bundle."""
    pure = PurePosixPath(path)
    if not path or "\\" in path or "\0" in path or ":" in path or pure.is_absolute() or ".." in pure.parts:
        return "leaves the bundle's folder"
    if pure.as_posix() != path or path == "manifest.json":
        return "is not a plain relative path"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
