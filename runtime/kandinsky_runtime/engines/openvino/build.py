"""OpenVINO: what it compiles of a graph for fixed shapes, kept on disk ahead of time."""

from __future__ import annotations

from tqdm import tqdm

from kandinsky_runtime.engines.build_job import Job, LeftOut
from kandinsky_runtime.engines.openvino.engine import OpenVinoEngine
from kandinsky_runtime.errors import UsageError


def build(job: Job) -> bool:
    """Compile a graph for the fixed shapes of the job's profiles.

    Returns:
        Whether any of them was not kept yet.

    Raises:
        UsageError: a profile has a span, or there is no folder to keep anything in.
        LeftOut: no size that was asked for fixes the graph's shapes.
        EngineError: OpenVINO could not load or compile the graph.
        OSError: it cannot be written.
    """
    for profile in job.profiles:
        asked = profile.profile
        if not all(span.fixed for span in (asked.height, asked.width, asked.batch)):
            raise UsageError(
                f"engine openvino compiles fixed shapes; got {asked}: give single numbers, and an option several times"
                " for several shapes"
            )
        if not all(span.fixed for span in profile.spans.values()):
            raise LeftOut("it takes texts of any length, and is compiled at its first run")
    missing = False
    engine = OpenVinoEngine(job.component, job.spec, job.files, job.options, job.digests)
    with engine:
        for profile in tqdm(
            job.profiles, desc=f"building {job.component}", unit="shape", disable=not job.progress, leave=False
        ):
            missing |= engine.build(tuple(profile.shapes(tensor)[1] for tensor in job.spec.inputs))
    return missing
