"""Checkpoint → bundle: trace, convert, write the weights once, write the manifest; the bundle appears whole."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.checkpoints.unused_files import unused_notes
from kandinsky_export.errors import CheckpointError
from kandinsky_export.folders import new_folder
from kandinsky_export.graphs.architecture import build_models, expected_tensors
from kandinsky_export.graphs.onnx_graph import attach_weights, clean, convert, place_weights
from kandinsky_export.graphs.ort_cuda_graph import with_cuda_graphs
from kandinsky_export.graphs.params_file import Placement, write_params
from kandinsky_export.graphs.parts import PARTS, Part, prior_parts
from kandinsky_export.graphs.static_graph import trace
from kandinsky_export.precision.lowering import Draft, lower_components
from kandinsky_export.precision.ranges import check_installed
from kandinsky_export.prior_export import check_prior, prior_tasks, write_prior_entry
from kandinsky_export.variants import DEFAULT_VARIANTS, LOWER_VARIANTS, check_variants
from kandinsky_export.without import check_without
from kandinsky_runtime.bundle.bundle import MANIFEST
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.manifest import Component, FileEntry, Manifest, PriorEntry, Variant
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.errors import BundleError, SchedulerError, UsageError
from kandinsky_runtime.files import file_sha256
from kandinsky_runtime.progress import ProgressBar
from kandinsky_runtime.sampling import schedulers

Array = npt.NDArray[np.float32]
Thunks = Mapping[str, Callable[[], Array]]

_log = logging.getLogger(__name__)

PARAMS = "weights-fp32.pdiparams"

_TOOLS = ("kandinsky22-deploy", "paddlepaddle", "ppdiffusers", "paddle2onnx", "onnx", "numpy")


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    name: str,
    variants: Sequence[str] = DEFAULT_VARIANTS,
    prior: PriorCheckpoint | None = None,
    prior_name: str = "",
    without: Collection[str] = (),
    cuda_graphs: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Manifest:
    """Write a bundle.

    Args:
        checkpoint: an opened checkpoint.
        out: the new folder.
        name: the checkpoint's name in the manifest.
        variants: names from `kandinsky_export.variants.VARIANTS`.
        prior: an opened prior, whose graphs, tokenizer and constants are added to the bundle; None for none.
        prior_name: the prior's name in the manifest.
        without: graphs of the prior to leave out, from `PRIOR_COMPONENTS`.
        cuda_graphs: whether to write also the ONNX graphs with the operators of ONNX Runtime's CUDA provider.
        overwrite: whether to replace `out`.
        progress: whether to show bars.

    Returns:
        The manifest that was written.

    Raises:
        CheckpointError: lists every config value and tensor that does not fit, the prior to the decoder included.
        EngineUnavailable: a library that fp16 and bf16 variants need is not installed.
        ExportError: a graph could not be traced, converted or written.
        UsageError: unknown variants, an existing `out`, or an unknown graph in `without`.
    """
    variants = check_variants(variants)
    if cuda_graphs and not any(name.startswith("onnx") for name in variants):
        raise UsageError(f"cuda_graphs needs an ONNX variant; got {', '.join(variants)}")
    check_without(without, has_prior=prior is not None)
    for note in unused_notes([checkpoint] if prior is None else [checkpoint, prior]):
        _log.warning("%s", note)
    _check_scheduler(checkpoint)
    models = _models(checkpoint)
    signatures = {key: part.signature(models[part.model].config) for key, part in PARTS.items()}
    geometry = _geometry(signatures, str(checkpoint.root))
    tensors = _tensors(checkpoint, models)
    parts = dict(PARTS)
    if prior is not None:
        prior_models = _models(prior)
        models |= prior_models
        check_prior(prior, models)
        tensors |= _tensors(prior, prior_models)
        parts |= prior_parts(without)
        signatures |= {key: part.signature(models[part.model].config) for key, part in prior_parts(without).items()}
    if any(name in LOWER_VARIANTS for name in variants):
        check_installed(parts)
    with new_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        entry = None if prior is None else write_prior_entry(folder, prior, models, tensors, progress=progress)
        components, drafts = {}, {}
        for key, part in _with_progress(parts, progress):
            module, thunks = part.module(models[part.model]), tensors[part.model]
            components[key], drafts[key] = _export_component(
                folder / key, module, signatures[key], thunks, variants, progress
            )
        for variant in (name for name in variants if name in LOWER_VARIANTS):
            _add_lower_variant(folder, components, drafts, variant, checkpoint.scheduler, entry, progress)
        components = {key: _in_order(component, variants) for key, component in components.items()}
        components = with_cuda_graphs(folder, components) if cuda_graphs else components
        manifest = _manifest(folder, components, checkpoint, name, prior, prior_name, entry, geometry, progress)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _manifest(
    folder: Path,
    components: Mapping[str, Component],
    checkpoint: Checkpoint,
    name: str,
    prior: PriorCheckpoint | None,
    prior_name: str,
    entry: PriorEntry | None,
    geometry: Geometry,
    progress: bool,
) -> Manifest:
    """The manifest of a bundle whose files are written."""
    written = [path for path in folder.rglob("*") if path.is_file()]
    return Manifest(
        components=components,
        scheduler=checkpoint.scheduler,
        files=_hash_files(folder, written, "hashing bundle", progress),
        source=_source(checkpoint, name, progress)
        | ({} if prior is None else {"prior": _source(prior, prior_name, progress)}),
        written_by={tool: importlib.metadata.version(tool) for tool in _TOOLS},
        tasks=(*geometry.tasks, *prior_tasks(components)),
        prior=entry,
    )


def _models(checkpoint: Checkpoint) -> dict[str, Any]:
    return build_models({key: item.config for key, item in checkpoint.components.items()}, str(checkpoint.root))


def _tensors(checkpoint: Checkpoint, models: Mapping[str, Any]) -> dict[str, dict[str, Callable[[], Array]]]:
    return checkpoint.tensors({key: expected_tensors(model) for key, model in models.items()})


def _check_scheduler(checkpoint: Checkpoint) -> None:
    """Refuse a scheduler config from which nothing could be run; warn of a method that the runtime lacks."""
    try:
        schedulers.load(checkpoint.scheduler)
    except SchedulerError as error:
        try:
            schedulers.load(checkpoint.scheduler, "ddpm")
        except SchedulerError as unusable:
            raise CheckpointError(str(checkpoint.root), [str(unusable)]) from unusable
        _log.warning("%s: a run of this bundle must name a scheduler", error)


def _geometry(signatures: Mapping[str, GraphSpec], subject: str) -> Geometry:
    """The sizes of the decoder's graphs; refuse models that do not work together."""
    graphs = {key: Component(signature, {}) for key, signature in signatures.items()}
    try:
        return Geometry.of(Manifest(components=graphs, scheduler={}, files={}))
    except BundleError as error:
        raise CheckpointError(subject, error.faults) from error


