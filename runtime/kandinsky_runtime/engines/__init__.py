"""The engines by name; each module is imported only when its engine is asked for.

Another package adds an engine by an entry point of the group `kandinsky22.engines` that names a subclass of
`kandinsky_runtime.engines.base.Engine`, whose `name` is that of the entry point. The built-in names cannot be taken.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from kandinsky_runtime.checks import choice
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.errors import EngineUnavailable, UsageError
from kandinsky_runtime.manifest import PRECISIONS, Manifest

ENTRY_POINTS = "kandinsky22.engines"
AUTO = "auto"

# In the order in which `auto` tries them.
_BUILT_IN = {
    "openvino": "kandinsky_runtime.engines.openvino:OpenVinoEngine",
    "onnxruntime": "kandinsky_runtime.engines.onnxruntime:OnnxRuntimeEngine",
    "paddle": "kandinsky_runtime.engines.paddle:PaddleEngine",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """An engine, and the precision and variant of a bundle that it is to run."""

    engine: type[Engine]
    precision: str
    variant: str


def names() -> tuple[str, ...]:
    """The names of all engines, built in and from other packages, installed or not."""
    return tuple(dict.fromkeys((*_BUILT_IN, *(point.name for point in _entry_points()))))


def engine_class(name: str) -> type[Engine]:
    """The engine called `name`.

    Raises:
        UsageError: there is none; lists those there are.
        EngineUnavailable: its package cannot be imported, or has no engine of that name.
    """
    if isinstance(name, str) and name in _BUILT_IN:
        point = importlib.metadata.EntryPoint(name, _BUILT_IN[name], ENTRY_POINTS)
    else:
        found = [point for point in _entry_points() if point.name == name]
        if not found:
            raise UsageError(f"there is no engine {name!r}; choose from {', '.join((AUTO, *names()))}")
        point = found[0]
    try:
        loaded = point.load()
    except Exception as error:  # importing another package may raise anything
        raise EngineUnavailable(f"engine {name} cannot be loaded from {point.value} ({error})") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Engine)):
        raise EngineUnavailable(f"engine {name}: {point.value} is no subclass of Engine")
    if (own := getattr(loaded, "name", None)) != name:
        raise EngineUnavailable(f"engine {name}: {point.value} calls itself {own!r}; the names must be equal")
    return loaded


def select(
    manifest: Manifest, name: str = AUTO, precision: str | None = None, device: str = EngineOptions.device
) -> Selection:
    """Choose what runs a bundle.

    Args:
        manifest: the bundle's.
        name: an engine, or "auto" for the first, in the order of `names`, that can run the bundle here.
        precision: "fp32", "fp16", "bf16", or None for the engine's default among those in the bundle.
        device: as the engine names it.

    Raises:
        UsageError: no such engine or precision, or the engine does not run that precision or on that device.
        EngineUnavailable: the engine is not installed, or none of the bundle's variants suits it; for "auto" the
            reason of each engine.
    """
    if precision is not None:
        choice("precision", precision, PRECISIONS)
    if name != AUTO:
        return _suit(engine_class(name), manifest, precision, device)
    reasons = []
    for candidate in names():
        try:
            selection = _suit(engine_class(candidate), manifest, precision, device)
        except (EngineUnavailable, UsageError) as error:
            reasons.append(str(error))
        else:
            _log.info("engine %s, precision %s", candidate, selection.precision)
            return selection
    raise EngineUnavailable("no engine can run this bundle here:" + "".join(f"\n  - {reason}" for reason in reasons))


def _suit(engine: type[Engine], manifest: Manifest, precision: str | None, device: str) -> Selection:
    engine.check_device(device)
    if precision is not None:
        engine.check_precision(precision, device)
    engine.check_library(device)
    available = manifest.variants()
    candidates = (precision,) if precision else engine.preferred_precisions(device)
    for candidate in candidates:
        if engine.variants[candidate] in available:
            return Selection(engine, candidate, engine.variants[candidate])
    wanted = " or ".join(dict.fromkeys(engine.variants[candidate] for candidate in candidates))
    raise EngineUnavailable(
        f"engine {engine.name} needs variant {wanted}; the bundle has {', '.join(available) or 'none'}:"
        " export it again with --variants"
    )


def _entry_points() -> Iterable[importlib.metadata.EntryPoint]:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)
