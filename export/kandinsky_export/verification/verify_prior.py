"""Comparison of a prior with eager ppdiffusers: graphs at several batches and text lengths, and stored embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.parts import PRIOR_PARTS
from kandinsky_export.verification.prior_reference import PriorReference
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.manifest import PriorEntry
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.progress import ProgressBar

Arrays = Mapping[str, npt.NDArray[Any]]

NEGATIVE_EMBEDS = "negative_image_embeds"


@dataclass(frozen=True)
class PriorOracle:
    """Eager ppdiffusers' outputs for a prior's inputs.

    Attributes:
        feeds, expected: inputs and outputs, by component.
        stored_error: max-abs of the bundle's stored embeddings of an empty picture.
    """

    feeds: Mapping[str, Sequence[Arrays]]
    expected: Mapping[str, Sequence[Arrays]]
    stored_error: float

    def errors(self, bundle: Bundle, engine: str, precision: str) -> dict[str, float]:
        """Max-abs of each component on an engine over all inputs and outputs, and of the stored embeddings."""
        found = {}
        for component, feeds in self.feeds.items():
            with Graphs.open(bundle, engine, precision) as graphs:  # one graph in memory at a time
                outputs = [graphs.engine(component).run(item) for item in feeds]
            found[component] = max(
                float(np.abs(got[name] - want[name]).max())
                for got, want in zip(outputs, self.expected[component], strict=True)
                for name in want
            )
        return {**found, NEGATIVE_EMBEDS: self.stored_error}


def prior_entry(bundle: Bundle) -> PriorEntry:
    """The manifest's entry of the prior.

    Raises:
        UsageError: the bundle has no prior.
    """
    if bundle.manifest.prior is None:
        raise UsageError(f"{bundle.subject} has no prior: leave out --prior, or export the bundle again with one")
    return bundle.manifest.prior


def run_prior_reference(bundle: Bundle, prior: PriorCheckpoint, *, progress: bool = False) -> PriorOracle:
    """Run eager ppdiffusers on random inputs of the prior's graphs that the bundle has.

    Raises:
        BundleError: the file of stored embeddings is damaged.
        CheckpointError: the prior cannot be used, or is another build of the model than the bundle's.
        UsageError: the bundle has no prior.
    """
    stored = bundle.constants(prior_entry(bundle).constants)[NEGATIVE_EMBEDS]
    reference = PriorReference(prior)
    components = [name for name in PRIOR_PARTS if name in bundle.manifest.components]
    if faults := build_faults(bundle, {name: reference.signature(name) for name in components}):
        raise CheckpointError(str(prior.root), faults)
    feeds = {name: reference.feeds(name) for name in dict.fromkeys([*components, "image_encoder"])}
    expected = {}
    with ProgressBar(total=len(feeds), desc="ppdiffusers", leave=False, disable=not progress) as bar:
        for name, items in feeds.items():
            bar.set_postfix_str(name)
            expected[name] = reference.run(name, items)
            bar.update()
    empty = expected["image_encoder"][0]["image_embeds"]
    return PriorOracle({name: feeds[name] for name in components}, expected, float(np.abs(stored - empty).max()))


def build_faults(bundle: Bundle, signatures: Mapping[str, GraphSpec]) -> list[str]:
    """A fault for every tensor of the bundle's graphs that differs from `signatures`, the checkpoint's."""
    faults = []
    for name, made in signatures.items():
        has = bundle.component(name).spec
        for there, here in zip((*has.inputs, *has.outputs), (*made.inputs, *made.outputs), strict=True):
            if there != here:
                faults.append(f"{name} is another build of the model: {here}; the bundle has {there}")
    return faults
