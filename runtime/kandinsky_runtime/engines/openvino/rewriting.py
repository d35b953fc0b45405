"""How every rewrite of an `openvino.Model` works: find candidates, check each one, rewrite those that pass.

A rewrite leaves a candidate unchanged if a check fails, and reports the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kandinsky_runtime.engines.rewrites import Outcome, Refused

Match = TypeVar("Match")


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
            outcome.refuse(node.get_friendly_name(), refusal)
    outcome.keep_alive = [result for match in matches if (result := rewrite(match)) is not None]
    outcome.rewritten = len(matches)
    model.validate_nodes_and_infer_types()
    return outcome
