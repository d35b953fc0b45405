"""Random inputs of one graph, for the scripts that load a bundle's graphs with OpenVINO themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry


def graph_inputs(folder: Path, component: str, height: int, width: int) -> tuple[Path, dict[str, np.ndarray]]:
    """A float32 ONNX graph of a bundle, and random inputs for a picture in pixels; the UNet's batch is 2."""
    bundle = Bundle.open(folder)
    entry, geometry = bundle.component(component), Geometry.of(bundle.manifest)
    sizes = geometry.sizes(component, height, width)
    rng = np.random.default_rng(0)
    feeds = {tensor.name: rng.standard_normal(tensor.shape(sizes), dtype=np.float32) for tensor in entry.spec.inputs}
    if component == "unet":
        feeds["timestep"].fill(501)
    return bundle.paths(entry.variants["onnx-fp32"])["graph"], feeds
