"""Engines that build while they load: ONNX Runtime with its TensorRT provider, and Paddle Inference with TensorRT.

A record holds the profiles. The engine reads it when it loads a graph, and keeps its files in the record's folder.
"""

from __future__ import annotations

from kandinsky_runtime.engines import records
from kandinsky_runtime.engines.build_job import BuildJob
from kandinsky_runtime.engines.cuda import cuda_index
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.files import fingerprint


def build(job: BuildJob) -> bool:
    """Load a graph once, with the profiles of the job.

    Returns:
        Whether this was the first time with these profiles and this version.

    Raises:
        UsageError: the device is the CPU, for which these engines build nothing.
        EngineError: the engine could not load the graph. No record is left.
        OSError: the record cannot be written.
    """
    if cuda_index(job.options.device) is None:
        raise UsageError(
            f"engine {job.engine.name} builds nothing for the CPU, where it takes any shape; for a GPU, give"
            " --device cuda"
        )
    version = job.engine.version()
    entry = fingerprint(
        {
            "files": dict(job.digests),
            "shapes": [{tensor.name: profile.shapes(tensor) for tensor in job.spec.inputs} for profile in job.profiles],
            "precision": job.options.precision,
            "version": version,
        }
    )
    earlier = records.find(job.engine.name, job.component, job.digests)
    job.record(entry, {job.engine.distribution: version}).save(job.digests)
    try:
        job.engine(job.component, job.spec, job.files, job.options, job.digests).close()
    except BaseException:
        records.forget(job.engine.name, job.component, job.digests)
        raise
    return earlier is None or earlier.entry != entry
