"""A second graph for each ONNX graph, over the same weights, with the operators of ONNX Runtime's CUDA provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import onnx

from kandinsky_export.graphs.rewrites.dead_nodes import remove_dead_nodes
from kandinsky_export.graphs.rewrites.fused_attention import DOMAIN, fuse_attention
from kandinsky_export.graphs.rewrites.fused_group_norm import fuse_group_norm
from kandinsky_export.graphs.rewrites.values import values_read
from kandinsky_runtime.bundle.manifest import Component, Variant
from kandinsky_runtime.engines.onnxruntime.cuda import GRAPH_ROLE


def with_cuda_graphs(folder: Path, components: Mapping[str, Component]) -> dict[str, Component]:
    """Write the second graphs, and the components with them in the role `cuda_graph`.

    Args:
        folder: the bundle's.
        components: by name; the files of their variants are written.

    Raises:
        OSError: a graph cannot be read or written.
    """
    made: dict[str, str | None] = {}

    def extended(variant: Variant) -> Variant:
        graph = variant.files.get("graph")
        if graph is None:
            return variant
        if graph not in made:
            made[graph] = _write(folder, graph)
        second = made[graph]
        return variant if second is None else replace(variant, files={**variant.files, GRAPH_ROLE: second})

    return {
        name: replace(item, variants={key: extended(variant) for key, variant in item.variants.items()})
        for name, item in components.items()
    }


def fuse(model: onnx.ModelProto) -> int:
    """Put the provider's operators in; the number of them."""
    fused = fuse_attention(model).rewritten + fuse_group_norm(model).rewritten
    if fused:
        model.opset_import.add(domain=DOMAIN, version=1)
        remove_dead_nodes(model)
        read = values_read(model.graph.node)
        kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
    return fused


def _write(folder: Path, graph: str) -> str | None:
    """The path of the second graph in the bundle; None if there is nothing to fuse."""
    model = onnx.load(folder / graph, load_external_data=False)
    if not fuse(model):
        return None
    path = PurePosixPath(graph)
    second = str(path.with_name(f"{path.stem}-cuda.onnx"))
    (folder / second).write_bytes(model.SerializeToString())
    return second
