"""Paddle program → ONNX graph: converted without weights, the weights attached as external data, then cleaned.

Given weights, paddle2onnx 2.1.0 writes an empty file for a graph over protobuf's 2 GB; given none it converts any
size in under a second and leaves each weight a dangling input under its name.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx

from kandinsky_export.errors import ExportError
from kandinsky_export.graphs.params_file import Placement
from kandinsky_export.graphs.rewrites.constants import constants_to_initializers
from kandinsky_export.graphs.rewrites.dead_nodes import remove_dead_nodes
from kandinsky_export.graphs.rewrites.equal_branches import inline_equal_branches
from kandinsky_export.graphs.rewrites.folded_constants import fold_constants
from kandinsky_export.graphs.rewrites.no_ops import remove_no_ops
from kandinsky_export.graphs.rewrites.output_names import name_outputs_at_source
from kandinsky_export.graphs.rewrites.values import read_instead, values_made, values_read
from kandinsky_export.vendors import paddle2onnx
from kandinsky_runtime.bundle.spec import GraphSpec

OPSET = 17


def convert(program: Path, signature: GraphSpec) -> onnx.ModelProto:
    """Convert a saved Paddle program to ONNX, weightless, with the signature's names.

    Raises:
        ExportError: the converter failed, or the graph's inputs and outputs are not the signature's.
    """
    try:
        with _captured_stdout() as printed:
            converted = _run_converter(program)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"paddle2onnx cannot convert {program.name}: {reason}") from error
    if not converted:
        raise ExportError(f"paddle2onnx cannot convert {program.name}: {' '.join(printed)}")
    model = onnx.load_from_string(converted)
    _name_tensors(model, signature)
    return model


def attach_weights(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], placements: Mapping[str, Placement], location: str
) -> None:
    """Add float32 initializers that point into a weights file, for every weight that the graph reads.

    Args:
        model: the weightless graph, changed in place.
        shapes: of each weight, by name.
        placements: the place of each weight in the file.
        location: the file's path relative to the ONNX file.

    Raises:
        ExportError: the graph reads a tensor that is neither computed nor a weight.
    """
    graph = model.graph
    dangling = sorted(values_read(graph.node) - values_made(graph))
    if unknown := [name for name in dangling if name not in placements]:
        raise ExportError(f"the converted graph reads {', '.join(unknown[:5])}, which the checkpoint lacks")
    for name in dangling:
        tensor = graph.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT, dims=shapes[name])
        tensor.data_location = onnx.TensorProto.EXTERNAL
    place_weights(model, placements, location)


def place_weights(model: onnx.ModelProto, placements: Mapping[str, Placement], location: str) -> None:
    """Point every external initializer to its place in the file `location`."""
    for tensor in external_weights(model):
        placed = placements[tensor.name]
        del tensor.external_data[:]
        for key, value in (("location", location), ("offset", placed.offset), ("length", placed.length)):
            tensor.external_data.add(key=key, value=str(value))


def external_weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The initializers whose values are in another file."""
    return [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]


def clean(model: onnx.ModelProto) -> None:
    """Remove nodes without effect. Attach the weights first: their shapes show more such nodes."""
    inline_equal_branches(model)
    constants_to_initializers(model)
    fold_constants(model)
    while remove_no_ops(model).rewritten:
        pass  # the shapes of more values are known without the ones removed
    name_outputs_at_source(model)
    remove_dead_nodes(model)
    constants_to_initializers(model)


def _run_converter(program: Path) -> bytes:
    """The ONNX file's bytes; empty if the converter failed.

    This is the converter's own entry: the Python layer above it logs errors instead of raising them, and its optimiser
    installs packages.
    """
    weights, calibration, external = "", "", ""
    upgrade_opset, verbose, check, experimental, optimise, fp16 = True, False, False, True, True, False
    converted = paddle2onnx.export(
        str(program), weights, OPSET, upgrade_opset, verbose, check, experimental, optimise, {}, "onnxruntime",
        calibration, external, fp16,
    )  # fmt: skip
    return bytes(converted)


@contextmanager
def _captured_stdout() -> Iterator[list[str]]:
    """Collect the lines that a C++ library prints to stdout, which may be carrying somebody's JSON."""
    lines: list[str] = []
    sys.stdout.flush()
    saved = os.dup(1)
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), 1)
            yield lines
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def _name_tensors(model: onnx.ModelProto, signature: GraphSpec) -> None:
    """Give outputs and dynamic dimensions the signature's names."""
    graph = model.graph
    inputs = {value.name: value for value in graph.input}
    if set(inputs) != {spec.name for spec in signature.inputs} or len(graph.output) != len(signature.outputs):
        raise ExportError(f"the converted graph takes {sorted(inputs)} and returns {len(graph.output)} tensors")
    named = {value.name: spec.name for value, spec in zip(graph.output, signature.outputs, strict=True)}
    read_instead(graph.node, named)
    for node in graph.node:
        node.output[:] = [named.get(name, name) for name in node.output]
    for value in graph.output:
        value.name = named[value.name]
    for spec in (*signature.inputs, *signature.outputs):
        value = next(value for value in (*graph.input, *graph.output) if value.name == spec.name)
        shape = value.type.tensor_type.shape
        shape.Clear()
        for dim in spec.dims:
            shape.dim.add(**({"dim_value": dim} if isinstance(dim, int) else {"dim_param": dim}))
