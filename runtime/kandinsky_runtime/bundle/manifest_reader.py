"""Reads a manifest, and reports all of its faults at once.

Fields that this version does not know are ignored: a field that older runtimes can do without needs no newer schema.
A variant in an unknown precision is read, too; only that variant cannot be run (`Variant.fault`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from kandinsky_runtime.bundle.manifest import (
    COMPONENTS,
    FORMAT,
    INPAINT,
    MANIFEST,
    NEEDED_COMPONENTS,
    PICTURE_PROMPT,
    PROMPT,
    SCHEMA,
    TASKS,
    TOKENIZER_ROLES,
    Component,
    FileEntry,
    Manifest,
    PriorEntry,
    Variant,
)
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import DTYPES, GraphSpec, Range, TensorSpec, symbol_of
from kandinsky_runtime.errors import BundleError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def parse(text: str, subject: str) -> Manifest:
    """Read a manifest.

    Args:
        text: the file's content.
        subject: the bundle's name in errors.

    Raises:
        BundleError: it is no manifest, has a newer schema, or has faults; every fault is listed.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BundleError(subject, [f"{MANIFEST} is not JSON ({error}); export the bundle again"]) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(subject, [f"{MANIFEST}: `format` is not {FORMAT!r}: this is not the manifest of a bundle"])
    schema = data.get("schema")
    if not _is_count(schema) or schema < 1:
        raise BundleError(subject, [f"{MANIFEST}: `schema` is {schema!r}; expected a whole number from 1 to {SCHEMA}"])
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
        components = {name: self.component(f"component `{name}`", entry, files) for name, entry in entries.items()}
        scheduler = self.mapping(data, "scheduler")
        extras = {key: self.mapping(data, key) for key in ("source", "written_by", "parity")}
        tasks = self.tasks(data.get("tasks", [INPAINT]))
        prior = None if data.get("prior") is None else self.prior(self.mapping(data, "prior"), files)
        for task in (PROMPT, PICTURE_PROMPT):
            needed = [] if task not in tasks else [name for name in NEEDED_COMPONENTS[task] if name not in components]
            self.faults += [f"`tasks` has {task}, but component `{name}` is missing" for name in needed]
            if task in tasks and data.get("prior") is None:
                self.faults.append(f"`tasks` has {task}, but `prior` is missing")
        if self.faults:
            raise BundleError(self.subject, self.faults)
        return Manifest(components=components, scheduler=scheduler, files=files, tasks=tasks, prior=prior, **extras)

    def tasks(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        self.faults.append(f"{MANIFEST}: `tasks` is {value!r}; expected a list of names such as {', '.join(TASKS)}")
        return ()

    def prior(self, data: dict[str, Any], files: Mapping[str, FileEntry]) -> PriorEntry:
        where = f"{MANIFEST}, `prior`"
        scheduler, tokenizer_config, image_processor, tokenizer = (
            self.mapping(data, key, where) for key in ("scheduler", "tokenizer_config", "image_processor", "tokenizer")
        )
        paths = {role: tokenizer.get(role) for role in TOKENIZER_ROLES} | {"constants": data.get("constants")}
        for role, path in paths.items():
            if not isinstance(path, str) or path not in files:
                self.faults.append(f"{where}: `{role}` names {path!r}, which is not in `files`")
        end = data.get("eos_token_id")
        if not _is_count(end):
            self.faults.append(f"{where}: `eos_token_id` is {end!r}; expected a whole number")
        return PriorEntry(
            scheduler,
            {role: str(paths[role]) for role in TOKENIZER_ROLES},
            tokenizer_config,
            end if _is_count(end) else 0,
            image_processor,
            str(paths["constants"]),
        )

    def mapping(self, owner: dict[str, Any], key: str, where: str = MANIFEST) -> dict[str, Any]:
        value = owner.get(key)
        if isinstance(value, dict):
            return value
        self.faults.append(f"{where}: `{key}` is missing or not an object")
        return {}

    def sequence(self, owner: dict[str, Any], key: str, where: str) -> list[Any]:
        value = owner.get(key)
        if isinstance(value, list):
            return value
        self.faults.append(f"{where}: `{key}` is missing or not a list")
        return []

    def file(self, path: str, entry: Any) -> FileEntry:
        if fault := path_fault(path):
            self.faults.append(f"file {path!r} {fault}")
        size = entry.get("bytes") if isinstance(entry, dict) else None
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if _is_count(size) and isinstance(digest, str) and _SHA256.fullmatch(digest):
            return FileEntry(size, digest)
        self.faults.append(f"file {path!r} needs `bytes`, a whole number, and `sha256`, 64 hexadecimal digits")
        return FileEntry(0, "")

    def component(self, where: str, entry: Any, files: Mapping[str, FileEntry]) -> Component:
        spec, variants = (entry.get("spec"), entry.get("variants")) if isinstance(entry, dict) else (None, None)
        if not isinstance(spec, dict) or not isinstance(variants, dict):
            self.faults.append(f"{where} needs `spec` and `variants`, both objects")
            return Component(GraphSpec((), (), {}), {})
        read = {name: self.variant(f"{where}, variant `{name}`", value, files) for name, value in variants.items()}
        return Component(self.graph(where, spec), read)

    def graph(self, where: str, spec: dict[str, Any]) -> GraphSpec:
        ranges = {
            symbol: self.range(f"{where}, range of `{symbol}`", value)
            for symbol, value in self.mapping(spec, "ranges", where).items()
        }
        inputs = tuple(self.tensor(where, item) for item in self.sequence(spec, "inputs", where))
        outputs = tuple(self.tensor(where, item) for item in self.sequence(spec, "outputs", where))
        names = [tensor.name for tensor in (*inputs, *outputs) if tensor.name]
        self.faults += [
            f"{where}: two tensors have the name `{name}`" for name in sorted({*names}) if names.count(name) > 1
        ]
        free = {dim for tensor in inputs for dim in tensor.dims if isinstance(dim, str)}
        self.faults += [
            f"{where}: input dimension `{dim}` has no entry in `ranges`" for dim in sorted(free - set(ranges))
        ]
        derived = {symbol_of(dim) for tensor in outputs for dim in tensor.dims if isinstance(dim, str)}
        self.faults += [f"{where}: output dimension `{dim}` is in no input" for dim in sorted(derived - free)]
        return GraphSpec(inputs, outputs, ranges)

    def range(self, where: str, value: Any) -> Range:
        limits = value if isinstance(value, dict) else {}
        least, most, multiple = limits.get("min"), limits.get("max"), limits.get("multiple")
        if _is_count(least) and _is_count(multiple) and least and multiple:
            if "max" in limits and most is None:
                return Range(least, None, multiple)
            if _is_count(most) and most >= least:
                return Range(least, most, multiple)
        self.faults.append(f"{where} needs `min`, `max` (null: none) and `multiple`, whole numbers of at least 1")
        return Range()

    def tensor(self, where: str, item: Any) -> TensorSpec:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name or item.get("dtype") not in DTYPES:
            self.faults.append(f"{where}: a tensor needs `name` and a `dtype` of {', '.join(DTYPES)}")
            return TensorSpec("", "float32", ())
        dims = self.sequence(item, "dims", f"{where}, tensor `{name}`")
        bad = [dim for dim in dims if not _is_dim(dim)]
        self.faults += [f"{where}, tensor `{name}`: {dim!r} is not a dimension" for dim in bad]
        return TensorSpec(name, item["dtype"], () if bad else tuple(dims))

    def variant(self, where: str, value: Any, files: Mapping[str, FileEntry]) -> Variant:
        if not isinstance(value, dict):
            self.faults.append(f"{where} needs `precision` and `files`")
            return Variant(Precision.FP32, {})
        roles, computed = self.mapping(value, "files", where), self.precision(where, value, "precision")
        stored = self.precision(where, value, "stored") if "stored" in value else computed
        for role, path in roles.items():
            if not isinstance(path, str) or path not in files:
                self.faults.append(f"{where}: `{role}` names {path!r}, which is not in `files`")
        numerics = self.mapping(value, "numerics", where) if "numerics" in value else {}
        return Variant(computed, roles, numerics, stored)

    def precision(self, where: str, owner: dict[str, Any], key: str) -> Precision:
        value = owner.get(key)
        if isinstance(value, str) and value:
            return Precision(value)
        self.faults.append(f"{where}: `{key}` is {value!r}; expected a name such as {Precision.FP32}")
        return Precision.FP32


def path_fault(path: str) -> str | None:
    """What is wrong with a path in a manifest, or None: the path must stay inside the bundle."""
    pure = PurePosixPath(path)
    if not path.isprintable() or any(letter in path for letter in "\\:") or pure.as_posix() != path:
        return "is not a plain path with `/` between its parts"
    if pure.is_absolute() or ".." in pure.parts:
        return "leaves the bundle's folder"
    if path in (".", MANIFEST):
        return "is not a file that a manifest can describe"
    return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it has {name}, which is no number of JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"it has {text}, which is too large for a number")
    return number


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_dim(value: Any) -> bool:
    if not isinstance(value, str):
        return _is_count(value) and value > 0
    try:
        return bool(symbol_of(value))
    except ValueError:
        return False
