"""The inputs of one UNet step, for the scripts that give a bundle's graph to OpenVINO themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kandinsky_runtime.build.profiles import BATCH, HEIGHT, WIDTH
from kandinsky_runtime.bundle import Bundle
from kandinsky_runtime.geometry import Geometry


def unet_step(folder: Path, height: int, width: int) -> tuple[Path, dict[str, np.ndarray]]:
    """The float32 ONNX graph of a bundle's UNet, and made-up inputs: a guidance batch of 2 for a picture in pixels."""
    bundle = Bundle.open(folder)
    component, geometry = bundle.component("unet"), Geometry.of(bundle.manifest)
    sizes = {BATCH: 2, HEIGHT: height // geometry.factor, WIDTH: width // geometry.factor}
    rng = np.random.default_rng(0)
    feeds = {
        tensor.name: rng.standard_normal(tensor.shape(sizes), dtype=np.float32) for tensor in component.spec.inputs
    }
    feeds["timestep"] = np.full(2, 501, np.float32)
    return bundle.paths(component.variants["onnx-fp32"])["graph"], feeds