def _source(checkpoint: Checkpoint, name: str, progress: bool) -> dict[str, Any]:
    files = _hash_files(checkpoint.root, checkpoint.files(), "hashing checkpoint", progress)
    loras = [
        {
            "file": lora.path.name,
            "scale": lora.scale,
            "bytes": lora.path.stat().st_size,
            "sha256": file_sha256(lora.path),
        }
        for lora in checkpoint.loras
    ]
    return {
        "name": name,
        "form": next(iter(checkpoint.components.values())).form,
        "files": {path: asdict(entry) for path, entry in files.items()},
    } | ({"loras": loras} if loras else {})


def _export_component(
    folder: Path, module: Any, signature: GraphSpec, tensors: Thunks, variants: Sequence[str], progress: bool
) -> tuple[Component, Draft]:
    """Write a component's float32 graphs and their one weights file into `folder`."""
    folder.mkdir()
    program = folder / "model.json"
    traced = trace(module, signature)
    traced.save(program)
    draft = Draft(signature, onnx.ModelProto(), {name: tensors[name] for name in traced.weights})
    params, placements = folder / PARAMS, dict.fromkeys(traced.weights, Placement(0, 0))
    if {"paddle", "onnx-fp32"} & set(variants):
        with _bytes_bar(_float32_bytes(traced.weights), f"{folder.name} weights", progress) as bar:
            placements = write_params(params, draft.weights, bar)
    written = {}
    if "paddle" in variants:
        written["paddle"] = Variant(Precision.FP32, _paths(folder, program=program, params=params))
    if set(variants) - {"paddle"}:
        draft.model.CopyFrom(convert(program, signature))
        attach_weights(draft.model, traced.weights, placements, params.name)
        clean(draft.model)
    if "onnx-fp32" in variants:
        written["onnx-fp32"] = _write_float32_graph(folder, draft)
    if "paddle" not in variants:
        program.unlink()
    return Component(signature, {name: written[name] for name in variants if name in written}), draft


