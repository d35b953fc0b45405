"""The engines by name, and the choice of the engine and the variants that run a bundle.

An engine's module is imported only when the engine is needed. Another package adds an engine by an entry point of the
group `kandinsky22.engines`. It refers to a subclass of `kandinsky_runtime.engines.base.Engine` whose `name` is that of
the entry point. The built-in names cannot be taken.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kandinsky_runtime.bundle.manifest import COMPONENTS, Manifest
from kandinsky_runtime.bundle.precision import PRECISIONS, Precision
from kandinsky_runtime.checks import choice
from kandinsky_runtime.engines.base import Engine
from kandinsky_runtime.errors import EngineNotBuilt, EngineUnavailable, UsageError

ENTRY_POINTS = "kandinsky22.engines"
AUTO = "auto"

# In the order in which "auto" tries them.
_BUILT_IN = {
    "tensorrt-rtx": "kandinsky_runtime.engines.tensorrt_rtx.engine:TensorRtRtxEngine",
    "tensorrt": "kandinsky_runtime.engines.tensorrt.engine:TensorRTEngine",
    "openvino": "kandinsky_runtime.engines.openvino.engine:OpenVinoEngine",
    "onnxruntime": "kandinsky_runtime.engines.onnxruntime.engine:OnnxRuntimeEngine",
    "paddle": "kandinsky_runtime.engines.paddle.engine:PaddleEngine",
    "fastdeploy": "kandinsky_runtime.engines.fastdeploy:FastDeployEngine",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """What runs a graph of a bundle.

    Attributes:
        engine: the engine's class.
        precision: the precision that it computes in.
        variant: the name of the bundle's variant that it reads.
        device: the device that it runs on.
    """

    engine: type[Engine]
    precision: Precision
    variant: str
    device: str


def names() -> tuple[str, ...]:
    """The names of all engines, built in and from other packages, installed or not."""
    return tuple(dict.fromkeys((*_BUILT_IN, *(point.name for point in _entry_points()))))


def engine_class(name: str) -> type[Engine]:
    """The engine called `name`.

    Raises:
        UsageError: there is no such engine; the known ones are listed.
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
    components: Collection[str] = COMPONENTS,
    without: Collection[str] = (),
) -> Selection:
    """Choose what runs a bundle.

    Args:
        manifest: the bundle's manifest.
        name: an engine's name, or "auto" for the first one, in the order of `names`, that can run the bundle here. Some
            engines are never chosen automatically.
        precision: "fp32", "fp16", "bf16", or None for the engine's default among those in the bundle.
        device: the device's name for the engine; None for the engine's default.
        components: the graphs that the selection must be able to run, by default the decoder's.
        without: the names of the engines that "auto" skips.

    Raises:
        UsageError: there is no such engine or precision, or the engine does not run in the precision or on the device.
        EngineUnavailable: the engine is not installed or was not built for this bundle, or the bundle has no variant
            for it; for "auto", the reason of each engine is given.
    """
    wanted = _checked(precision)
    if name != AUTO:
        return _choose_variant(engine_class(name), manifest, wanted, device, components)
    reasons = []
    for candidate in names():
        if candidate in without:
            continue
        try:
            engine = engine_class(candidate)
            if engine.automatic:
                selection = _choose_variant(engine, manifest, wanted, device, components)
                _log.info("engine %s, precision %s", candidate, selection.precision)
                return selection
            reasons.append(f"engine {candidate} must be requested: --engine {candidate}")
        except (EngineUnavailable, UsageError) as error:
            reasons.append(str(error))
            if _worth_a_warning(candidate, error, manifest, device, components):
                _log.warning("%s; trying the next engine", error)
    raise EngineUnavailable("no engine can run this bundle here:" + "".join(f"\n  - {reason}" for reason in reasons))


def for_component(selection: Selection, manifest: Manifest, component: str) -> Selection:
    """What runs one graph of a bundle on the engine of a selection.

    This is the selection itself, unless the graph lacks its variant, as an optional graph may. Then the engine runs the
    best variant that the graph has: in the same precision if it can, else in the first of its preferred precisions.

    Args:
        selection: the engine, and what it runs of the decoder.
        manifest: the bundle's manifest.
        component: the graph's name.

    Raises:
        EngineUnavailable: the engine can run no variant of the graph.
    """
    usable = manifest.components[component].usable_variants()
    if selection.variant in usable:
        return selection
    engine, device = selection.engine, selection.device
    precisions = (selection.precision, *engine.preferred_precisions(device), *engine.precisions(device))
    found = _runnable(engine, usable, dict.fromkeys(precisions), device)
    if not found:
        raise _no_variant(engine, usable, engine.precisions(device), (), component)
    return found[0]


