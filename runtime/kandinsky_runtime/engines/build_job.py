"""One graph to build for one engine, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.engines.profiles import GraphProfile
from kandinsky_runtime.engines.records import BuildRecord


@dataclass(frozen=True)
class BuildJob:
    """One graph to build for one engine.

    Attributes:
        engine: the engine that runs the result.
        component: the graph's name.
        spec: the graph's signature.
        files: the path of each of the variant's files by its role.
        digests: the sha256 of the files by role.
        bundle: the bundle's path, as the user gave it.
        profiles: the sizes that the result takes.
        options: device and precision.
        workspace: the bytes of GPU memory that the build may use for a layer; None for all.
        weight_memory: the GPU memory that weights may take when the result runs, "2G"; None for as much as they need.
        progress: whether bars are shown on stderr.
    """

    engine: type[Engine]
    component: str
    spec: GraphSpec
    files: Mapping[str, Path]
    digests: Mapping[str, str]
    bundle: str
    profiles: tuple[GraphProfile, ...]
    options: EngineOptions
    workspace: int | None = None
    weight_memory: str | None = None
    progress: bool = False

    def record(self, entry: str, made_with: Mapping[str, str]) -> BuildRecord:
        """The record of the result: `entry` is its folder, `made_with` what must be the same when it is used."""
        return BuildRecord(
            self.engine.name,
            self.component,
            self.options.precision,
            entry,
            self.bundle,
            self.profiles,
            made_with,
            self.weight_memory,
        )


class NotApplicable(Exception):
    """Nothing can be built of a graph for the engine; the text is the reason."""


@dataclass(frozen=True)
class Built:
    """The result of a job.

    Attributes:
        component: the graph's name.
        built: whether anything had to be built.
        seconds: the time that it took.
        left_out: the reason why nothing can be built of the graph; None if something can.
    """

    component: str
    built: bool
    seconds: float
    left_out: str | None = None
