"""float32 graphs → fp16 or bf16 ones: rules, and a measured trajectory, decide which nodes stay in float32.

Rules keep three kinds of nodes in float32: norms of tokens, group norms that are written as sums, and the phases of the
timestep's embedding, which lose whole turns in fewer digits. Other group norms (InstanceNormalization) are lowered:
every engine that runs these graphs takes their statistics in float32 by itself, and casts around a norm keep TensorRT
from making one kernel of it. A measured trajectory adds nodes whose values come near fp16's largest number, or stay
below its smallest number with all digits. Softmax is lowered: its result is rounded for the next product in any case,
and an engine could not fuse the attention otherwise. At last the graph's own roundings are simulated on the
trajectory's inputs, and a component that loses too much by them stays in float32.

Weights are read, rounded and written one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from kandinsky_export.graphs.onnx_graph import external_weights, place_weights
from kandinsky_export.graphs.params_file import write_params
from kandinsky_export.graphs.rewrites.element_types import FLOAT, lower_element_types
from kandinsky_export.graphs.rewrites.joined_tokens import join_tokens_before_heads
from kandinsky_export.graphs.rewrites.merged_projections import merge_projections, parts_of
from kandinsky_export.graphs.rewrites.opset import raise_opset
from kandinsky_export.graphs.rewrites.scaled_queries import scale_queries
from kandinsky_export.graphs.rewrites.simulated_rounding import simulate_rounding
from kandinsky_export.graphs.rewrites.summed_norms import is_sum, sum_small_norms
from kandinsky_export.graphs.rounding import rounded
from kandinsky_export.precision.ranges import GraphRun, Measured, run_plainly, scan, scanned, watch_ranges
from kandinsky_runtime.bundle.geometry import BATCH, HALVES, HEIGHT, WIDTH
from kandinsky_runtime.bundle.manifest import PriorEntry
from kandinsky_runtime.bundle.spec import GraphSpec

Array = npt.NDArray[np.float32]

LARGEST, SMALLEST_NORMAL = 65504.0, 2.0**-14  # of fp16; bf16 has the range of float32
# Other pictures and embeddings than the scanned ones may reach more.
MARGIN = 8
# The least ratio of a component's output to its rounding error, in dB. 11 digits leave about 50 dB after a few hundred
# roundings and 8 digits about 34; ten dB less mean that something other than rounding is lost.
LEAST_DB: Mapping[str, float] = {"fp16": 40.0, "bf16": 24.0}

# Convolutions know bf16 from this opset on.
_OPSETS = {"bf16": 22}
_NORMS = {
    "GroupNormalization": "statistics of a group of channels",
    "LayerNormalization": "statistics of a token",
}
_WAVES = frozenset({"Sin", "Cos"})
# The graph that is rewritten for TensorRT, and the latent cells of 1024 px, the largest size that `k22 build` compiles
# for unless it is given another. MoVQ's groups are all larger, and TensorRT's builder makes no fewer kernels of other
# graphs with merged products.
_UNET, _CELLS = "unet", 128


@dataclass(frozen=True)
class Draft:
    """A component as it leaves the converter.

    Attributes:
        signature: of its graph.
        model: in float32; its weights are external.
        weights: the values of each, float32, by name.
    """

    signature: GraphSpec
    model: onnx.ModelProto
    weights: Mapping[str, Callable[[], Array]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights that the graph reads, by name."""
        return {tensor.name: tuple(tensor.dims) for tensor in external_weights(self.model)}

    def values(self, weight: str) -> Array:
        """The values of a weight, or of several that were merged to one."""
        parts = [self.weights[name]() for name in parts_of(weight)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


@dataclass(frozen=True)
class Lowered:
    """A component in fewer bits.

    Attributes:
        files: graph and weights by role; empty if the component stays in float32.
        numerics: what stays in float32 and why, and what was measured, for the manifest.
    """

    files: Mapping[str, Path]
    numerics: Mapping[str, Any]


@dataclass
class _Work:
    """A component between the steps: a graph ready to be lowered, its weights file, and the reasons so far by node."""

    draft: Draft
    model: onnx.ModelProto
    params: Path
    kept: dict[str, str]
    stored: set[str] = field(default_factory=set)


def lower_components(
    folder: Path,
    drafts: Mapping[str, Draft],
    precision: str,
    scheduler: Mapping[str, Any],
    bar: Any = None,
    *,
    prior: PriorEntry | None = None,
) -> dict[str, Lowered]:
    """Write the graphs and weights of every component in fewer bits.

    Args:
        folder: the bundle's; each component has a folder of its name in it.
        drafts: by component. Those that cannot be run, as a prior without its text encoder, stay in float32.
        precision: "fp16" or "bf16".
        scheduler: the checkpoint's scheduler config, for the trajectory.
        bar: advances by the bytes of weights written.
        prior: what a prior needs besides its graphs; its files are in `folder`.

    Raises:
        ExportError: a graph that cannot be given types.
        EngineUnavailable, EngineError, NonFiniteError: the trajectory cannot be run.
        OSError: a file cannot be written.
    """
    works = {name: _prepare(folder / name, drafts[name], precision, bar) for name in scanned(drafts)}
    measured = _scan(folder, works, precision, scheduler, prior)
    return {
        name: _finish(works[name], measured[name], precision) if name in works else _in_float32("no run is measured")
        for name in drafts
    }


def _prepare(folder: Path, draft: Draft, precision: str, bar: Any) -> _Work:
    """Rewrite a graph for the precision and write its weights."""
    model = _copied(draft.model)
    if folder.name == _UNET:
        sizes = {BATCH: HALVES, HEIGHT: _CELLS, WIDTH: _CELLS}
        sum_small_norms(model, {tensor.name: tensor.shape(sizes) for tensor in draft.signature.inputs})
    if precision in _OPSETS:
        raise_opset(model, _OPSETS[precision])
    scale_queries(model)
    if folder.name == _UNET:
        merge_projections(model)
        join_tokens_before_heads(model)
    work = _Work(draft, model, folder / f"weights-{precision}.pdiparams", kept_by_rule(model))
    readers = _readers(model)
    names = [tensor.name for tensor in external_weights(model)]
    lowered = {name for name in names if any(node not in work.kept for node in readers[name])}
    faults: dict[str, str] = {}

    def stored(name: str) -> Callable[[], npt.NDArray[Any]]:
        def read() -> npt.NDArray[Any]:
            values = draft.values(name)
            if name not in lowered:
                return values
            if precision == "fp16" and (fault := _weight_fault(values)):
                faults[name] = fault
                return values
            work.stored.add(name)
            return rounded(values, precision)

        return read

    placements = write_params(work.params, {name: stored(name) for name in names}, bar)
    if precision == "fp16":
        faults |= _constant_faults(model)
    for name, fault in faults.items():
        work.kept = dict.fromkeys(readers[name], fault) | work.kept
    place_weights(model, placements, work.params.name)
    return work


def kept_by_rule(model: onnx.ModelProto) -> dict[str, str]:
    """The nodes that compute in float32 whatever is measured, by name, with the reason."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    kept = {node.name: _NORMS[node.op_type] for node in model.graph.node if node.op_type in _NORMS}
    kept |= {node.name: "statistics of a small group of channels" for node in model.graph.node if is_sum(node)}
    waiting = [node for node in model.graph.node if node.op_type in _WAVES]
    while waiting:
        node = waiting.pop()
        if node.name not in kept:
            kept[node.name] = "phases of the timestep's embedding"
            waiting += [made_by[name] for name in node.input if name in made_by]
    return kept


def kept_by_range(model: onnx.ModelProto, reach: Mapping[str, float]) -> dict[str, str]:
    """The nodes that read or make a value that fp16 holds badly, by name, with the reason.

    Args:
        model: a float32 graph.
        reach: the largest magnitude of each of its float32 values but weights and constants.
    """
    kept = {}
    for node in model.graph.node:
        if reach.keys().isdisjoint(node.output):  # it makes a shape or the like
            continue
        seen = [reach[name] for name in (*node.input, *node.output) if name in reach]
        if any(value > LARGEST / MARGIN for value in seen):
            kept[node.name] = f"values beyond {LARGEST / MARGIN:g}, 1/{MARGIN} of fp16's largest number"
        elif any(0 < value < SMALLEST_NORMAL for value in seen):
            kept[node.name] = f"values below {SMALLEST_NORMAL:.2g}, fp16's smallest number with all its digits"
    return kept


def _weight_fault(values: Array) -> str | None:
    """Why fp16 cannot hold a tensor of weights, or None. A small bias is left out: it is added to larger values."""
    largest = float(np.abs(values).max(initial=0))
    if largest > LARGEST:
        return f"a weight beyond {LARGEST:g}, fp16's largest number"
    if values.ndim > 1 and 0 < largest < SMALLEST_NORMAL:
        return f"weights below {SMALLEST_NORMAL:.2g}, fp16's smallest number with all its digits"
    return None


def _constant_faults(model: onnx.ModelProto) -> dict[str, str]:
    faults = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT and tensor.data_location != onnx.TensorProto.EXTERNAL:
            values = np.abs(numpy_helper.to_array(tensor))
            if float(values.max(initial=0, where=np.isfinite(values))) > LARGEST:
                faults[tensor.name] = f"a constant beyond {LARGEST:g}, fp16's largest number"
    return faults


def _scan(
    folder: Path,
    works: Mapping[str, _Work],
    precision: str,
    scheduler: Mapping[str, Any],
    prior: PriorEntry | None,
) -> dict[str, Measured]:
    """Measure a trajectory that is computed in float32 with the weights as they are stored."""
    graphs, watched = {}, {}
    with _scratch_files({name: work.params.with_name("scan.onnx") for name, work in works.items()}) as files:
        for name, work in works.items():
            model = _copied(work.model)
            lower_element_types(model, precision, kept=_names(model), stored=work.stored)
            watched[name] = watch_ranges(model)
            onnx.save(model, files[name])
            graphs[name] = (work.draft.signature, files[name])
        return scan(folder, graphs, watched, scheduler, prior)


def _finish(work: _Work, measured: Measured, precision: str) -> Lowered:
    """Give the graph its types, unless its output loses too much by them."""
    if precision == "fp16":
        work.kept = kept_by_range(work.model, measured.reach) | work.kept
    model = _copied(work.model)
    lower_element_types(model, precision, kept=work.kept, stored=work.stored)
    error = _rounding_error_db(model, work.params.with_name("simulated.onnx"), measured.runs)
    if not error >= LEAST_DB[precision]:
        work.params.unlink()
        return _in_float32(f"{precision} leaves {error:.1f} dB; at least {LEAST_DB[precision]:g} are wanted")
    graph = work.params.with_name(f"model-{precision}.onnx")
    onnx.save(model, graph)
    numerics = {
        "float32": _by_reason(work, measured.reach),
        "reach": _reach_in_lower(work, measured.reach),
        "rounding_error_db": None if math.isinf(error) else round(error, 1),
        "trajectory": dict(measured.trajectory),
    }
    return Lowered({"graph": graph, "weights": work.params}, numerics)


def _in_float32(reason: str) -> Lowered:
    """The result for a component that stays in float32."""
    return Lowered({}, {"float32": [{"reason": reason, "nodes": {}}]})


def _by_reason(work: _Work, reach: Mapping[str, float]) -> list[dict[str, Any]]:
    """The nodes that stay in float32 by reason, each with the largest value that it made."""
    groups: dict[str, dict[str, float | None]] = {}
    for node in work.model.graph.node:
        if node.name in work.kept:
            values = [reach[name] for name in node.output if name in reach]
            groups.setdefault(work.kept[node.name], {})[node.name] = max(values, default=None)
    return [{"reason": reason, "nodes": nodes} for reason, nodes in groups.items()]


def _reach_in_lower(work: _Work, reach: Mapping[str, float]) -> float:
    """The largest value that a node makes which does not stay in float32."""
    nodes = [node for node in work.model.graph.node if node.name not in work.kept]
    return max((reach[name] for node in nodes for name in node.output if name in reach), default=0.0)


def _rounding_error_db(model: onnx.ModelProto, scratch: Path, runs: Sequence[GraphRun]) -> float:
    """Power of an output over that of what rounding changes in it, for the first, middle and last run, in dB.

    Of several outputs the one that loses most counts.
    """
    chosen = [runs[i] for i in sorted({0, len(runs) // 2, len(runs) - 1})]
    simulated = _copied(model)
    simulate_rounding(simulated)
    with _scratch_files({"simulated": scratch}):
        onnx.save(simulated, scratch)
        outputs = run_plainly(scratch, [run.feeds for run in chosen])
    wanted = [run.outputs for run in chosen]
    return min(map(_ratio_db, zip(*wanted, strict=True), zip(*outputs, strict=True)))


def _ratio_db(wanted: Sequence[Array], got: Sequence[Array]) -> float:
    power = sum(float(np.square(want, dtype=np.float64).sum()) for want in wanted)
    pairs = zip(got, wanted, strict=True)
    lost = sum(float(np.square(one - want, dtype=np.float64).sum()) for one, want in pairs)
    return 10 * math.log10(power / lost) if lost else math.inf


@contextmanager
def _scratch_files(files: Mapping[str, Path]) -> Iterator[Mapping[str, Path]]:
    try:
        yield files
    finally:
        for file in files.values():
            file.unlink(missing_ok=True)


def _readers(model: onnx.ModelProto) -> dict[str, list[str]]:
    """The names of the nodes that read each value."""
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    return readers


def _names(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in model.graph.node}


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
