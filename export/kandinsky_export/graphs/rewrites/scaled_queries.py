"""Attention that scales its scores → attention that scales its queries.

The product of unscaled queries and keys is the largest value of the layer, up to the head's width times what is needed:
in fp16 it overflows first. TensorRT fuses attention only where the scale comes before the product (its guide on fused
attention asks for it). A scale that is a power of two, as for heads of 16 and 64, changes no bit.
"""

from __future__ import annotations

import onnx

from kandinsky_export.graphs.rewrites.values import values_read


def scale_queries(model: onnx.ModelProto) -> int:
    """Turn each Softmax(Mul(MatMul(q, k), scale)) into Softmax(MatMul(Mul(q, scale), k)).

    Only where the scale is one number, a constant of the graph, and nothing else reads the product or its multiple.
    """
    graph = model.graph
    numbers = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_location != onnx.TensorProto.EXTERNAL and all(size == 1 for size in tensor.dims)
    }
    made_by = {name: node for node in graph.node for name in node.output}
    reads = [name for node in graph.node for name in values_read([node])] + [value.name for value in graph.output]
    nodes, count = list(graph.node), 0
    for softmax in graph.node:
        scaling = made_by.get(softmax.input[0]) if softmax.op_type == "Softmax" else None
        if scaling is None or scaling.op_type != "Mul":
            continue
        scales = [name for name in scaling.input if name in numbers]
        products = [name for name in scaling.input if name not in numbers]
        product = made_by.get(products[0]) if len(scales) == len(products) == 1 else None
        if product is None or product.op_type != "MatMul":
            continue
        if reads.count(product.output[0]) != 1 or reads.count(scaling.output[0]) != 1:
            continue
        scaled = f"{product.input[0]}/scaled_for/{product.name}"
        nodes.remove(scaling)
        nodes.insert(
            nodes.index(product),
            onnx.helper.make_node("Mul", [product.input[0], scales[0]], [scaled], name=scaling.name),
        )
        product.input[0] = scaled
        softmax.input[0] = product.output[0]
        count += 1
    if count:
        del graph.node[:]
        graph.node.extend(nodes)
    return count
