"""The options of TensorRT-RTX's provider for ONNX Runtime.

https://nvidia.github.io/TensorRT-RTX-EP-ABI/_generated/provider-options.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.onnxruntime.tensorrt import ort_tensorrt_options
from kandinsky_runtime.engines.profiles import GraphProfile
from kandinsky_runtime.errors import UsageError

AUTOMATIC = "auto"

_BUDGET = re.compile(r"[1-9][0-9]{0,8}[KMG]|[0-9]{1,2}%|100%")


def check_weight_memory(text: str) -> str:
    """A budget of GPU memory for weights: "2G", "512M", "50%" or "auto".

    Raises:
        UsageError: it is something else.
    """
    if text != AUTOMATIC and not _BUDGET.fullmatch(text):
        raise UsageError(f"weight memory is {text!r}; expected a size such as 512M or 2G, a share such as 50%, or auto")
    return text


def profile_options(spec: GraphSpec, profiles: Sequence[GraphProfile]) -> dict[str, str]:
    """The options that give the provider a graph's profiles."""
    shapes = ort_tensorrt_options(spec, profiles)
    options = {f"nv_{name.removeprefix('trt_')}": text for name, text in shapes.items()}
    return options | _several(profiles)


def build_options(
    spec: GraphSpec, profiles: Sequence[GraphProfile], weight_memory: str | None = None, workspace: int | None = None
) -> dict[str, str]:
    """The options for building an engine.

    Args:
        spec: the graph's signature.
        profiles: the graph's profiles, from `graph_profiles`.
        weight_memory: see `check_weight_memory`; None keeps all weights in the GPU's memory.
        workspace: the bytes of GPU memory that the build may use; None for the library's choice.
    """
    options = profile_options(spec, profiles) | _streaming(weight_memory)
    if workspace is not None:
        options["nv_max_workspace_size"] = str(workspace)
    return options


def run_options(
    profiles: Sequence[GraphProfile], runtime_cache: Path, weight_memory: str | None = None
) -> dict[str, str]:
    """The options for running an engine.

    Args:
        profiles: the profiles that it was built for.
        runtime_cache: the folder of the kernels that the library compiles for this GPU when an engine is loaded.
        weight_memory: as the engine was built.
    """
    options = {"nv_runtime_cache_path": str(runtime_cache), "enable_cuda_graph": "1"}
    return options | _several(profiles) | _streaming(weight_memory)


def _several(profiles: Sequence[GraphProfile]) -> dict[str, str]:
    return {"nv_multi_profile_enable": "1"} if len(profiles) > 1 else {}


def _streaming(weight_memory: str | None) -> dict[str, str]:
    if weight_memory is None:
        return {}
    return {"nv_weight_streaming_budget": "-1" if weight_memory == AUTOMATIC else weight_memory}
