"""Engines with TensorRT inside (ONNX Runtime, Paddle Inference): how they use what `k22 build` recorded."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines import records
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.cuda import cuda_index
from kandinsky_runtime.engines.profiles import choose
from kandinsky_runtime.engines.records import BuildRecord

_log = logging.getLogger(__name__)


def record_of(
    engine: type[Engine], component: str, digests: Mapping[str, str], options: EngineOptions
) -> BuildRecord | None:
    """The record of a graph that was built for a GPU in the precision of `options`.

    None if there is no such record, or if it was made with another version of the library.

    Args:
        engine: the engine that runs the graph.
        component: the graph's name.
        digests: the sha256 of the graph's files by role.
        options: device and precision.
    """
    if cuda_index(options.device) is None or not digests:
        return None
    record = records.find(engine.name, component, digests)
    if record is None or record.precision != options.precision:
        return None
    now = {engine.distribution: engine.version()}
    if dict(record.made_with) != now:
        _log.warning(
            "%s on %s runs without TensorRT: it was built with %s, the installed one is %s: %s %s",
            component, engine.name, _listed(record.made_with), _listed(now), record.command, record.options,
        )  # fmt: skip
        return None
    return record


def check_shapes(subject: str, spec: GraphSpec, record: BuildRecord, feeds: Arrays) -> None:
    """Raise TensorError if no profile of the record takes the feeds: the library would silently build again."""
    shapes = {name: array.shape for name, array in feeds.items()}
    choose(subject, spec, record.profiles, shapes, record.command)


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
