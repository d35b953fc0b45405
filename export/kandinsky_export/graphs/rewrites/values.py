"""The values that the nodes of a graph read; a subgraph, such as a branch of an `If`, reads those around it, too."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node: the branches of an `If`, the body of a `Loop` or `Scan`."""
    one = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    many = [graph for attribute in node.attribute for graph in attribute.graphs]
    return one + many


def values_read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """The names of all values that nodes read; of the graphs inside them, what those read of the graph around them."""
    names: set[str] = set()
    for node in nodes:
        names.update(name for name in node.input if name)
        for graph in subgraphs(node):
            read = values_read(graph.node) | {value.name for value in graph.output}
            names |= read - values_made(graph)
    return names


def values_made(graph: onnx.GraphProto) -> set[str]:
    """The names of all values that a graph has of its own: computed, taken as inputs, or stored in it."""
    names = {name for node in graph.node for name in node.output}
    return names | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}


def read_instead(nodes: Iterable[onnx.NodeProto], source: Mapping[str, str]) -> None:
    """Let nodes, and the graphs inside them, read `source[name]` in place of `name`.

    No graph gives a name of the graph around it to a value of its own; ONNX forbids that.
    """
    for node in nodes:
        node.input[:] = [source.get(name, name) for name in node.input]
        for graph in subgraphs(node):
            read_instead(graph.node, source)
            for value in graph.output:
                value.name = source.get(value.name, value.name)


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The constants that a graph has in its own file, by name: the others are weights."""
    return {tensor.name: tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL}


def replace_nodes(graph: onnx.GraphProto, instead: Mapping[int, Sequence[onnx.NodeProto]]) -> None:
    """Put nodes in the place of others.

    Args:
        graph: the graph, changed in place.
        instead: the new nodes by the `id` of the node whose place they take, an object of `graph.node` that is alive.
    """
    if instead:
        nodes = [new for node in graph.node for new in instead.get(id(node), [node])]
        del graph.node[:]
        graph.node.extend(nodes)


def drop_nodes(graph: onnx.GraphProto, dropped: Collection[onnx.NodeProto]) -> None:
    """Take nodes out of a graph."""
    replace_nodes(graph, {id(node): () for node in dropped})
