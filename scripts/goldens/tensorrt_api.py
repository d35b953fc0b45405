"""Write the names and signatures of the Python bindings of TensorRT and of the CUDA runtime to a table.

The tests build fakes of both from this table, so that a call that the vendor's bindings would refuse fails on a machine
without them. Run the script once for each version, on a machine that can import both. No GPU is needed, and the
signatures do not depend on the libraries behind the bindings:

    python scripts/goldens/tensorrt_api.py tests/golden/tensorrt_api.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

CLASSES = (
    "Builder", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "ILogger", "INetworkDefinition",
    "IOptimizationProfile", "IProgressMonitor", "ITimingCache", "OnnxParser", "OnnxParserRefitter", "ParserError",
    "Refitter", "Runtime",
)  # fmt: skip
ENUMS = (
    "BuilderFlag", "DataType", "ExecutionContextAllocationStrategy", "MemoryPoolType", "NetworkDefinitionCreationFlag",
)  # fmt: skip
FUNCTIONS = (
    "cudaFree", "cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaGetErrorString", "cudaGraphDestroy",
    "cudaGraphExecDestroy", "cudaGraphInstantiate", "cudaGraphLaunch", "cudaMalloc", "cudaMemcpyAsync", "cudaSetDevice",
    "cudaStreamBeginCapture", "cudaStreamCreate", "cudaStreamDestroy", "cudaStreamEndCapture", "cudaStreamSynchronize",
)  # fmt: skip
CUDA_ENUMS = ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode")


def tensorrt_table(library: Any) -> dict[str, Any]:
    """The methods with their signatures, the properties ("r" or "rw"), and the members of enumerations."""
    return {
        "classes": {name: _class(getattr(library, name)) for name in CLASSES},
        "enums": {name: sorted(getattr(library, name).__members__) for name in ENUMS},
    }


def cuda_table(cudart: Any) -> dict[str, Any]:
    """The arguments of each function, and the members of enumerations."""
    return {
        "functions": {name: _arguments(getattr(cudart, name)) for name in FUNCTIONS},
        "enums": {name: sorted(getattr(cudart, name).__members__) for name in CUDA_ENUMS},
    }


def _class(vendor: type) -> dict[str, Any]:
    methods, properties = {}, {}
    for name, member in vars(vendor).items():
        if name.startswith(("__", "add_")) and name not in ("__init__", "add_optimization_profile"):
            continue  # the project builds networks with the ONNX parser, not layer by layer
        if isinstance(member, property):
            properties[name] = "rw" if member.fset else "r"
        elif found := re.findall(rf"^(?:[0-9]+\. )?{re.escape(name)}(\(self: .*)$", member.__doc__ or "", re.MULTILINE):
            methods[name] = [
                re.sub(r"\b(?:tensorrt(?:_bindings)?\.)+|\bnv\w+::(?:v_1_0::)?", "", text) for text in found
            ]
    return {"methods": dict(sorted(methods.items())), "properties": dict(sorted(properties.items()))}


def _arguments(function: Any) -> list[str]:
    head = re.search(r"\((.*?)\)", function.__doc__ or "")
    parts = [part for part in (head[1] if head else "").split(",") if part.strip()]
    return [part.partition(":")[0].split()[-1] for part in parts]


def main(path: Path) -> None:
    """Add the versions that can be imported on this machine to the table."""
    table = json.loads(path.read_text()) if path.exists() else {"tensorrt": {}, "cuda": {}}
    try:
        import tensorrt
    except ImportError:
        pass
    else:
        table["tensorrt"][tensorrt.__version__] = tensorrt_table(tensorrt)
    try:
        import cuda.bindings
        from cuda.bindings import runtime
    except ImportError:
        pass
    else:
        table["cuda"][cuda.bindings.__version__] = cuda_table(runtime)
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
