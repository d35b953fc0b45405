"""The content of a bundle, and what this machine can run of it, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.manifest import Component, Manifest
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.cli_support import printable
from kandinsky_runtime.engines import registry
from kandinsky_runtime.errors import EngineUnavailable, UsageError
from kandinsky_runtime.limits import MIN_SIZE


def describe(bundle: Bundle) -> dict[str, Any]:
    """The bundle's source, components, variants and sizes, and whether each engine can run it, for JSON.

    Raises:
        BundleError: the graphs are not those of Kandinsky 2.2.
    """
    manifest = bundle.manifest
    geometry = Geometry.of(manifest, bundle.subject)
    return {
        "bundle": str(bundle.root),
        "source": {key: manifest.source.get(key) for key in ("name", "form")},
        "scheduler": manifest.scheduler.get("_class_name"),
        "tasks": list(manifest.tasks),
        "embeds_width": geometry.embed_width,
        "size_minimum": MIN_SIZE,
        "size_multiple": geometry.multiple,
        "variants": list(manifest.variants()),
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "files": len(manifest.files),
        "extra_files": bundle.extra_files(),
        "components": {name: _component(manifest, item) for name, item in manifest.components.items()},
        "engines": {name: _readiness(manifest, name) for name in registry.names()},
        "written_by": dict(manifest.written_by),
        "parity": dict(manifest.parity),
    }


def as_text(data: Mapping[str, Any]) -> str:
    """The data from `describe`, for people. Control characters in it are escaped."""
    source, tools = data["source"], ", ".join(f"{tool} {version}" for tool, version in data["written_by"].items())
    lines = [
        f"{data['bundle']}: {_megabytes(data['bytes'])} in {data['files']} files, exported from"
        f" {source['name'] or 'an unnamed checkpoint'} ({source['form'] or 'form unknown'})",
        "",
        f"  tasks       {', '.join(data['tasks']) or 'none'}",
        f"  variants    {', '.join(data['variants']) or 'none that every graph of the decoder has'}",
        f"  scheduler   {data['scheduler']}",
        f"  embeddings  {data['embeds_width']} wide",
        f"  sizes       {data['size_minimum']} px and more, padded to multiples of {data['size_multiple']} px",
        f"  written by  {tools or 'unknown tools'}",
    ]
    lines += [f"  not in it   {path} (it is not in the manifest, and nothing reads it)" for path in data["extra_files"]]
    lines += ["", "graphs"]
    for name, component in data["components"].items():
        lines.append(f"  {name:14}{_megabytes(component['bytes']):>12}")
        lines += [f"    in   {tensor}" for tensor in component["inputs"]]
        lines += [f"    out  {tensor}" for tensor in component["outputs"]]
        if component["variants"] != data["variants"]:
            lines.append(f"    only {', '.join(component['variants']) or 'variants of other versions'}")
        lines += [f"    {variant}: cannot be run: {why}" for variant, why in component.get("unusable", {}).items()]
        lines += [f"    {_numerics_line(*item)}" for item in component.get("numerics", {}).items()]
    lines += ["", "engines on this machine"]
    for name, state in data["engines"].items():
        lines.append(f"  {name:14}{_readiness_line(state)}")
    lines += ["", "largest difference from the checkpoint", *_parity_lines(data["parity"])]
    return "\n".join(map(printable, lines))


def _component(manifest: Manifest, component: Component) -> dict[str, Any]:
    paths = {path for variant in component.variants.values() for path in variant.files.values()}
    numerics = {
        name: {"precision": variant.computed, **variant.numerics}
        for name, variant in component.variants.items()
        if variant.numerics
    }
    unusable = {name: variant.fault for name, variant in component.variants.items() if variant.fault is not None}
    return {
        "inputs": [str(spec) for spec in component.spec.inputs],
        "outputs": [str(spec) for spec in component.spec.outputs],
        "ranges": {symbol: str(limit) for symbol, limit in component.spec.ranges.items()},
        "bytes": sum(manifest.files[path].bytes for path in paths),
        "variants": list(component.usable_variants()),
        **({"unusable": unusable} if unusable else {}),
        **({"numerics": numerics} if numerics else {}),
    }


def _numerics_line(variant: str, numerics: Mapping[str, Any]) -> str:
    """The nodes of a variant that stay in float32, with the reasons, if they are in a form that this version knows."""
    groups = [group for group in _sequence(numerics.get("float32")) if isinstance(group, dict)]
    if Precision(numerics["precision"]).is_float32:
        return f"{variant}: in float32 ({', '.join(str(group.get('reason')) for group in groups) or 'no reason given'})"
    counts = {str(group.get("reason")): len(_mapping(group.get("nodes"))) for group in groups}
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    parts = [f"float32 in {sum(counts.values())} nodes" + (f" ({reasons})" if reasons else "")]
    if isinstance(reach := numerics.get("reach"), float):
        parts.append(f"other values reach {reach:.3g}")
    if isinstance(error := numerics.get("rounding_error_db"), float):
        parts.append(f"output {error:.1f} dB above its rounding error")
    return f"{variant}: {'; '.join(parts)}"


def _readiness(manifest: Manifest, name: str) -> dict[str, Any]:
    """Whether an engine can run the bundle's decoder here, and which of the other graphs it cannot run."""
    try:
        selection = registry.select(manifest, name)
    except (EngineUnavailable, UsageError) as error:
        return {"ready": False, "why": str(error)}
    state = {"ready": True, "precision": selection.precision, "version": selection.engine.version()}
    others = [item for item in manifest.components if not _can_run(selection, manifest, item)]
    return state | ({"cannot_run": others} if others else {})


def _can_run(selection: registry.Selection, manifest: Manifest, component: str) -> bool:
    try:
        registry.for_component(selection, manifest, component)
    except EngineUnavailable:
        return False
    return True


def _readiness_line(state: Mapping[str, Any]) -> str:
    if not state["ready"]:
        return f"not ready: {state['why']}"
    missing = f"; it cannot run {', '.join(state['cannot_run'])}" if "cannot_run" in state else ""
    return f"ready: {state['precision']}, version {state['version']}{missing}"


def _parity_lines(parity: Mapping[str, Any]) -> list[str]:
    """The figures of k22-export verify, if they are in a form that this version knows."""
    lines = []
    for engine, figures in _mapping(parity.get("engines")).items():
        components = _mapping(_mapping(figures).get("components"))
        parts = [f"{name} {error:.1e}" for name, error in components.items() if isinstance(error, float)]
        trajectory = _mapping(_mapping(figures).get("trajectory"))
        if isinstance(error := trajectory.get("image"), float):
            parts.append(f"picture after {trajectory.get('steps')} steps {error:.1e}")
        lines.append(f"  {engine:14}{', '.join(parts) or 'no figures'}")
    return lines or ["  not measured yet: k22-export verify BUNDLE CHECKPOINT"]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
