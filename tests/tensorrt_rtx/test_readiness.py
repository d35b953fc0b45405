"""The readiness check's verdicts on small graphs, held against NVIDIA's builder."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import pytest
from onnx import TensorProto, helper

from kandinsky_runtime.engines.tensorrt_rtx.options import profile_options
from tests.export.tensorrt.test_check import FAILING, LARGEST_HEIGHT, PASSING, PROFILES, SPEC, SQUARE, up_to
from tests.tensorrt_rtx.builder import Built, Job, build

# What TensorRT-RTX 1.7.1 builds although the check says no, and why the check goes on saying it. The check is for the
# full TensorRT, too, by the operator support that it publishes; and an engine that is built may not be one that is
# wanted.
BUILT_ALL_THE_SAME = {
    "domain": "Gelu of com.microsoft is an operator of ONNX Runtime, which hands it over; TensorRT's parser has none",
    "opset": "published is opset 9 and later; the operators of this graph are the same in 8",
    "type": "published for Clip is FP32, FP16 and BF16",
    "power of another type": "ONNX allows it and this parser converts; a strongly typed network is not said to",
    "double that float cannot hold": "it narrows: the engine computes something else",
    "shape from data": "the shape is computed on the device: no buffer can be made before the run",
    "cubic resize": "published are nearest and linear",
    "resize of some axes": "published are all axes in order",
    "group normalisation of opset 21": "TensorRT 10.7 does not take it",
    "group normalisation of one group": "TensorRT 10.16 computes something else",
    "pooling over one dimension": "published are 2 and 3 dimensions",
    "control flow": "ONNX Runtime folds a condition that is constant",
    "another shape than the signature's": "the builder does not know the signature",
    "a shape that holds for the smallest only": "the builder leaves it to the run: refused there, and here before",
    "nodes out of order": "ONNX Runtime sorts them; ONNX forbids them",
}
# On either side of what the check calls too large.
HEIGHTS = (LARGEST_HEIGHT, LARGEST_HEIGHT + 1)


@pytest.fixture(scope="module")
def verdicts(nvidia_builder: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """What the builder says to every graph, by case."""
    folder = tmp_path_factory.mktemp("verdicts")
    graphs = {case: (*graph, PROFILES) for case, graph in PASSING.items()}
    graphs |= {case: (nodes, constants, opset, PROFILES) for case, (nodes, constants, opset, _) in FAILING.items()}
    graphs |= {f"up to {height}": (*SQUARE, up_to(height)) for height in HEIGHTS}
    jobs = []
    for case, (nodes, constants, opset, profiles) in graphs.items():
        file = folder / f"{case}.onnx"
        file.write_bytes(graph_of(nodes, constants, opset).SerializeToString())
        jobs.append(Job(file, folder / case, "sm89", profile_options(SPEC, profiles)))
    return dict(zip(graphs, build(jobs), strict=True))


def graph_of(nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto], opset: int) -> onnx.ModelProto:
    """A graph of these nodes from x to y, as the check's own tests make it."""
    inputs, outputs = (
        [helper.make_tensor_value_info(item.name, TensorProto.FLOAT, list(item.dims)) for item in tensors]
        for tensors in (SPEC.inputs, SPEC.outputs)
    )
    graph = helper.make_graph(list(nodes), "graph", inputs, outputs, list(constants))
    domains = {"": opset} | {node.domain: 1 for node in nodes if node.domain}
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


@pytest.mark.parametrize("case", [case for case in FAILING if case not in BUILT_ALL_THE_SAME])
def test_what_the_check_refuses_is_not_built(case: str, verdicts: dict[str, Built]) -> None:
    assert verdicts[case].faults()


@pytest.mark.parametrize("case", BUILT_ALL_THE_SAME)
def test_what_is_built_all_the_same(case: str, verdicts: dict[str, Built]) -> None:
    assert verdicts[case].faults() == [], "no longer built: take it out of the list"


@pytest.mark.parametrize("case", PASSING)
def test_what_the_check_calls_ready_is_built(case: str, verdicts: dict[str, Built]) -> None:
    assert verdicts[case].faults() == []


def test_the_largest_tensor(verdicts: dict[str, Built]) -> None:
    taken, refused = (verdicts[f"up to {height}"] for height in HEIGHTS)
    assert taken.faults() == []
    assert any("tensor volume exceeds 1099511627776" in text for text in refused.faults())
