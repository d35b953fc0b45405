"""Rewrites of a graph in 16 bits that save NVIDIA's builder kernels; `tensorrt_rewrites.py` counts what each saves.

The exporter does none of them. Each is given the graph and the shapes of its values at one size of the inputs, changes
the graph in place, and returns the number of places that it changed.

- `norms_in_16_bits`: InstanceNormalization reads and makes 16 bits, without the casts around it. TensorRT-RTX takes
  such a norm as its own group norm, whose kernel has its sums, means and squared errors in float32 (its source is in
  the engine).
- `small_norms_as_sums`: a norm whose groups have at most SMALL elements is written as mean, difference and mean of
  squares, all in float32. TensorRT-RTX makes one or two kernels of it, together with scale, shift and SiLU. For larger
  groups it makes five, so they stay as they are.
- `one_product`: the products for queries, keys and values become one, with concatenated weights.
- `tokens_before_heads`: keys and values are concatenated with those of the image before the heads are split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

SMALL = 25_000
Shapes = Mapping[str, tuple[int, ...]]
Nodes = list[onnx.NodeProto]


def norms_in_16_bits(model: onnx.ModelProto, _shapes: Shapes) -> int:
    """Cast → InstanceNormalization → Cast becomes InstanceNormalization."""
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    types = _types(model)
    instead: dict[str, str] = {}
    for norm in graph.node:
        before = made_by.get(norm.input[0]) if norm.op_type == "InstanceNormalization" else None
        if before is None or before.op_type != "Cast":
            continue
        narrow = types[before.input[0]]
        norm.input[0] = before.input[0]
        for place in (1, 2):
            name = f"{norm.input[place]}/narrow"
            if name not in constants:
                values = numpy_helper.to_array(constants[norm.input[place]])
                constants[name] = helper.make_tensor(name, narrow, values.shape, values.tolist())
                graph.initializer.append(constants[name])
            norm.input[place] = name
        instead |= {
            node.output[0]: norm.output[0]
            for node in graph.node
            if node.op_type == "Cast" and node.input[0] == norm.output[0] and types[node.output[0]] == narrow
        }
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
    _keep(graph, graph.node)
    return len(instead)


def small_norms_as_sums(model: onnx.ModelProto, shapes: Shapes) -> int:
    """InstanceNormalization in float32, of few elements, becomes (x - mean) / sqrt(mean of squares + epsilon)."""
    nodes: Nodes = []
    count = 0
    for node in model.graph.node:
        if node.op_type == "InstanceNormalization" and np.prod(shapes[node.input[0]][2:]) <= SMALL:
            epsilon = np.array(helper.get_node_attr_value(node, "epsilon"), np.float32)
            model.graph.initializer.append(numpy_helper.from_array(epsilon, f"{node.output[0]}/epsilon"))
            nodes += _as_sums(node)
            count += 1
        else:
            nodes.append(node)
    _keep(model.graph, nodes)
    return count


def _as_sums(norm: onnx.NodeProto) -> Nodes:
    made = norm.output[0]

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes)

    return [
        node("ReduceMean", [norm.input[0]], f"{made}/mean", axes=[2], keepdims=1),
        node("Sub", [norm.input[0], f"{made}/mean"], f"{made}/difference"),
        node("Mul", [f"{made}/difference", f"{made}/difference"], f"{made}/square"),
        node("ReduceMean", [f"{made}/square"], f"{made}/variance", axes=[2], keepdims=1),
        node("Add", [f"{made}/variance", f"{made}/epsilon"], f"{made}/above_zero"),
        node("Sqrt", [f"{made}/above_zero"], f"{made}/deviation"),
        node("Div", [f"{made}/difference", f"{made}/deviation"], made),
    ]


def one_product(model: onnx.ModelProto, _shapes: Shapes) -> int:
    """Three MatMul → Add of one input, of queries, keys and values, become one and a Split."""
    graph = model.graph
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    readers = _readers(graph)
    products: dict[str, Nodes] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and ".to_" in node.input[1] and len(dims.get(node.input[1], ())) == 2:
            after = readers[node.output[0]]
            if len(after) == 1 and after[0].op_type == "Add":
                products.setdefault(node.input[0], []).append(node)
    made: dict[int, Nodes] = {}
    dropped: set[int] = set()
    for source, group in products.items():
        if len(group) != 3:
            continue
        sums = [readers[node.output[0]][0] for node in group]
        weights = [node.input[1] for node in group]
        biases = [next(name for name in node.input if name in dims) for node in sums]
        sizes = np.array([dims[name][1] for name in weights], np.int64)
        graph.initializer.append(numpy_helper.from_array(sizes, f"{source}/sizes"))
        names = {part: f"{source}/{part}" for part in ("weights", "biases", "product", "sum")}
        made[id(group[0])] = [
            helper.make_node("Concat", weights, [names["weights"]], name=names["weights"], axis=1),
            helper.make_node("Concat", biases, [names["biases"]], name=names["biases"], axis=0),
            helper.make_node("MatMul", [source, names["weights"]], [names["product"]], name=names["product"]),
            helper.make_node("Add", [names["product"], names["biases"]], [names["sum"]], name=names["sum"]),
            helper.make_node(
                "Split",
                [names["sum"], f"{source}/sizes"],
                [node.output[0] for node in sums],
                name=f"{source}/split",
                axis=2,
            ),
        ]
        dropped |= {id(node) for node in (*group, *sums)}
    rewritten = [
        new for node in graph.node for new in (*made.get(id(node), ()), *(() if id(node) in dropped else (node,)))
    ]
    _keep(graph, rewritten)
    return len(made)


def tokens_before_heads(model: onnx.ModelProto, _shapes: Shapes) -> int:
    """Concat of two Reshape → Transpose, of tokens split into heads, becomes Concat → Reshape → Transpose."""
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    found: dict[int, Nodes] = {}
    for node in graph.node:
        turned = [made_by.get(name) for name in node.input]
        if node.op_type != "Concat" or any(item is None or item.op_type != "Transpose" for item in turned):
            continue
        split = [made_by.get(item.input[0]) for item in turned if item is not None]
        if len(split) != 2 or any(item is None or item.op_type != "Reshape" for item in split):
            continue
        first, second = (item for item in split if item is not None)
        made = node.output[0]
        found[id(node)] = [
            helper.make_node(
                "Concat", [first.input[0], second.input[0]], [f"{made}/rows"], name=f"{made}/rows", axis=1
            ),
            helper.make_node("Reshape", [f"{made}/rows", first.input[1]], [f"{made}/heads"], name=f"{made}/heads"),
            helper.make_node("Transpose", [f"{made}/heads"], [made], name=made, perm=[0, 2, 1, 3]),
        ]
    _keep(graph, (new for node in graph.node for new in found.get(id(node), [node])))
    return len(found)


Rewrite = Callable[[onnx.ModelProto, Shapes], int]
# In the order in which they add up: the sums come first, and the casts of those norms stay.
REWRITES: Mapping[str, tuple[Rewrite, ...]] = {
    "as exported": (),
    "norms in 16 bits": (norms_in_16_bits,),
    "small norms as sums": (small_norms_as_sums,),
    "small norms as sums, others in 16 bits": (small_norms_as_sums, norms_in_16_bits),
    "one product for queries, keys and values": (one_product,),
    "one product, tokens before heads": (one_product, tokens_before_heads),
    "norms in 16 bits, one product, tokens before heads": (norms_in_16_bits, one_product, tokens_before_heads),
    "all of them": (small_norms_as_sums, norms_in_16_bits, one_product, tokens_before_heads),
}


def _keep(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    kept = list(nodes)
    needed = {value.name for value in graph.output}
    alive = []
    for node in reversed(kept):
        if needed.intersection(node.output):
            alive.append(node)
            needed.update(node.input)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(alive)]
    del graph.node[:]
    graph.node.extend(copies)


def _readers(graph: onnx.GraphProto) -> dict[str, Nodes]:
    readers: dict[str, Nodes] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }
