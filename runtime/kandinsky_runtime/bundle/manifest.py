"""The bundle's manifest: a frozen, versioned description (docs/bundle.md). `manifest_reader` reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.errors import BundleError

MANIFEST = "manifest.json"
FORMAT = "kandinsky22-bundle"
SCHEMA = 1
COMPONENTS = ("unet", "movq_encoder", "movq_decoder")
PRIOR_COMPONENTS = ("text_encoder", "image_encoder", "prior")
INPAINT, TEXT_TO_IMAGE, IMAGE_TO_IMAGE = "inpaint", "text-to-image", "image-to-image"
PROMPT, PICTURE_PROMPT = "prompt", "picture-prompt"
TASKS = (INPAINT, TEXT_TO_IMAGE, IMAGE_TO_IMAGE, PROMPT, PICTURE_PROMPT)
TOKENIZER_ROLES = ("vocabulary", "merges")
NEEDED_COMPONENTS = {
    INPAINT: COMPONENTS,
    TEXT_TO_IMAGE: COMPONENTS,
    IMAGE_TO_IMAGE: COMPONENTS,
    PROMPT: ("text_encoder", "prior"),
    PICTURE_PROMPT: ("image_encoder",),
}
"""The graphs that each task runs."""

_AS_COMPUTED = Precision("")


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: its size and the sha256 of its content, in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Variant:
    """One compiled form of a component.

    Attributes:
        computed: the precision that the graph computes in.
        files: the path of each file by its role (`program`, `params`, `graph`, `weights`).
        numerics: for fp16 and bf16, the nodes that stay in float32 with the reasons, and what was measured
            (docs/bundle.md).
        stored: the precision of the stored weights, by default the one that is computed in.
    """

    computed: Precision
    files: Mapping[str, str]
    numerics: Mapping[str, Any] = field(default_factory=dict)
    stored: Precision = _AS_COMPUTED

    def __post_init__(self) -> None:
        object.__setattr__(self, "computed", Precision(self.computed))
        object.__setattr__(self, "stored", Precision(self.stored or self.computed))

    @property
    def fault(self) -> str | None:
        """Why this version cannot run it; None if it can."""
        for verb, precision in (("stored", self.stored), ("computed", self.computed)):
            if not precision.known:
                return f"it is {verb} in {precision!r}, which this version does not know: upgrade kandinsky22-deploy"
        return None

    def to_json(self) -> dict[str, Any]:
        """For JSON. `stored` is written only if it differs from `precision`, which older runtimes read alone."""
        stored = {} if self.stored == self.computed else {"stored": self.stored}
        return {"precision": self.computed, **stored, "files": dict(self.files), "numerics": _finite(self.numerics)}


@dataclass(frozen=True)
class Component:
    """A graph: its signature and its variants by name."""

    spec: GraphSpec
    variants: Mapping[str, Variant]

    def usable_variants(self) -> tuple[str, ...]:
        """The names of the variants that this version can run, in the manifest's order."""
        return tuple(name for name, variant in self.variants.items() if variant.fault is None)


@dataclass(frozen=True)
class PriorEntry:
    """What the prior needs in addition to its graphs.

    Attributes:
        scheduler: the prior's scheduler config, as published.
        tokenizer: the path of each of the tokenizer's files by its role, see `TOKENIZER_ROLES`.
        tokenizer_config: `model_max_length` and the special tokens.
        eos_token_id: the text model's end token; 2 means the position of the largest token, as in transformers.
        image_processor: the config of the picture encoder's preprocessing, as published.
        constants: the path of an `.npz` with `clip_mean`, `clip_std` and `negative_image_embeds`, each float32 (1, E).
    """

    scheduler: Mapping[str, Any]
    tokenizer: Mapping[str, str]
    tokenizer_config: Mapping[str, Any]
    eos_token_id: int
    image_processor: Mapping[str, Any]
    constants: str


@dataclass(frozen=True)
class Manifest:
    """The description of a bundle.

    Attributes:
        components: the graphs by name: all of `COMPONENTS`, and those of `PRIOR_COMPONENTS` that were exported.
        scheduler: the checkpoint's scheduler config, as published.
        files: every file except the manifest, by its path relative to the bundle, with `/`.
        source: the origin of the weights: `name`, `form`, and `files` with their sha256.
        written_by: the versions of the tools that wrote the bundle.
        parity: the figures of the last verification; empty before the first one.
        tasks: the bundle's tasks, see `TASKS`.
        prior: the prior's configs and files; None in a bundle without a prior.
    """

    components: Mapping[str, Component]
    scheduler: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    source: Mapping[str, Any] = field(default_factory=dict)
    written_by: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = (INPAINT,)
    prior: PriorEntry | None = None

    def variants(self, components: Iterable[str] = COMPONENTS) -> tuple[str, ...]:
        """The variants that a run of these graphs can use: each graph has them, and this version can run them.

        Args:
            components: the graphs that a task needs, by default the decoder's: a prior may have other variants.
        """
        columns = [self.components[name].usable_variants() for name in components]
        return tuple(name for name in columns[0] if all(name in column for column in columns))

    def digests(self, variant: Variant) -> dict[str, str]:
        """The sha256 of each of the variant's files by its role."""
        return {role: self.files[path].sha256 for role, path in variant.files.items()}

    def to_json(self) -> str:
        """The manifest's text. A measured figure that is NaN or infinite is null.

        Raises:
            BundleError: a config of the checkpoint has NaN or infinity.
        """
        data: dict[str, Any] = {"format": FORMAT, "schema": SCHEMA} | asdict(self)
        data["parity"] = _finite(data["parity"])
        for name, component in self.components.items():
            data["components"][name]["variants"] = {key: item.to_json() for key, item in component.variants.items()}
        try:
            return json.dumps(data, indent=1, allow_nan=False) + "\n"
        except ValueError as error:
            fault = "a config has NaN or infinity, which are no numbers of JSON: correct it in the checkpoint"
            raise BundleError(MANIFEST, [fault]) from error


def _finite(value: Any) -> Any:
    """Figures without NaN and infinity, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
