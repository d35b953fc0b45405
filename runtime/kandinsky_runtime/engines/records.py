"""What `k22 build` made on this machine: a record for each engine and graph, found by the content of the graph's files.

A record holds the profiles of a build, its source, and the name of its folder in the cache. It is the last file that a
build writes. If it is lost, the graph must be built again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines.compile_cache import whole_entry
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span, as_options
from kandinsky_runtime.errors import EngineNotBuilt, UsageError
from kandinsky_runtime.files import cache_folder, fingerprint, write_whole

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildRecord:
    """What was built of one graph for one engine.

    Attributes:
        engine: the engine's name.
        component: the graph's name.
        precision: the precision that it computes in.
        entry: the name of its folder among the engine's.
        bundle: the bundle's path, as the user gave it.
        profiles: the sizes that it takes.
        made_with: what must be the same when it is used, such as the library's version, by its name in errors.
        weight_memory: the GPU memory that weights may take when it runs, "2G"; None for as much as they need.
    """

    engine: str
    component: str
    precision: Precision
    entry: str
    bundle: str
    profiles: tuple[GraphProfile, ...]
    made_with: Mapping[str, str]
    weight_memory: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", Precision(self.precision))

    @property
    def folder(self) -> Path:
        """The folder of the engine's files."""
        return cache_subfolder(self.engine) / self.entry

    @property
    def command(self) -> str:
        """The command that builds it, without the profiles."""
        command = build_command(self.bundle, self.engine, self.precision)
        return command if self.weight_memory is None else f"{command} --weight-memory {self.weight_memory}"

    @property
    def options(self) -> str:
        """The profiles, as options of the command."""
        return as_options(profile.profile for profile in self.profiles)

    def check_machine(self, here: Mapping[str, str]) -> None:
        """Raise EngineNotBuilt if something of `made_with` is another on this machine."""
        for what, value in here.items():
            if (built := self.made_with.get(what)) != value:
                raise EngineNotBuilt(
                    f"engine {self.engine}: {self.component} was built for {what} {built}; this machine has {value};"
                    f" build it again: {self.command} {self.options}"
                )

    def whole_folder(self) -> Path:
        """The folder of the engine's files.

        Raises:
            EngineNotBuilt: it is missing, or a file in it was changed.
        """
        entry = whole_entry(cache_subfolder(self.engine), self.entry)
        if entry is None:
            raise EngineNotBuilt(
                f"what was built for {self.component} is missing or was changed; build it again: {self.command}"
                f" {self.options}"
            )
        return entry

    def save(self, digests: Mapping[str, str]) -> None:
        """Write the record of the graph whose files have these sha256, by role. It replaces an older one.

        Raises:
            OSError: it cannot be written.
        """
        file = _file(self.engine, self.component, digests)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(asdict(self), indent=1))


def find(engine: str, component: str, digests: Mapping[str, str]) -> BuildRecord | None:
    """The record of the last build of a graph for an engine; None if there is no readable one.

    Args:
        engine: the engine's name.
        component: the graph's name.
        digests: the sha256 of the graph's files by role.
    """
    if cache_folder() is None:
        return None
    file = _file(engine, component, digests)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return BuildRecord(**data | {"profiles": tuple(_profile(item) for item in data["profiles"])})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        if os.access(file.parent, os.X_OK):  # else nothing was built by this user: the folder is another one's
            _warn(file, error)
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        _warn(file, error)
        return None


def forget(engine: str, component: str, digests: Mapping[str, str]) -> None:
    """Remove a record, if there is one."""
    _file(engine, component, digests).unlink(missing_ok=True)


def build_command(bundle: str, engine: str, precision: str) -> str:
    """The command that builds a bundle for an engine, without the profiles."""
    return f"k22 build {bundle} --engine {engine} --precision {precision}"


def cache_subfolder(name: str) -> Path:
    """A folder of the cache.

    Args:
        name: an engine, for what was built for it; or what the folder has, if it is no engine's build, such as "built"
            for the records of builds or "tensorrt-timing".

    Raises:
        UsageError: the user has no home.
    """
    folder = cache_folder()
    if folder is None:
        raise UsageError("there is no folder to keep built engines in: set XDG_CACHE_HOME to one")
    return folder / name


def _warn(file: Path, error: Exception) -> None:
    _log.warning("the record %s of a build cannot be read (%s): run k22 build again", file, error)


def _file(engine: str, component: str, digests: Mapping[str, str]) -> Path:
    return cache_subfolder("built") / engine / f"{fingerprint({'component': component, 'files': dict(digests)})}.json"


def _profile(data: Mapping[str, Any]) -> GraphProfile:
    spans = {symbol: Span(**span) for symbol, span in data["spans"].items()}
    return GraphProfile(Profile.from_json(data["profile"]), spans, data["pixels"], data["guided"])
