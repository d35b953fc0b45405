"""One run's inputs of a graph, for the scripts that give a bundle's graphs to OpenVINO themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.engines.profiles import BATCH, HEIGHT, WIDTH


def graph_inputs(folder: Path, component: str, height: int, width: int) -> tuple[Path, dict[str, np.ndarray]]:
    """A float32 ONNX graph of a bundle, and made-up inputs for a picture in pixels; the UNet's batch is 2."""
    bundle = Bundle.open(folder)
    entry, geometry = bundle.component(component), Geometry.of(bundle.manifest)
    factor = 1 if component == "movq_encoder" else geometry.factor
    sizes = {BATCH: 2 if component == "unet" else 1, HEIGHT: height // factor, WIDTH: width // factor}
    rng = np.random.default_rng(0)
    feeds = {tensor.name: rng.standard_normal(tensor.shape(sizes), dtype=np.float32) for tensor in entry.spec.inputs}
    if component == "unet":
        feeds["timestep"] = np.full(2, 501, np.float32)
    return bundle.paths(entry.variants["onnx-fp32"])["graph"], feeds
