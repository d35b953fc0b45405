"""The options of ONNX Runtime's TensorRT provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.profiles import GraphProfile


def ort_tensorrt_options(
    spec: GraphSpec, profiles: Sequence[GraphProfile], *, precision: str = "fp32", cache: Path | None = None
) -> dict[str, str]:
    """The options of ONNX Runtime's TensorRT provider for a graph.

    Several profiles are the same input named several times, as the provider reads it.

    Args:
        spec: the graph's signature.
        profiles: of `graph_profiles`.
        precision: the types in the graph; TensorRT 10's networks of this provider need a flag for the short ones.
        cache: the folder that keeps the engines and the timing cache; None keeps nothing.
    """
    points = {"min": 0, "opt": 1, "max": 2}
    options = {
        f"trt_profile_{point}_shapes": ",".join(
            f"{tensor.name}:{'x'.join(map(str, profile.shapes(tensor)[number]))}"
            for profile in profiles
            for tensor in spec.inputs
        )
        for point, number in points.items()
    }
    if precision != "fp32":
        options[f"trt_{precision}_enable"] = "1"
    if cache is not None:
        for kind in ("engine", "timing"):
            options |= {f"trt_{kind}_cache_enable": "1", f"trt_{kind}_cache_path": str(cache)}
    return options
