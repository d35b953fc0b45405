"""The pipeline of a row: as the setting says, with smaller tiles, or with graphs that round as a GPU would."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.quality.grid import Item
from kandinsky_export.comparison.runs import OpenPipeline, Pipeline, open_pipeline
from kandinsky_export.comparison.settings import Setting
from kandinsky_export.precision.ranges import plain_session
from kandinsky_runtime.bundle.bundle import MANIFEST, Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.manifest import INPAINT, FileEntry, Variant
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.tiles import Tiling
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.engines.registry import Selection
from kandinsky_runtime.errors import EngineUnavailable
from kandinsky_runtime.files import file_sha256
from kandinsky_runtime.prior.pipeline import PriorPipeline

_ROUNDED, _EXACT = "rounded", "onnx-fp32"


class _RoundingEngine(Engine):
    """ONNX Runtime without its graph optimisations, which would take the rounding out."""

    name = "rounding"
    library = "onnxruntime"
    distribution = "onnxruntime"
    variants: ClassVar[Mapping[str, str]] = {Precision.FP32: _ROUNDED}
    roles = ("graph",)

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        self._session = plain_session(files["graph"])

    def _run(self, feeds: Arrays) -> dict[str, Any]:
        wanted = [output.name for output in self.spec.outputs]
        return dict(zip(wanted, self._session.run(wanted, dict(feeds)), strict=True))

    def _release(self) -> None:
        del self._session


def opener(item: Item, scratch: Path) -> OpenPipeline:
    """What opens a row's pipeline; `scratch` is a folder for graphs that round."""

    def opened(bundle: Bundle, setting: Setting) -> Pipeline:
        if item.rounding is not None:
            return _rounding_pipeline(bundle, item.rounding, scratch)
        pipeline = open_pipeline(bundle, setting)
        if item.tile is not None and pipeline.tiling is not None:
            size, overlap = item.tile
            pipeline.tiling = Tiling(pipeline.geometry.factor, size, overlap)
        return pipeline

    return opened


def pipeline_for_checks(bundle: Bundle) -> Pipeline:
    """A pipeline that checks options of runs, and needs no engine of this machine for that; it cannot run."""
    return _rounding_engine(bundle)


def _rounding_pipeline(bundle: Bundle, rounding: str, scratch: Path) -> Pipeline:
    return _rounding_engine(_rounding_bundle(bundle, rounding, scratch))


def _rounding_engine(bundle: Bundle) -> Pipeline:
    graphs = Graphs(bundle, Selection(_RoundingEngine, Precision.FP32, _ROUNDED, "cpu"))
    kind = InpaintPipeline if INPAINT in bundle.manifest.tasks else GeneratePipeline
    return kind(graphs, Geometry.of(bundle.manifest), PriorPipeline(graphs))


def _rounding_bundle(bundle: Bundle, rounding: str, scratch: Path) -> Bundle:
    """The bundle in a folder of its own, whose one variant rounds; graphs without the low variant stay exact."""
    import onnx

    from kandinsky_export.graphs.rewrites.simulated_rounding import simulate_rounding

    variant, folder = f"onnx-{rounding}", scratch / f"rounded-{rounding}"
    if variant not in bundle.manifest.variants():
        raise EngineUnavailable(f"the bundle has no variant {variant}; export it again with --variants")
    _link(bundle, folder)
    components, files = {}, dict(bundle.manifest.files)
    for name, component in bundle.manifest.components.items():
        low = component.variants.get(variant)
        if low is None:
            components[name] = replace(
                component, variants={_ROUNDED: Variant(Precision.FP32, component.variants[_EXACT].files)}
            )
            continue
        path = f"{Path(low.files['graph']).parent}/rounded.onnx"
        model = onnx.load(str(folder / low.files["graph"]), load_external_data=False)
        simulate_rounding(model)
        onnx.save(model, str(folder / path))
        files[path] = FileEntry((folder / path).stat().st_size, file_sha256(folder / path))
        components[name] = replace(component, variants={_ROUNDED: Variant(Precision.FP32, {"graph": path})})
    return Bundle(folder, replace(bundle.manifest, components=components, files=files))


def _link(bundle: Bundle, folder: Path) -> None:
    """The bundle's files in another folder, by hard links where the file system has them."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in (MANIFEST, *bundle.manifest.files):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(bundle.root / path, target)
        except OSError:
            shutil.copy2(bundle.root / path, target)
