"""The engines by name; each module is imported only when its engine is asked for.

Another package adds an engine by an entry point of the group `kandinsky22.engines` that names a subclass of
`kandinsky_runtime.engines.base.Engine`.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from kandinsky_runtime.engines.base import Engine
from kandinsky_runtime.errors import EngineUnavailable, UsageError
from kandinsky_runtime.manifest import PRECISIONS, Manifest

ENTRY_POINTS = "kandinsky22.engines"
AUTO = "auto"

# In the order in which `auto` tries them.
_BUILT_IN = {
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
    return (*_BUILT_IN, *(point.name for point in _entry_points() if point.name not in _BUILT_IN))


def engine_class(name: str) -> type[Engine]:
    """The engine called `name`.

    Raises:
        UsageError: there is none; lists those there are.
        EngineUnavailable: its package cannot be imported.
    """
    if name in _BUILT_IN:
        point = importlib.metadata.EntryPoint(name, _BUILT_IN[name], ENTRY_POINTS)
    else:
        found = [point for point in _entry_points() if point.name == name]
        if not found:
            raise UsageError(f"there is no engine {name!r}; choose from {', '.join((AUTO, *names()))}")
        point = found[0]
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise EngineUnavailable(f"engine {name} cannot be loaded from {point.value}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Engine)):
        raise EngineUnavailable(f"engine {name}: {point.value} is no subclass of Engine")
    return loaded


def select(manifest: Manifest, name: str = AUTO, precision: str | None = None) -> Selection:
    """Choose what runs a bundle.

    Args:
        manifest: the bundle's.
        name: an engine, or "auto" for the first that is installed and has a variant to run.
        precision: "fp32", "fp16", "bf16", or None for the engine's default among those in the bundle.

    Raises:
        UsageError: no such engine or precision, or the engine does not run that precision.
        EngineUnavailable: the engine is not installed, or none of the bundle's variants suits it.
    """
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    if name != AUTO:
        return _suit(engine_class(name), manifest, precision)
    reasons = []
    for candidate in names():
        try:
            selection = _suit(engine_class(candidate), manifest, precision)
        except (EngineUnavailable, UsageError) as error:
            reasons.append(str(error))
        else:
            _log.info("engine %s, precision %s", candidate, selection.precision)
            return selection
    raise EngineUnavailable("no engine can run this bundle here: " + "; ".join(reasons))


def _suit(engine: type[Engine], manifest: Manifest, precision: str | None) -> Selection:
    if not engine.installed():
        raise EngineUnavailable(f"engine {engine.name} is not installed: pip install {engine.distribution}")
    if precision is not None and precision not in engine.variants:
        raise UsageError(f"engine {engine.name} runs {', '.join(engine.variants)}; got precision {precision!r}")
    available = manifest.variants()
    for candidate, variant in engine.variants.items():
        if variant in available and precision in (None, candidate):
            return Selection(engine, candidate, variant)
    wanted = engine.variants[precision] if precision else " or ".join(engine.variants.values())
    raise EngineUnavailable(
        f"engine {engine.name} needs variant {wanted}; the bundle has {', '.join(available) or 'none'}:"
        " export it again with --variants"
    )


def _entry_points() -> Iterable[importlib.metadata.EntryPoint]:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)