def _add_lower_variant(
    folder: Path,
    components: dict[str, Component],
    drafts: Mapping[str, Draft],
    variant: str,
    scheduler: Mapping[str, Any],
    prior: PriorEntry | None,
    progress: bool,
) -> None:
    """Write `onnx-fp16` or `onnx-bf16` of every component; a component that stays in float32 gets its float32 files."""
    precision = LOWER_VARIANTS[variant]
    total = sum(_float32_bytes(draft.shapes) for draft in drafts.values()) // 2
    with _bytes_bar(total, f"{precision} weights", progress) as bar:
        lowered = lower_components(folder, drafts, precision, scheduler, bar, prior=prior)
    for key, component in components.items():
        files, numerics = lowered[key].files, lowered[key].numerics
        if files:
            made = Variant(Precision(precision), _paths(folder / key, **files), numerics)
        else:
            _log.warning("%s stays in float32: %s", key, numerics["float32"][0]["reason"])
            made = replace(_write_float32_graph(folder / key, drafts[key]), numerics=numerics)
        components[key] = replace(component, variants={**component.variants, variant: made})


def _in_order(component: Component, variants: Sequence[str]) -> Component:
    return replace(component, variants={name: component.variants[name] for name in variants})


def _write_float32_graph(folder: Path, draft: Draft) -> Variant:
    """Write a component's float32 ONNX graph, and its weights if they are not written yet."""
    graph, params = folder / "model-fp32.onnx", folder / PARAMS
    if not params.exists():
        place_weights(draft.model, write_params(params, draft.weights), params.name)
    onnx.save(draft.model, graph)
    return Variant(Precision.FP32, _paths(folder, graph=graph, weights=params))


def _paths(folder: Path, **roles: Path) -> dict[str, str]:
    return {role: f"{folder.name}/{path.name}" for role, path in roles.items()}


def _float32_bytes(shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(4 * math.prod(shape) for shape in shapes.values())


def _with_progress(parts: Mapping[str, Part], progress: bool) -> Iterator[tuple[str, Part]]:
    with ProgressBar(total=len(parts), desc="exporting", unit="graph", disable=not progress) as bar:
        for name, part in parts.items():
            bar.set_postfix_str(name)
            yield name, part
            bar.update()


def _hash_files(root: Path, paths: Iterable[Path], title: str, progress: bool) -> dict[str, FileEntry]:
    sizes = {path: path.stat().st_size for path in sorted(paths)}
    with _bytes_bar(sum(sizes.values()), title, progress) as bar:
        return {
            path.relative_to(root).as_posix(): FileEntry(size, file_sha256(path, bar.update))
            for path, size in sizes.items()
        }


def _bytes_bar(total: int, title: str, progress: bool) -> ProgressBar:
    return ProgressBar(total=total, desc=title, unit="B", unit_scale=True, leave=False, disable=not progress)
