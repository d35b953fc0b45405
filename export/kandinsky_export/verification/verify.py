"""Comparison of a bundle with eager ppdiffusers: every component at several shapes, and one whole trajectory."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.parts import PARTS
from kandinsky_export.verification.reference import EagerTrajectory, Reference
from kandinsky_export.verification.report import EngineFigures, Report
from kandinsky_export.verification.trajectory import SEED, compare_trajectory, eager_trajectory, max_abs
from kandinsky_export.verification.vectors import write_vectors
from kandinsky_export.verification.verify_prior import PriorOracle, build_faults, prior_entry, run_prior_reference
from kandinsky_runtime.bundle.bundle import MANIFEST, Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.pipeline import DecoderPipeline
from kandinsky_runtime.engines import registry
from kandinsky_runtime.errors import EngineUnavailable, UsageError
from kandinsky_runtime.files import file_sha256, write_whole
from kandinsky_runtime.progress import ProgressBar

Array = npt.NDArray[np.float32]

_PRECISION = "fp32"  # that of the reference
# (batch, height, width) in units of the smallest height and width that the bundle's graphs take together, and that are
# at least `_MIN_CELLS` latent cells: a norm over fewer values makes large differences of rounding errors.
_SHAPES = ((1, 1, 1), (2, 1, 2), (2, 2, 1), (1, 3, 1), (3, 2, 2))
_MIN_CELLS = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Oracle:
    """Eager ppdiffusers' outputs for the inputs, by component, and its trajectory."""

    feeds: Mapping[str, Sequence[Mapping[str, Array]]]
    expected: Mapping[str, Sequence[Array]]
    trajectory: EagerTrajectory | None


