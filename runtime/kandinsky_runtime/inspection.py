"""What a bundle has in it and what this machine can run of it, as data and as text."""

from __future__ import annotations

from typing import Any

from kandinsky_runtime import engines
from kandinsky_runtime.bundle import Bundle
from kandinsky_runtime.errors import EngineUnavailable, UsageError
from kandinsky_runtime.inputs import Geometry


def describe(bundle: Bundle) -> dict[str, Any]:
    """The bundle's source, components, variants and sizes, and the engines' readiness, for JSON."""
    manifest = bundle.manifest
    geometry = Geometry.of(manifest)
    return {
        "bundle": str(bundle.root),
        "source": {key: manifest.source.get(key) for key in ("name", "form")},
        "scheduler": manifest.scheduler.get("_class_name"),
        "embeds_width": geometry.embed_width,
        "size_multiple": geometry.multiple,
        "variants": list(manifest.variants()),
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "components": {
            name: {
                "inputs": [str(spec) for spec in component.spec.inputs],
                "outputs": [str(spec) for spec in component.spec.outputs],
                "ranges": {symbol: str(limit) for symbol, limit in component.spec.ranges.items()},
                "bytes": sum(
                    manifest.files[path].bytes
                    for path in {path for variant in component.variants.values() for path in variant.files.values()}
                ),
            }
            for name, component in manifest.components.items()
        },
        "engines": {name: _readiness(bundle, name) for name in engines.names()},
        "written_by": dict(manifest.written_by),
        "parity": dict(manifest.parity),
    }


def _readiness(bundle: Bundle, name: str) -> dict[str, Any]:
    try:
        selection = engines.select(bundle.manifest, name)
    except (EngineUnavailable, UsageError) as error:
        return {"ready": False, "why": str(error)}
    return {"ready": True, "precision": selection.precision, "version": selection.engine.version()}


def as_text(data: dict[str, Any]) -> str:
    """`describe`'s data for a person to read."""
    lines = [
        f"{data['bundle']}: {data['bytes'] / 1e6:,.1f} MB, from {data['source']['name']} ({data['source']['form']})",
        f"variants    {', '.join(data['variants'])}",
        f"scheduler   {data['scheduler']}",
        f"embeddings  {data['embeds_width']} wide",
        f"sizes       any of 64 px and more; worked on in multiples of {data['size_multiple']} px",
        "graphs",
    ]
    for name, component in data["components"].items():
        tensors = f"{'; '.join(component['inputs'])} -> {'; '.join(component['outputs'])}"
        lines.append(f"  {name:14}{component['bytes'] / 1e6:>10,.1f} MB  {tensors}")
    lines.append("engines")
    for name, state in data["engines"].items():
        word = f"ready, {state['precision']}, version {state['version']}" if state["ready"] else state["why"]
        lines.append(f"  {name:14}{word}")
    lines.append("parity")
    if not data["parity"]:
        lines.append("  not verified; k22-export verify BUNDLE CHECKPOINT measures it")
    for engine, figures in data["parity"].get("engines", {}).items():
        parts = ", ".join(f"{name} {error:.1e}" for name, error in figures["components"].items())
        trajectory = figures.get("trajectory")
        lines.append(
            f"  {engine:14}max-abs {parts}"
            + (f"; {trajectory['steps']} steps {trajectory['image']:.1e}" if trajectory else "")
        )
    return "\n".join(lines)
