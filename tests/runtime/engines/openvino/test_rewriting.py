"""The order of a rewrite's steps, on a fake graph; the rewrites themselves are tested in tests/parity/openvino."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from kandinsky_runtime.engines.openvino.rewriting import rewrite_graph
from kandinsky_runtime.engines.rewrites import Refusal, Refused, require


@dataclass
class Node:
    name: str
    value: int

    def get_friendly_name(self) -> str:
        return self.name


@dataclass
class Model:
    nodes: list[Node]
    events: list[str] = field(default_factory=list)

    def get_ordered_ops(self) -> list[Node]:
        return list(self.nodes)

    def validate_nodes_and_infer_types(self) -> None:
        self.events.append("validate")


def rewritten(model: Model, returned: Any = None) -> Any:
    def check(node: Node) -> Node:
        model.events.append(f"check {node.name}")
        require(node.value > 1, f"its value is {node.value}; expected more than 1")
        return node

    def rewrite(node: Node) -> Any:
        model.events.append(f"rewrite {node.name}")
        model.nodes.remove(node)
        return returned

    return rewrite_graph(model, lambda node: node.value > 0, check, rewrite)


def test_candidates_are_checked_before_any_is_rewritten() -> None:
    model = Model([Node("a", 2), Node("b", 0), Node("c", 1), Node("d", 3)])
    outcome = rewritten(model)
    assert model.events == ["check a", "check c", "check d", "rewrite a", "rewrite d", "validate"]
    assert outcome.rewritten == 2
    assert outcome.refusals == [Refusal("c", "its value is 1; expected more than 1")]
    assert outcome.keep_alive == []


def test_what_a_rewrite_returns_is_kept_alive() -> None:
    weights = object()
    assert rewritten(Model([Node("a", 2), Node("b", 1), Node("c", 2)]), weights).keep_alive == [weights, weights]


def test_a_graph_without_candidates() -> None:
    model = Model([Node("a", 0)])
    outcome = rewritten(model)
    assert (outcome.rewritten, outcome.refusals, outcome.keep_alive) == (0, [], [])


def test_other_errors_pass() -> None:
    def fail(node: Node) -> Node:
        raise RuntimeError("a fault of the library")

    with pytest.raises(RuntimeError, match="a fault of the library"):
        rewrite_graph(Model([Node("a", 1)]), lambda node: True, fail, lambda node: None)


def test_require() -> None:
    require(True, "unused")
    with pytest.raises(Refused, match="^the reason$"):
        require(False, "the reason")
