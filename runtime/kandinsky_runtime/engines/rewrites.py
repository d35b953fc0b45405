"""What a rewrite did to a graph: the places it rewrote, and the candidates it left unchanged with the reasons.

The engine's rewrites of an OpenVINO model and the exporter's of an ONNX model report in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
        keep_alive: objects whose memory the graph, and whatever is compiled of it, may read; none for an ONNX graph.
    """

    rewritten: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    keep_alive: list[Any] = field(default_factory=list)

    def refuse(self, node: str, reason: object) -> None:
        """Note a candidate that is left unchanged."""
        self.refusals.append(Refusal(node, str(reason)))


def require(condition: bool, reason: str) -> None:
    """Raise Refused with this reason unless the condition holds."""
    if not condition:
        raise Refused(reason)
