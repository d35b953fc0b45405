"""One graph to be built for one engine, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.engines.profiles import GraphProfile
from kandinsky_runtime.engines.records import BuildRecord


@dataclass(frozen=True)
class Job:
    """One graph to be built for one engine.

    Attributes:
        engine: that is to run it.
        component: the graph's name.
        spec: its signature.
        files: of the variant, by role.
        digests: their sha256.
        bundle: the bundle's path, as it was given.
        profiles: the sizes that it is to take.
        options: device and precision.
        workspace: bytes of the GPU's memory that the building may use for a layer; None for all.
        progress: show bars on stderr.
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
    progress: bool = False

    def record(self, entry: str, made_with: Mapping[str, str]) -> BuildRecord:
        """The record of what is built: `entry` is its folder, `made_with` what it works with only."""
        return BuildRecord(
            self.engine.name, self.component, self.options.precision, entry, self.bundle, self.profiles, made_with
        )


class LeftOut(Exception):
    """There is nothing to build of a graph for the job's engine; says why."""


@dataclass(frozen=True)
class Built:
    """What came of a job.

    Attributes:
        component: the graph's name.
        built: whether anything had to be built.
        seconds: how long it took.
        left_out: why nothing is built of it; None if something is.
    """

    component: str
    built: bool
    seconds: float
    left_out: str | None = None
