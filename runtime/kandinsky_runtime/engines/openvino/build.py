"""OpenVINO: compile a graph for fixed shapes ahead of time, and keep the result on disk."""

from __future__ import annotations

from kandinsky_runtime.engines.build_job import BuildJob, NotApplicable
from kandinsky_runtime.engines.openvino.engine import OpenVinoEngine
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.progress import ProgressBar


def build(job: BuildJob) -> bool:
    """Compile a graph for the fixed shapes of the job's profiles.

    Returns:
        Whether any of them had to be compiled.

    Raises:
        UsageError: a profile has a span, or there is no folder to keep anything in.
        NotApplicable: no size in pixels fixes the graph's shapes.
        EngineError: OpenVINO could not load or compile the graph.
        OSError: it cannot be written.
    """
    for profile in job.profiles:
        asked = profile.profile
        if not all(span.fixed for span in (asked.height, asked.width, asked.batch)):
            raise UsageError(
                f"engine openvino compiles fixed shapes; got {asked}: give single numbers; for several shapes, give an"
                " option several times"
            )
        if not all(span.fixed for span in profile.spans.values()):
            raise NotApplicable("it takes texts of any length, and is compiled at its first run")
    missing = False
    engine = OpenVinoEngine(job.component, job.spec, job.files, job.options, job.digests)
    with engine:
        for profile in ProgressBar(
            job.profiles, desc=f"building {job.component}", unit="shape", disable=not job.progress, leave=False
        ):
            missing |= engine.build(tuple(profile.shapes(tensor)[1] for tensor in job.spec.inputs))
    return missing