def to_build(manifest: Manifest, name: str, precision: str | None = None, device: str | None = None) -> Selection:
    """Choose what `k22 build` builds of a bundle's decoder for an engine, whether it was built before or not.

    The arguments are those of `select`.

    Raises:
        UsageError: there is no such engine or precision, or the engine does not run in the precision or on the device.
        EngineUnavailable: the engine is not installed, or the bundle has no variant for it.
    """
    return _candidates(engine_class(name), manifest, _checked(precision), device, COMPONENTS)[0]


def _checked(precision: str | None) -> Precision | None:
    if precision is None:
        return None
    choice("precision", precision, PRECISIONS)
    return Precision(precision)


def _choose_variant(
    engine: type[Engine],
    manifest: Manifest,
    precision: Precision | None,
    device: str | None,
    components: Collection[str],
) -> Selection:
    """The best of an engine's candidates; of those that were built, if the engine needs that."""
    faults = []
    for selection in _candidates(engine, manifest, precision, device, components):
        try:
            _check_built(selection, manifest, components)
        except EngineNotBuilt as error:
            faults.append(error)
        else:
            return selection
    raise faults[0]


def _candidates(
    engine: type[Engine],
    manifest: Manifest,
    precision: Precision | None,
    device: str | None,
    components: Collection[str],
) -> tuple[Selection, ...]:
    """Everything that an engine could run of these graphs, built or not, the best first; at least one."""
    chosen = engine.devices[0] if device is None else engine.device_name(device)
    engine.check_device(chosen)
    if precision is not None:
        engine.check_precision(precision, chosen)
    engine.check_library(chosen)
    wanted = engine.preferred_precisions(chosen) if precision is None else (precision,)
    available = manifest.variants(components)
    if candidates := _runnable(engine, available, wanted, chosen):
        return candidates
    others = [item for item in engine.precisions(chosen) if _runnable(engine, available, [item], chosen)]
    raise _no_variant(engine, available, wanted, others if precision is None else ())


def _runnable(
    engine: type[Engine], available: Collection[str], precisions: Iterable[Precision], device: str
) -> tuple[Selection, ...]:
    """What an engine can run of the available variants in these precisions, the best first."""
    found = [(item, variant) for item in precisions for variant in engine.variants_for(item)]
    return tuple(Selection(engine, item, variant, device) for item, variant in found if variant in available)


def _no_variant(
    engine: type[Engine],
    available: Collection[str],
    wanted: Iterable[Precision],
    others: Collection[Precision],
    component: str | None = None,
) -> EngineUnavailable:
    """The error for an engine that finds none of its variants; `others` are precisions in which it would find one."""
    needed = " or ".join(dict.fromkeys(variant for item in wanted for variant in engine.variants_for(item)))
    owner = "the bundle" if component is None else f"{component} of the bundle"
    return EngineUnavailable(
        f"engine {engine.name} needs variant {needed}; {owner} has {', '.join(available) or 'none'}: export it again"
        f" with --variants" + (f", or ask for precision {' or '.join(others)}" if others else "")
    )


def _check_built(selection: Selection, manifest: Manifest, components: Collection[str]) -> None:
    for name in components:
        variant = manifest.components[name].variants[selection.variant]
        selection.engine.check_built(name, manifest.digests(variant))


def _worth_a_warning(
    name: str, error: Exception, manifest: Manifest, device: str | None, components: Collection[str]
) -> bool:
    """Whether the user expects this engine to run the bundle, so that its failure must not go unnoticed.

    That is so if it was built for the bundle, or if it runs on the device that was named, and only its library or the
    machine is at fault.
    """
    if isinstance(error, (EngineNotBuilt, UsageError)):
        return False
    try:
        engine = engine_class(name)
    except EngineUnavailable:
        return False
    if not engine.needs_build:
        return device is not None and device.lower() != Engine.devices[0]
    available = manifest.variants(components)
    precisions = engine.precisions(engine.devices[0])
    for selection in _runnable(engine, available, precisions, engine.devices[0]):
        try:
            _check_built(selection, manifest, components)
        except EngineNotBuilt:
            continue
        return True
    return False


def _entry_points() -> Iterable[importlib.metadata.EntryPoint]:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)
