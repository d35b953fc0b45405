"""What a rewrite did to a graph: the places it rewrote, and the candidates it left unchanged with the reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx


class Refused(Exception):
    """A candidate that a rewrite leaves unchanged; the text is the reason."""


@dataclass(frozen=True)
class Refusal:
    """A node that was left unchanged.

    Attributes:
        node: the node's name, or that of its first output if it has none.
        reason: the check that failed, with what was found and what was expected.
    """

    node: str
    reason: str


@dataclass
class Outcome:
    """What a rewrite did.

    Attributes:
        rewritten: the number of places that were rewritten.
        refusals: the candidates that were left unchanged, with the reasons.
    """

    rewritten: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def refuse(self, node: onnx.NodeProto, reason: object) -> None:
        """Note a candidate that is left unchanged."""
        self.refusals.append(Refusal(node.name or node.output[0], str(reason)))


def require(condition: bool, reason: str) -> None:
    """Raise Refused with this reason unless the condition holds."""
    if not condition:
        raise Refused(reason)


def require_inner(node: onnx.NodeProto, outputs: set[str]) -> None:
    """Raise Refused if a node makes an output of the graph, which must keep its name and its producer."""
    if made := outputs.intersection(node.output):
        raise Refused(f"it makes `{min(made)}`, an output of the graph")
