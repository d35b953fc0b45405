"""The options of ONNX Runtime's TensorRT provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.profiles import GraphProfile


def ort_tensorrt_options(
    spec: GraphSpec,
    profiles: Sequence[GraphProfile],
    *,
    precision: Precision = Precision.FP32,
    cache: Path | None = None,
) -> dict[str, str]:
    """The options of ONNX Runtime's TensorRT provider for a graph.

    For several profiles, each input is named several times, as the provider expects.

    Args:
        spec: the graph's signature.
        profiles: the graph's profiles, from `graph_profiles`.
        precision: the precision of the graph's types; with TensorRT 10 the provider needs a flag for 16-bit types.
        cache: the folder of the engines and the timing cache; None to keep neither.
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
    if precision.is_16_bit:
        options[f"trt_{precision}_enable"] = "1"
    if cache is not None:
        for kind in ("engine", "timing"):
            options |= {f"trt_{kind}_cache_enable": "1", f"trt_{kind}_cache_path": str(cache)}
    return options
