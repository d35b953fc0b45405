"""OpenVINO: compile shapes ahead of time into its own cache, on the devices that have one."""

from __future__ import annotations

from kandinsky_runtime.build.job import Job
from kandinsky_runtime.engines.openvino import CACHED_DEVICES, OpenVinoEngine
from kandinsky_runtime.errors import UsageError


def build(job: Job) -> bool:
    """Compile a graph for the fixed shapes of the job's profiles.

    Returns:
        True: whether a shape was in the cache already, OpenVINO does not tell.

    Raises:
        UsageError: the device keeps nothing compiled, or a profile has a span.
        EngineError: OpenVINO could not load or compile the graph.
    """
    device = job.options.device
    if device.upper() not in CACHED_DEVICES:
        raise UsageError(
            f"engine openvino keeps nothing compiled for the {device}: compiling takes less time there than reading the"
            " result back (docs/engines.md), so there is nothing to build"
        )
    for profile in job.profiles:
        if not all(span.fixed for span in profile.spans.values()):
            raise UsageError(
                f"engine openvino compiles fixed shapes; got {profile.profile}: give single numbers, and an option"
                " several times for several shapes"
            )
    engine = OpenVinoEngine(job.component, job.spec, job.files, job.options, job.digests)
    with engine:
        for profile in job.profiles:
            engine.compile(tuple(profile.shapes(tensor)[1] for tensor in job.spec.inputs))
    return True
