"""Whether a graph is strongly typed, checked by the schemas of its operators alone, without code of this project."""

from __future__ import annotations

import onnx


def type_faults(model: onnx.ModelProto) -> list[str]:
    """Every node that reads or makes a value of a type that its operator does not allow there, or that mixes types."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    graph = inferred.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    (opset,) = (item.version for item in model.opset_import if item.domain == "")
    faults = []
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
        bound: dict[str, str] = {}
        for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
            for i, name in enumerate(names):
                if not name:
                    continue
                formal = formals[min(i, len(formals) - 1)]
                kind = f"tensor({onnx.TensorProto.DataType.Name(types[name]).lower()})"
                if kind not in allowed.get(formal.type_str, [formal.type_str]):
                    faults.append(f"{node.name}: {name} is {kind}, which {node.op_type} does not take there")
                elif formal.is_homogeneous and bound.setdefault(formal.type_str, kind) != kind:
                    faults.append(f"{node.name}: {name} is {kind}, others are {bound[formal.type_str]}")
    return faults


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, by name."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}
