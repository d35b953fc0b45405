"""TensorRT-RTX engines: a graph of a bundle, compiled for this GPU and the sizes of its profiles.

The result is an ONNX graph of one EPContext node, and the engine's file next to it, weights included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kandinsky_runtime.engines.build_job import BuildJob
from kandinsky_runtime.engines.compile_cache import ensure_entry
from kandinsky_runtime.engines.cuda import cuda_errors
from kandinsky_runtime.engines.onnxruntime.library import FATAL_ONLY
from kandinsky_runtime.engines.records import cache_subfolder
from kandinsky_runtime.engines.tensorrt_rtx.engine import CONTEXT
from kandinsky_runtime.engines.tensorrt_rtx.options import build_options
from kandinsky_runtime.engines.tensorrt_rtx.plugin import find_device, library, made_with
from kandinsky_runtime.errors import EngineError, Kandinsky22Error
from kandinsky_runtime.files import fingerprint

# A graph of one EPContext node has 1.3 KB; what is left outside the engine would be next to it.
_MAX_CONTEXT_BYTES = 4096


def build(job: BuildJob) -> bool:
    """Build an engine, unless the same one was built before, and record it.

    Returns:
        Whether it had to be built.

    Raises:
        EngineUnavailable: the plugin is not installed or too old, or there is no driver or no RTX GPU.
        EngineError: TensorRT-RTX cannot build it, or not as a whole.
        OSError: it cannot be written.
    """
    onnxruntime = library()
    device = find_device(onnxruntime, job.options.device)
    machine = made_with(onnxruntime, device)
    options = build_options(job.spec, job.profiles, job.weight_memory, job.workspace)
    name = fingerprint(
        {"files": dict(job.digests), "options": options, "precision": job.options.precision, "machine": machine}
    )

    def compile_into(draft: Path) -> None:
        _compile(onnxruntime, device, job, options, draft)

    missing = ensure_entry(cache_subfolder(job.engine.name), name, compile_into)
    job.record(name, machine).save(job.digests)
    return missing


def _compile(onnxruntime: Any, device: Any, job: BuildJob, options: dict[str, str], folder: Path) -> None:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = FATAL_ONLY  # what it would log of a failure is in the error, too
    context = folder / CONTEXT
    try:
        with cuda_errors(f"{job.component} on {job.engine.name}", job.options.device):
            settings.add_provider_for_devices([device], options)
            compiler = onnxruntime.ModelCompiler(
                settings, str(job.files["graph"]), embed_compiled_data_into_model=False
            )
            compiler.compile_to_file(str(context))
    except (Kandinsky22Error, OSError):
        raise
    except Exception as error:  # ONNX Runtime has a class of its own for each status
        text = " ".join(str(error).split())
        raise EngineError(
            f"TensorRT-RTX cannot build the engine of {job.component} ({text}): k22-export check BUNDLE lists what it"
            " cannot take"
        ) from error
    engines = [file for file in folder.iterdir() if file.name != CONTEXT]
    if len(engines) != 1 or context.stat().st_size > _MAX_CONTEXT_BYTES:
        raise EngineError(
            f"TensorRT-RTX made {len(engines)} engines of {job.component} and left a part of the graph outside;"
            " expected one engine: k22-export check BUNDLE lists what it cannot take"
        )
