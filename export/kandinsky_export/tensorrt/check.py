"""Check whether TensorRT can take a bundle's ONNX graphs, without TensorRT, a GPU or a checkpoint.

Each graph is walked at MIN, OPT and MAX of every profile with concrete shapes. That proves: every operator, type and
attribute is one that the published table and the known limits allow; no type is mixed that a strongly typed network
would have to convert; every shape in the graph follows from the inputs' shapes and fits the signature at these sizes.
It does not prove that TensorRT finds a kernel for each layer, nor what the engine computes or how fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from kandinsky_export.tensorrt.rules import OperatorTable, notes, operator_table, reasons, type_name
from kandinsky_export.tensorrt.shapes import Value, default_opset, walk
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, graph_profiles
from kandinsky_runtime.errors import BundleError, UsageError

_ONNX = "onnx-"
_POINTS = ("MIN", "OPT", "MAX")


@dataclass
class Findings:
    """The findings in one graph: reasons against it, and notes, each with its nodes."""

    reasons: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether there is no reason against the graph."""
        return not self.reasons

    def lines(self) -> list[str]:
        """The findings as text."""
        texts = [f"fails: {text}" for text in _grouped(self.reasons)]
        return texts + [f"note: {text}" for text in _grouped(self.notes)]


@dataclass(frozen=True)
class Readiness:
    """The findings in every graph, by component and variant."""

    table: OperatorTable
    profiles: tuple[Profile, ...]
    graphs: Mapping[str, Mapping[str, Findings]]

    @property
    def ready(self) -> bool:
        """Whether TensorRT can take all of them, as far as can be checked."""
        return all(found.ready for variants in self.graphs.values() for found in variants.values())

    def to_dict(self) -> dict[str, Any]:
        """The findings for JSON."""
        return {
            "ready": self.ready,
            "operators": {"source": self.table.source, "tensorrt": self.table.version, "opsets": self.table.opsets},
            "profiles": [profile.to_json() for profile in self.profiles],
            "graphs": {
                component: {
                    variant: {"ready": found.ready, "reasons": found.reasons, "notes": found.notes}
                    for variant, found in variants.items()
                }
                for component, variants in self.graphs.items()
            },
        }

    def text(self) -> str:
        """The findings as text."""
        lines = [f"TensorRT {self.table.version}'s operators, opset {self.table.opsets[0]} to {self.table.opsets[1]}"]
        lines += [f"  at {profile}" for profile in self.profiles]
        for component, variants in self.graphs.items():
            for variant, found in variants.items():
                lines.append(f"{component:14}{variant:11}{'ready' if found.ready else 'NOT READY'}")
                lines += [f"  {line}" for line in found.lines()]
        return "\n".join([*lines, "ready, as far as can be checked without TensorRT" if self.ready else "NOT READY"])


def check_bundle(bundle: Bundle, profiles: Sequence[Profile] = (Profile(),)) -> Readiness:
    """Check every ONNX variant of every component.

    Args:
        bundle: an opened bundle; its weights are not read.
        profiles: the sizes that engines are built for.

    Raises:
        BundleError: a graph's file is damaged.
        UsageError: the bundle has no ONNX variant, or the graphs do not take the profiles' sizes.
    """
    if not any(name.startswith(_ONNX) for name in bundle.manifest.variants()):
        raise UsageError("TensorRT reads ONNX, and the bundle has no such variant: export it with --variants onnx-fp32")
    table, geometry = operator_table(), Geometry.of(bundle.manifest, bundle.subject)
    graphs: dict[str, dict[str, Findings]] = {}
    for key, component in bundle.manifest.components.items():
        sizes = graph_profiles(key, component.spec, geometry, profiles)
        graphs[key] = {}
        for name, variant in component.variants.items():
            if name.startswith(_ONNX):
                path = bundle.paths(variant)["graph"]
                try:
                    model = onnx.load(path, load_external_data=False)
                except (OSError, DecodeError) as error:
                    raise BundleError(bundle.subject, [f"{path.name} of {key} cannot be read ({error})"]) from error
                graphs[key][name] = check_graph(model, component.spec, sizes, table)
    return Readiness(table, tuple(profiles), graphs)


def check_graph(
    model: onnx.ModelProto, spec: GraphSpec, profiles: Sequence[GraphProfile], table: OperatorTable | None = None
) -> Findings:
    """Check one graph.

    Args:
        model: without its weights' values.
        spec: the expected signature.
        profiles: the sizes that its engine is built for.
        table: the operator table; None for the one in this package.
    """
    table = table or operator_table()
    found, opset = Findings(), default_opset(model)
    low, high = table.opsets
    if not low <= opset <= high:
        found.reasons[f"the graph is of opset {opset}; TensorRT {table.version} takes {low} to {high}"] = []
    if fault := _signature_fault(model, spec):
        found.reasons[fault] = []
        return found
    for profile in profiles:
        for number, point in enumerate(_POINTS):
            shapes = {tensor.name: profile.shapes(tensor)[number] for tensor in spec.inputs}
            values: dict[str, Value | None] = {}
            for site in walk(model, shapes):
                label = f"{site.node.op_type} {site.node.name or site.node.output[0]}"
                for text in reasons(site, table, opset):
                    _add(found.reasons, text, label)
                for text in notes(site):
                    _add(found.notes, text, label)
                values |= zip(site.node.output, site.outputs, strict=True)
            for fault in _output_faults(spec, shapes, values):
                _add(found.reasons, f"at {point}, {fault}", "")
    return found


def _signature_fault(model: onnx.ModelProto, spec: GraphSpec) -> str | None:
    """What is wrong with the names and types of the graph's inputs and outputs, or None."""
    initializers = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in initializers]
    for kind, items, tensors in (("takes", inputs, spec.inputs), ("returns", model.graph.output, spec.outputs)):
        got = {item.name: type_name(item.type.tensor_type.elem_type) for item in items}
        wanted = {
            tensor.name: type_name(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))) for tensor in tensors
        }
        if got != wanted:
            return f"the graph {kind} {_listed(got)}; the bundle's manifest says {_listed(wanted)}"
    return None


def _output_faults(
    spec: GraphSpec, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Value | None]
) -> list[str]:
    """The outputs whose shape is not that of the signature."""
    sizes = {
        dim: size
        for tensor in spec.inputs
        for dim, size in zip(tensor.dims, shapes[tensor.name], strict=True)
        if isinstance(dim, str)
    }
    faults = []
    for tensor in spec.outputs:
        value = values.get(tensor.name)
        if value is not None and value.shape not in (None, tensor.shape(sizes)):
            faults.append(f"`{tensor.name}` comes out as {value.shape}; expected {tensor.shape(sizes)}")
    return faults


def _add(where: dict[str, list[str]], text: str, label: str) -> None:
    labels = where.setdefault(text, [])
    if label and label not in labels:
        labels.append(label)


def _grouped(found: Mapping[str, list[str]]) -> list[str]:
    """One line for each text, with the first of its nodes and their number."""
    return [
        text if not nodes else f"{nodes[0]}{f' and {len(nodes) - 1} more' if len(nodes) > 1 else ''}: {text}"
        for text, nodes in found.items()
    ]


def _listed(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in types.items()) or "nothing"
