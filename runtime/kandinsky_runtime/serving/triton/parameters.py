"""The parameters of a model's `config.pbtxt`: the bundle, how it is opened, and settings of `k22 serve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kandinsky_runtime.decoder.load_options import LOAD_OPTIONS, LoadOptions
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.settings import Settings, parsed_options

# The settings that do not concern HTTP, jobs or logs.
SETTINGS = (
    "size", "max_jobs", "max_queue_seconds", "max_pixels", "max_steps", "time_limit", "drain_seconds", "share_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Parameters:
    """What `config.pbtxt` says.

    Attributes:
        bundle: the bundle's folder, as the server sees it.
        options: the arguments of a pipeline's `load`, other than the bundle.
        settings: the settings.
    """

    bundle: str
    options: dict[str, Any]
    settings: Settings


def read_parameters(texts: Mapping[str, str]) -> Parameters:
    """Read all parameters.

    Raises:
        UsageError: one is unknown, missing or invalid.
    """
    source = "config.pbtxt: "
    left = dict(texts)
    bundle = left.pop("bundle", "")
    if not bundle:
        raise UsageError(f"{source}the parameter bundle is missing; it is the bundle's folder")
    given = {name: left.pop(name) for name in LOAD_OPTIONS if name in left}
    options = parsed_options(given, source, LoadOptions) | {"progress": False}
    if unknown := set(left) - set(SETTINGS):
        known = ", ".join(("bundle", *LOAD_OPTIONS, *SETTINGS))
        raise UsageError(f"{source}there is no parameter {min(unknown)}; the parameters are {known}")
    return Parameters(bundle, options, Settings.from_texts(left, source))


def written(bundle: str, arguments: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """The texts of parameters.

    Args:
        bundle: the bundle's folder.
        arguments: those of a pipeline's `load`; those that are None or false are left out.
        settings: the settings that were given.
    """
    texts = {"bundle": bundle}
    for name in LOAD_OPTIONS:
        value = arguments.get(name)
        if value is not None and value is not False:
            texts[name] = str(value).lower() if value is True else str(value)
    for name, value in settings.items():
        texts[name] = ",".join(f"{w}x{h}" for w, h in value) if name == "size" else str(value)
    return texts
