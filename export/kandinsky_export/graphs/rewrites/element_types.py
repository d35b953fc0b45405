"""A float32 graph → the same graph with fp16 or bf16 written in its types, a `Cast` at every border.

The operands of a node have one type if ONNX gives them one type variable, so that no engine has to choose a type:
TensorRT calls such a graph strongly typed. Inputs and outputs of the graph stay float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import numpy_helper

from kandinsky_export.errors import ExportError
from kandinsky_export.graphs.rewrites.values import subgraphs
from kandinsky_export.graphs.rounding import rounded

FLOAT = onnx.TensorProto.FLOAT
ELEMENT_TYPES: Mapping[str, int] = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}

# Their results do not depend on the type of their input.
_TYPE_BLIND = frozenset({"Shape", "Size"})


def lower_element_types(
    model: onnx.ModelProto, precision: str, *, kept: Collection[str] = (), stored: Collection[str] = ()
) -> int:
    """Let every node compute in fp16 or bf16 but those in `kept`.

    A node that the operator's schema does not allow in `precision`, such as a `Cast` or the scales of a `Resize`, keeps
    its types; so does what is not float32, such as shapes. Constants in the graph are converted; a weight outside it
    must have been stored in `precision` if it is in `stored`, and in float32 otherwise.

    Args:
        model: a float32 graph, changed in place; nodes have names of their own.
        precision: "fp16" or "bf16".
        kept: names of the nodes that compute in float32.
        stored: names of the external weights that are stored in `precision`.

    Returns:
        How many nodes compute in `precision`.

    Raises:
        ExportError: a node has a subgraph, an unknown operator, or a value without a type.
    """
    return _Lowering(model, ELEMENT_TYPES[precision], kept, stored).run()


class _Lowering:
    """One rewrite: the type of every value so far, and the casts that were made."""

    def __init__(self, model: onnx.ModelProto, low: int, kept: Collection[str], stored: Collection[str]) -> None:
        self.graph = model.graph
        self.low = low
        self.kept = kept
        self.stored = stored
        (self.opset,) = (item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
        self.before = value_types(model)
        self.types = dict(self.before)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.outputs = {value.name for value in self.graph.output}
        self.nodes: list[onnx.NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}

    def run(self) -> int:
        for tensor in self.graph.initializer:
            if tensor.name in self.stored:
                tensor.data_type = self.types[tensor.name] = self.low
        count = 0
        for node in list(self.graph.node):
            count += self.convert(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]  # of the types before
        self.drop_unread_constants()
        return count

    def convert(self, node: onnx.NodeProto) -> bool:
        """Append a node with the casts before and behind it; whether it computes in the lower precision."""
        if subgraphs(node):
            raise ExportError(f"{node.name}: a node with a graph inside it, {node.op_type}, has no types of its own")
        if node.op_type in _TYPE_BLIND:
            self.nodes.append(node)
            return False
        lowered = set() if node.name in self.kept else self.lowered_variables(node)
        schema = _schema(node, self.opset)
        for i, name in enumerate(node.input):
            if name and self.before[name] == FLOAT:
                wanted = self.low if _formal(schema.inputs, i).type_str in lowered else FLOAT
                node.input[i] = self.as_type(name, wanted)
        self.nodes.append(node)
        for i, name in enumerate(node.output):
            if name and self.before[name] == FLOAT and _formal(schema.outputs, i).type_str in lowered:
                self.lower_output(node, i)
        return bool(lowered)

    def lowered_variables(self, node: onnx.NodeProto) -> set[str]:
        """The type variables of a node that become `low`: those of a float32 output that may have that type."""
        schema = _schema(node, self.opset)
        allowed = {item.type_param_str: set(item.allowed_type_strs) for item in schema.type_constraints}
        wanted = f"tensor({onnx.TensorProto.DataType.Name(self.low).lower()})"
        found = set()
        for i, name in enumerate(node.output):
            variable = _formal(schema.outputs, i).type_str
            if name and self.before[name] == FLOAT and wanted in allowed.get(variable, ()):
                found.add(variable)
        # A variable that no input has, as in a Cast, is set by an attribute and stays.
        return found & {_formal(schema.inputs, i).type_str for i, name in enumerate(node.input) if name}

    def lower_output(self, node: onnx.NodeProto, position: int) -> None:
        """Note an output's new type; one of the graph's keeps its name and type behind a cast."""
        name = node.output[position]
        if name not in self.outputs:
            self.types[name] = self.low
            return
        node.output[position] = computed = f"{name}/{_name(self.low)}"
        self.casts[name, self.low] = computed  # what others in this type read
        self.nodes.append(cast_node(computed, name, FLOAT))

    def as_type(self, name: str, wanted: int) -> str:
        """The value called `name` in the wanted type: itself, a converted constant, or behind a cast made once."""
        if self.types[name] == wanted:
            return name
        if (name, wanted) not in self.casts:
            self.casts[name, wanted] = converted = f"{name}/{_name(wanted)}"
            constant = self.constants.get(name)
            if constant is not None and constant.data_location != onnx.TensorProto.EXTERNAL:
                self.graph.initializer.append(_converted(constant, converted, wanted))
            else:
                self.nodes.append(cast_node(name, converted, wanted))
        return self.casts[name, wanted]

    def drop_unread_constants(self) -> None:
        read = {name for node in self.nodes for name in node.input} | self.outputs
        tensors = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(tensors)


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value of a graph, by name.

    Raises:
        ExportError: ONNX cannot infer the type of a value.
    """
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    if unknown := [name for node in graph.node for name in node.output if name and not types.get(name)]:
        raise ExportError(f"the types of {', '.join(unknown[:5])} cannot be inferred")
    return types


def _schema(node: onnx.NodeProto, opset: int) -> onnx.defs.OpSchema:
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError as error:
        raise ExportError(f"{node.name}: ONNX knows no {node.domain or 'standard'} operator {node.op_type}") from error


def _formal(
    parameters: Sequence[onnx.defs.OpSchema.FormalParameter], position: int
) -> onnx.defs.OpSchema.FormalParameter:
    """The schema's entry for an input or output; the last one stands for all that follow."""
    return parameters[min(position, len(parameters) - 1)]


def cast_node(source: str, target: str, element_type: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=element_type)


def _converted(tensor: onnx.TensorProto, name: str, element_type: int) -> onnx.TensorProto:
    values = rounded(numpy_helper.to_array(tensor), _name(element_type))
    return onnx.TensorProto(name=name, data_type=element_type, dims=tensor.dims, raw_data=values.tobytes())


def _name(element_type: int) -> str:
    return {FLOAT: "fp32", **{kind: name for name, kind in ELEMENT_TYPES.items()}}[element_type]
