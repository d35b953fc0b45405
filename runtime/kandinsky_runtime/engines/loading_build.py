"""Engines that build while they load: ONNX Runtime with its TensorRT provider, and Paddle Inference with TensorRT.

The record states the profiles; the engine reads it when it loads a graph, and keeps its files in the record's folder.
"""

from __future__ import annotations

from kandinsky_runtime.engines import records
from kandinsky_runtime.engines.build_job import Job
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.files import fingerprint


def build(job: Job) -> bool:
    """Load a graph once, for the profiles of the job.

    Returns:
        Whether it was the first time with these profiles and this version.

    Raises:
        UsageError: the device is the CPU, for which these engines build nothing.
        EngineError: the engine could not load the graph; nothing is recorded.
        OSError: the record cannot be written.
    """
    if job.options.device == "cpu":
        raise UsageError(
            f"engine {job.engine.name} builds nothing for the CPU: it takes any shape there; on a GPU, --device cuda"
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
