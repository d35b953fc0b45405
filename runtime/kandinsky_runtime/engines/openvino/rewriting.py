"""How every rewrite of an `openvino.Model` works: find candidates, check each one, rewrite those that pass.

A rewrite leaves a candidate unchanged if a check fails, and reports the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Match = TypeVar("Match")


class Refused(Exception):
    """A candidate that a rewrite leaves unchanged; the text is the reason."""


@dataclass(frozen=True)
class Refusal:
    """A node that was left unchanged.

    Attributes:
        node: the node's name.
        reason: the check that failed, with what was found and what was expected.
    """

    node: str
    reason: str


@dataclass
class Outcome:
    """What a rewrite did to a graph.

    Attributes:
        rewritten: the number of places that were rewritten.
        refusals: the candidates that were left unchanged, with the reasons.
        keep_alive: objects whose memory the graph, and whatever is compiled of it, may read.
    """

    rewritten: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    keep_alive: list[Any] = field(default_factory=list)


def require(condition: bool, reason: str) -> None:
    """Raise Refused with this reason unless the condition holds."""
    if not condition:
        raise Refused(reason)


def rewrite_graph(
    model: Any,
    is_candidate: Callable[[Any], bool],
    check: Callable[[Any], Match],
    rewrite: Callable[[Match], object],
) -> Outcome:
    """Rewrite an `openvino.Model` in place. All candidates are checked before the first one is rewritten.

    Args:
        model: the graph.
        is_candidate: the pattern: whether a node may be worth rewriting.
        check: a function from a candidate to what `rewrite` needs; it raises Refused to leave the candidate unchanged.
        rewrite: a function that changes the graph. What it returns is kept alive, if it is not None.
    """
    outcome, matches = Outcome(), []
    for node in filter(is_candidate, model.get_ordered_ops()):
        try:
            matches.append(check(node))
        except Refused as refusal:
            outcome.refusals.append(Refusal(node.get_friendly_name(), str(refusal)))
    outcome.keep_alive = [result for match in matches if (result := rewrite(match)) is not None]
    outcome.rewritten = len(matches)
    model.validate_nodes_and_infer_types()
    return outcome
