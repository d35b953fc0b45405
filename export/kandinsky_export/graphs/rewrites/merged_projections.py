"""Three products of one value with weights, and their biases → one product with the weights side by side, and a Split.

An attention's queries, keys and values are such products. TensorRT's builder makes one product of the three by itself,
but then adds each bias and splits each into heads in a kernel of its own. Written as one, a single kernel does that.
No sum changes: each column of the product has its own weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from kandinsky_export.graphs.rewrites.nodes import name_of, require_inner
from kandinsky_export.graphs.rewrites.values import replace_nodes, values_read
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require

# Between the names of weights that are one tensor in the file, side by side along the last axis.
# `benchmarks/gpu/weightless.py` restores random weights by these names.
JOINED = "+"
_COUNT = 3


def parts_of(weight: str) -> list[str]:
    """The checkpoint's names of the weights that are side by side in the weight of this name."""
    return weight.split(JOINED)


@dataclass(frozen=True)
class _Projection:
    """MatMul → Add: a product with a weight and the sum with its bias."""

    product: onnx.NodeProto
    total: onnx.NodeProto
    weight: onnx.TensorProto
    bias: onnx.TensorProto


def merge_projections(model: onnx.ModelProto) -> Outcome:
    """Merge the products of each value that has exactly three, of one width, each with a bias.

    Args:
        model: a graph whose weights are external, changed in place. The merged weight is external, too, and has no
            place in a file yet. `parts_of` names what it consists of.
    """
    graph, outcome = model.graph, Outcome()
    finder = _Finder(graph)
    instead: dict[int, list[onnx.NodeProto]] = {}
    for source, products in finder.products().items():
        try:
            projections = [finder.check(product) for product in products]
            require(len(products) == _COUNT, f"{len(products)} products read {source}; expected {_COUNT}")
            widths = [item.weight.dims[1] for item in projections]
            require(len(set(widths)) == 1, f"the products of {source} have {widths} columns; expected one number")
        except Refused as refusal:
            outcome.refuse(name_of(products[0]), refusal)
        else:
            merged = _merged(graph, source, projections)
            instead |= {id(node): [] for item in projections for node in (item.product, item.total)}
            instead[id(projections[0].product)] = merged
            outcome.rewritten += 1
    replace_nodes(graph, instead)
    return outcome


class _Finder:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = list(graph.node)
        self._weights = {
            tensor.name: tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL
        }
        self._outputs = {value.name for value in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in values_read([node]):
                self._readers.setdefault(name, []).append(node)

    def products(self) -> dict[str, list[onnx.NodeProto]]:
        """The products with a matrix of weights by the value that they read, if there are several."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            weight = self._weights.get(node.input[1]) if node.op_type == "MatMul" else None
            if weight is not None and len(weight.dims) == 2:
                found.setdefault(node.input[0], []).append(node)
        return {source: products for source, products in found.items() if len(products) > 1}

    def check(self, product: onnx.NodeProto) -> _Projection:
        """A product with its bias."""
        weight = self._weights[product.input[1]]
        require(len(self._readers[weight.name]) == 1, f"its weight {weight.name} is read by other nodes, too")
        readers = self._readers.get(product.output[0], [])
        require(len(readers) == 1 and readers[0].op_type == "Add", "it is not read by one Add alone")
        require_inner(product, self._outputs)
        (total,) = readers
        require_inner(total, self._outputs)
        biases = [self._weights[name] for name in total.input if name in self._weights]
        wanted = [weight.dims[1]]
        if len(biases) != 1 or list(biases[0].dims) != wanted:
            raise Refused(f"what is added to it is not one weight of the shape {wanted}")
        require(len(self._readers[biases[0].name]) == 1, f"its bias {biases[0].name} is read by other nodes, too")
        return _Projection(product, total, weight, biases[0])


def _merged(graph: onnx.GraphProto, source: str, projections: Sequence[_Projection]) -> list[onnx.NodeProto]:
    """The nodes that take the place of the projections; the graph's weights are merged."""
    width = projections[0].weight.dims[1]
    weight = _side_by_side(graph, [item.weight for item in projections])
    bias = _side_by_side(graph, [item.bias for item in projections])
    product, total, widths = (f"{weight}/{part}" for part in ("product", "sum", "widths"))
    graph.initializer.append(numpy_helper.from_array(np.array([width] * len(projections), np.int64), widths))
    outputs = [item.total.output[0] for item in projections]
    return [
        onnx.helper.make_node("MatMul", [source, weight], [product], name=product),
        onnx.helper.make_node("Add", [product, bias], [total], name=total),
        onnx.helper.make_node("Split", [total, widths], outputs, name=f"{weight}/split", axis=-1),
    ]


def _side_by_side(graph: onnx.GraphProto, tensors: Sequence[onnx.TensorProto]) -> str:
    """The name of one external weight in place of several, which go."""
    name = JOINED.join(tensor.name for tensor in tensors)
    sizes = [*tensors[0].dims[:-1], sum(tensor.dims[-1] for tensor in tensors)]
    merged = onnx.TensorProto(name=name, data_type=tensors[0].data_type, dims=sizes)
    merged.data_location = onnx.TensorProto.EXTERNAL
    for tensor in tensors:
        graph.initializer.remove(tensor)
    graph.initializer.append(merged)
    return name