def verify_bundle(
    bundle: Bundle,
    checkpoint: Checkpoint,
    *,
    prior: PriorCheckpoint | None = None,
    engine_names: Sequence[str] | None = None,
    steps: int = 10,
    vectors: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Report:
    """Compare a bundle with eager ppdiffusers, in float32, and write the figures into its manifest.

    If the manifest cannot be written, a warning is logged and the report is returned all the same.

    Args:
        bundle: an opened bundle.
        checkpoint: the bundle's checkpoint, or the same weights in the other form.
        prior: the same for the bundle's prior; None leaves the prior's graphs out.
        engine_names: `NAME` for float32 or `NAME:PRECISION`; None for every engine that can run the bundle here in
            float32.
        steps: steps of the trajectory, 0 for no trajectory.
        vectors: a new .npz file for the reference's inputs and outputs, see `vectors.write_vectors`; None for none.
        progress: whether to show a bar.

    Raises:
        CheckpointError, BundleError: one of the two is damaged, or they are different builds of the model.
        EngineUnavailable: a requested engine, or every engine, cannot run the bundle.
        UsageError: an unknown engine or none, an invalid number of steps, or a prior for a bundle without one.
    """
    if steps < 0:
        raise UsageError(f"steps is {steps}; it must be at least 0")
    selected = select_engines(bundle, engine_names)
    if prior is not None:
        prior_entry(bundle)
    elif bundle.manifest.prior is not None:
        _log.warning("the bundle's prior is not compared: give it with --prior")
    bundle.check_content(progress=progress)
    reference = Reference(checkpoint)
    if steps > reference.max_steps:
        raise UsageError(f"steps is {steps}; the checkpoint's scheduler has {reference.max_steps}: choose fewer")
    _check_same_build(bundle, checkpoint, reference)
    prior_oracle = None if prior is None else run_prior_reference(bundle, prior, progress=progress)
    geometry = Geometry.of(bundle.manifest)
    total = len(PARTS) + (1 if steps else 0) + len(selected)
    with ProgressBar(total=total, desc="verifying", disable=not progress) as bar:
        oracle = _run_reference(bundle, reference, geometry, steps, bar)
        if vectors is not None:
            _write_vectors(vectors, bundle, reference, geometry, oracle, prior_oracle)
        figures = {}
        for name in selected:
            bar.set_postfix_str(name)
            figures[name] = _engine_figures(bundle, name, oracle, prior_oracle, geometry)
            bar.update()
    report = Report(
        reference=f"eager ppdiffusers {version('ppdiffusers')} on paddlepaddle {version('paddlepaddle')}",
        shapes={
            name: tuple(next(iter(item.values())).shape for item in items)
            for name, items in {**oracle.feeds, **(prior_oracle.feeds if prior_oracle else {})}.items()
        },
        engines=figures,
    )
    if not report.passed:
        report = replace(report, note=_source_notes(bundle, checkpoint, prior))
    try:
        write_whole(bundle.root / MANIFEST, replace(bundle.manifest, parity=report.to_dict()).to_json())
    except OSError as error:
        _log.warning("the figures cannot be written into the bundle's manifest: %s", error)
    return report


def select_engines(bundle: Bundle, names: Sequence[str] | None) -> tuple[str, ...]:
    """The engines to verify, each once, as `NAME` for float32 or `NAME:PRECISION`.

    Args:
        bundle: the bundle that they must be able to run.
        names: names in the same form; None for all engines that can run it here in float32.

    Raises:
        UsageError: there is no such engine or precision, or `names` is empty.
        EngineUnavailable: an engine in `names`, or every engine, cannot run the bundle here.
    """
    if names is not None:
        if not names:
            raise UsageError(f"got no engine to verify; choose from {', '.join(registry.names())}")
        return tuple(dict.fromkeys(_normal_name(bundle, name) for name in names))
    found = []
    for name in registry.names():
        try:
            found.append(registry.select(bundle.manifest, name, _PRECISION).engine.name)
        except (EngineUnavailable, UsageError):
            continue
    if not found:
        raise EngineUnavailable(f"no engine that is installed here can run this bundle in {_PRECISION}")
    return tuple(found)


def _normal_name(bundle: Bundle, name: str) -> str:
    engine, _, precision = name.partition(":")
    chosen = registry.select(bundle.manifest, engine, precision or _PRECISION)
    return chosen.engine.name if chosen.precision == _PRECISION else f"{chosen.engine.name}:{chosen.precision}"


def _check_same_build(bundle: Bundle, checkpoint: Checkpoint, reference: Reference) -> None:
    made = {name: part.signature(reference.config(part.model)) for name, part in PARTS.items()}
    if faults := build_faults(bundle, made):
        raise CheckpointError(str(checkpoint.root), faults)


def _source_notes(bundle: Bundle, checkpoint: Checkpoint, prior: PriorCheckpoint | None) -> str | None:
    """The files of the checkpoints that the bundle was not made from; None if there are none."""
    source = bundle.manifest.source
    notes = [_source_note(source, checkpoint, "checkpoint")]
    notes += [] if prior is None else [_source_note(source.get("prior", {}), prior, "prior")]
    return "; ".join(filter(None, notes)) or None


def _source_note(source: Mapping[str, Any], checkpoint: Checkpoint, kind: str) -> str | None:
    """The checkpoint's files that the bundle was not made from, as a sentence; None if there are none."""
    made_from = source.get("files")
    recorded = made_from if isinstance(made_from, dict) else {}
    other = [
        path.relative_to(checkpoint.root).as_posix()
        for path in checkpoint.files()
        if recorded.get(path.relative_to(checkpoint.root).as_posix(), {}).get("sha256") != file_sha256(path)
    ]
    return f"the bundle was not made from this {kind}'s {', '.join(other)}" if other else None


def _run_reference(bundle: Bundle, reference: Reference, geometry: Geometry, steps: int, bar: ProgressBar) -> _Oracle:
    feeds = {name: _feeds(bundle.component(name).spec, name, geometry) for name in PARTS}
    expected = {}
    for name, items in feeds.items():
        bar.set_postfix_str(f"ppdiffusers {name}")
        expected[name] = [reference.run(name, item) for item in items]
        bar.update()
    trajectory = None
    if steps:
        bar.set_postfix_str("ppdiffusers trajectory")
        trajectory = eager_trajectory(reference, geometry, steps)
        bar.update()
    return _Oracle(feeds, expected, trajectory)


def _write_vectors(
    path: str | os.PathLike[str],
    bundle: Bundle,
    reference: Reference,
    geometry: Geometry,
    oracle: _Oracle,
    prior_oracle: PriorOracle | None,
) -> None:
    feeds: dict[str, Sequence[Mapping[str, Any]]] = {**oracle.feeds}
    outputs: dict[str, Sequence[Mapping[str, Any]]] = {}
    for name, results in oracle.expected.items():
        (output,) = bundle.component(name).spec.outputs
        outputs[name] = [{output.name: result} for result in results]
    if prior_oracle is not None:
        feeds |= prior_oracle.feeds
        outputs |= prior_oracle.expected
    write_vectors(path, feeds, outputs, bundle, reference, geometry)


def _engine_figures(
    bundle: Bundle, name: str, oracle: _Oracle, prior_oracle: PriorOracle | None, geometry: Geometry
) -> EngineFigures:
    engine, _, precision = name.partition(":")
    made_by: type[InpaintPipeline | GeneratePipeline] = InpaintPipeline if geometry.sees_kept_area else GeneratePipeline
    prior_errors = {} if prior_oracle is None else prior_oracle.errors(bundle, engine, precision or _PRECISION)
    with made_by.load(bundle, engine=engine, precision=precision or _PRECISION) as pipeline:
        trajectory = oracle.trajectory
        return EngineFigures(
            version=pipeline.selection.engine.version(),
            precision=pipeline.selection.precision,
            variant=pipeline.selection.variant,
            components={
                key: _component_error(pipeline, key, feeds, oracle.expected[key]) for key, feeds in oracle.feeds.items()
            }
            | prior_errors,
            trajectory=None if trajectory is None else compare_trajectory(pipeline, trajectory, geometry),
        )


def _feeds(spec: GraphSpec, component: str, geometry: Geometry) -> list[dict[str, Array]]:
    """Random inputs at the shapes of `_SHAPES`; `geometry.multiple` is a multiple of `geometry.factor`."""
    cells = math.lcm(geometry.multiple // geometry.factor, _MIN_CELLS)
    side = cells * geometry.factor // geometry.pixels_per_unit(component)
    rng = np.random.default_rng(SEED)
    feeds = []
    for batch, height, width in _SHAPES:
        sizes = {"batch": batch, "height": height * side, "width": width * side}
        arrays = {item.name: rng.standard_normal(item.shape(sizes), np.float32) for item in spec.inputs}
        if "image" in arrays:
            arrays["image"] = np.clip(arrays["image"] / 2, -1, 1)
        if "timestep" in arrays:
            arrays["timestep"] = rng.integers(0, 1000, batch).astype(np.float32)
        feeds.append(arrays)
    return feeds


def _component_error(
    pipeline: DecoderPipeline,
    component: str,
    feeds: Sequence[Mapping[str, Array]],
    expected: Sequence[Array],
) -> float:
    engine = pipeline.engine(component)
    (output,) = engine.spec.outputs
    return max(max_abs(engine.run(item)[output.name], want) for item, want in zip(feeds, expected, strict=True))
