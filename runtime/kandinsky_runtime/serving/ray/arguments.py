"""The arguments of the application: bundles, engine, replicas, and settings of `k22 serve`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kandinsky_runtime.decoder.declarations import declarations
from kandinsky_runtime.decoder.load_options import LOAD_OPTIONS
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.models import named_bundles
from kandinsky_runtime.serving.settings import Settings

MAX_JOBS = 16  # of a replica, unless it is given: what waits in a proxy can still go to a new replica
_SOURCE = "the arguments of the application: "
_LISTENING = "Serve's proxies listen, and its http_options have their host and port"
_UNUSABLE = {
    "host": _LISTENING,
    "port": _LISTENING,
    "state": "a replica's list of unfinished jobs would be no other replica's",
}


class Arguments(BaseModel):  # type: ignore[misc] # not a dependency of the type check
    """The arguments of `app`. Every other name is a setting of `k22 serve`, such as `max_jobs` or `size`.

    Attributes:
        bundles: absolute paths, or NAME=PATH, the same on every node; as a text, divided by commas.
        engine, precision, device, low_memory, shape_memory, trust_bundle, tiles: see `LoadOptions`.
        threads: threads of a replica's engine, and the CPUs that Ray reserves for it.
        min_replicas, max_replicas: the range of the autoscaling. Without `max_replicas`, always `min_replicas`.
        quiet: whether replicas log warnings only.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    bundles: list[str] | str
    engine: str = "auto"
    precision: str | None = None
    device: str | None = None
    threads: int | None = None
    low_memory: bool = False
    shape_memory: int | str | None = None
    trust_bundle: bool = False
    tiles: bool = False
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)
    quiet: bool = False

    @property
    def folders(self) -> list[str]:
        """The bundles, as a list."""
        return self.bundles.split(",") if isinstance(self.bundles, str) else self.bundles

    @property
    def on_gpu(self) -> bool:
        """Whether a replica needs a GPU."""
        return self.device == "cuda"

    @property
    def load(self) -> dict[str, Any]:
        """The arguments of `Models.load`, other than the bundles."""
        return {name: getattr(self, name) for name in LOAD_OPTIONS} | {"progress": False}

    def check(self) -> None:
        """Check what pydantic cannot.

        Raises:
            UsageError: an argument is invalid, or one is missing.
        """
        if not self.folders:
            raise UsageError(f"{_SOURCE}bundles is empty; give the path of a bundle")
        for name, folder in named_bundles(self.folders).items():
            if not folder.is_absolute():
                raise UsageError(
                    f"{_SOURCE}the bundle {name} is at {folder}; expected an absolute path, which each replica opens on"
                    " its own node"
                )
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise UsageError(
                f"{_SOURCE}max_replicas is {self.max_replicas}, and min_replicas {self.min_replicas}; expected a range"
            )
        if self.device is not None and self.device.startswith("cuda:"):
            raise UsageError(f"{_SOURCE}device is {self.device}; Ray gives each replica its own GPU: write cuda")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{_SOURCE}threads is {self.threads}; expected at least 1")
        if self.threads is None and not self.on_gpu:
            raise UsageError(
                f"{_SOURCE}threads is missing; give the CPUs of a replica, which Ray reserves for it, or device cuda"
                " (--threads N or --device cuda)"
            )

    def settings(self) -> Settings:
        """The settings of each replica.

        Raises:
            UsageError: a name is unknown, a value is invalid, or a setting cannot be used with Ray.
        """
        given = self.model_extra or {}
        for name, reason in _UNUSABLE.items():
            if name in given:
                raise UsageError(f"{_SOURCE}{name} cannot be used with Ray: {reason}")
        if unknown := set(given) - set(declarations(Settings)):
            known = ", ".join([*Arguments.model_fields, *sorted(set(declarations(Settings)) - set(_UNUSABLE))])
            raise UsageError(f"{_SOURCE}there is no argument {min(unknown)}; the arguments are {known}")
        if not given.get("keys") and not given.get("no_auth"):
            raise UsageError(
                f"{_SOURCE}give keys, a file of API keys on every node, or no_auth: true to let anybody in"
            )
        return Settings.from_texts({"max_jobs": MAX_JOBS, **given, "host": "0.0.0.0"}, _SOURCE)  # noqa: S104
