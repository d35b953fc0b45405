"""The engines by name; each module is imported only when its engine is asked for.

Another package adds an engine by an entry point of the group `kandinsky22.engines` that names a subclass of
`kandinsky_runtime.engines.base.Engine`, whose `name` is that of the entry point. The built-in names cannot be taken.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kandinsky_runtime.bundle.manifest import PRECISIONS, Manifest
from kandinsky_runtime.checks import choice
from kandinsky_runtime.engines.base import Engine
from kandinsky_runtime.errors import EngineNotBuilt, EngineUnavailable, UsageError

ENTRY_POINTS = "kandinsky22.engines"
AUTO = "auto"

# In the order in which `auto` tries them.
_BUILT_IN = {
    "tensorrt": "kandinsky_runtime.engines.tensorrt.engine:TensorRTEngine",
    "openvino": "kandinsky_runtime.engines.openvino.engine:OpenVinoEngine",
    "onnxruntime": "kandinsky_runtime.engines.onnxruntime.engine:OnnxRuntimeEngine",
    "paddle": "kandinsky_runtime.engines.paddle.engine:PaddleEngine",
    "fastdeploy": "kandinsky_runtime.engines.fastdeploy:FastDeployEngine",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """An engine, the precision and variant of a bundle that it is to run, and the device to run it on."""

    engine: type[Engine]
    precision: str
    variant: str
    device: str


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
    manifest: Manifest,
    name: str = AUTO,
    precision: str | None = None,
    device: str | None = None,
    *,
    without: Collection[str] = (),
) -> Selection:
    """Choose what runs a bundle.

    Args:
        manifest: the bundle's.
        name: an engine, or "auto" for the first, in the order of `names`, that can run the bundle here and may be taken
            without being named.
        precision: "fp32", "fp16", "bf16", or None for the engine's default among those in the bundle.
        device: as the engine names it; None for the engine's own.
        without: the engines that "auto" passes over.

    Raises:
        UsageError: no such engine or precision, or the engine does not run that precision or on that device.
        EngineUnavailable: the engine is not installed, was not built for this bundle, or none of the bundle's variants
            suits it; for "auto" the reason of each engine.
    """
    if precision is not None:
        choice("precision", precision, PRECISIONS)
    if name != AUTO:
        return _suit(engine_class(name), manifest, precision, device)
    reasons = []
    for candidate in names():
        if candidate in without:
            continue
        try:
            engine = engine_class(candidate)
            if engine.automatic:
                selection = _suit(engine, manifest, precision, device)
                _log.info("engine %s, precision %s", candidate, selection.precision)
                return selection
            reasons.append(f"engine {candidate} runs only where it is named: --engine {candidate}")
        except (EngineUnavailable, UsageError) as error:
            reasons.append(str(error))
            if _was_expected(candidate, error, manifest, device):
                _log.warning("%s; going on without it", error)
    raise EngineUnavailable("no engine can run this bundle here:" + "".join(f"\n  - {reason}" for reason in reasons))


def to_build(manifest: Manifest, name: str, precision: str | None = None, device: str | None = None) -> Selection:
    """What `k22 build` is to build of a bundle for an engine.

    Args:
        manifest: the bundle's.
        name: an engine.
        precision: "fp32", "fp16", "bf16", or None for the engine's default among those in the bundle.
        device: as the engine names it; None for the engine's own.

    Raises:
        UsageError: no such engine or precision, or the engine does not run that precision or on that device.
        EngineUnavailable: the engine is not installed, or none of the bundle's variants suits it.
    """
    if precision is not None:
        choice("precision", precision, PRECISIONS)
    return _suitable(engine_class(name), manifest, precision, device)[0]


def _suit(engine: type[Engine], manifest: Manifest, precision: str | None, device: str | None) -> Selection:
    """What the engine is to run of a bundle."""
    suitable = _suitable(engine, manifest, precision, device)
    faults = []
    for selection in suitable:
        try:
            _check_built(selection, manifest)
        except EngineNotBuilt as error:
            faults.append(error)
        else:
            return selection
    raise faults[0]


def _suitable(
    engine: type[Engine], manifest: Manifest, precision: str | None, device: str | None
) -> tuple[Selection, ...]:
    """What the engine could run of a bundle, the best first, built or not."""
    chosen = engine.devices[0] if device is None else device
    engine.check_device(chosen)
    if precision is not None:
        engine.check_precision(precision, chosen)
    engine.check_library(chosen)
    wanted = (precision,) if precision else engine.preferred_precisions(chosen)
    suitable = _in_bundle(engine, manifest, wanted, chosen)
    if not suitable:
        variants = " or ".join(dict.fromkeys(variant for item in wanted for variant in engine.variants_for(item)))
        others = [item for item in engine.precisions(chosen) if _in_bundle(engine, manifest, [item], chosen)]
        raise EngineUnavailable(
            f"engine {engine.name} needs variant {variants}; the bundle has"
            f" {', '.join(manifest.variants()) or 'none'}: export it again with --variants"
            + (f", or ask for precision {' or '.join(others)}" if others and precision is None else "")
        )
    return suitable


def _in_bundle(
    engine: type[Engine], manifest: Manifest, precisions: Iterable[str], device: str
) -> tuple[Selection, ...]:
    available = manifest.variants()
    found = [(item, variant) for item in precisions for variant in engine.variants_for(item)]
    return tuple(Selection(engine, item, variant, device) for item, variant in found if variant in available)


def _check_built(selection: Selection, manifest: Manifest) -> None:
    for component, entry in manifest.components.items():
        selection.engine.check_built(component, manifest.digests(entry.variants[selection.variant]))


def _was_expected(name: str, error: Exception, manifest: Manifest, device: str | None) -> bool:
    """Whether a user would expect the engine to run the bundle: it was built for it, or a device was asked for on
    which it runs, and its library or the machine is at fault."""
    if isinstance(error, (EngineNotBuilt, UsageError)):
        return False
    try:
        engine = engine_class(name)
    except EngineUnavailable:
        return False
    if not engine.needs_build:
        return device not in (None, Engine.devices[0])
    for selection in _in_bundle(engine, manifest, engine.variants, engine.devices[0]):
        try:
            _check_built(selection, manifest)
        except EngineNotBuilt:
            continue
        return True
    return False


def _entry_points() -> Iterable[importlib.metadata.EntryPoint]:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)
