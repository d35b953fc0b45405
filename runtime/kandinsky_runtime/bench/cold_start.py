"""The time from nothing to the first denoising step, measured in a process of its own.

The parent starts `python -m kandinsky_runtime.bench.cold_start` and hands it a job as JSON on stdin. It reads moments
of the system's clock as JSON from its stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kandinsky_runtime.errors import Kandinsky22Error


@dataclass(frozen=True)
class ColdStartJob:
    """The process's task; the fields are those of `BenchPlan`."""

    bundle: str
    engine: str
    precision: str
    device: str | None
    threads: int | None
    height: int
    width: int
    seed: int


@dataclass(frozen=True)
class ColdStart:
    """Seconds from the process's start, with the files in the system's cache, and the memory of one engine alone.

    Attributes:
        first_step_begins: when the first step begins to compute, with its graph loaded or compiled. It is the end of
            the first step, less the duration of the second.
        first_step_ends: when the first step is done.
        peak_bytes: the largest resident memory of the process over a run of two steps; None if the system does not
            report it.
    """

    first_step_begins: float
    first_step_ends: float
    peak_bytes: int | None


def measure(job: ColdStartJob) -> ColdStart:
    """Run a job in a fresh process.

    Raises:
        Kandinsky22Error: it failed; the message has the reason.
    """
    environment = os.environ | {"PYTHONSAFEPATH": "1"}  # no file of the current folder is taken for a module
    started = time.time()
    process = subprocess.run(
        [sys.executable, "-m", "kandinsky_runtime.bench.cold_start"],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    result = _last_object(process.stdout)
    if process.returncode or "first_step_ends" not in result:
        reason = result.get("error") or process.stderr.strip()[-500:] or f"exit status {process.returncode}"
        raise Kandinsky22Error(f"the cold start of engine {job.engine} failed: {reason}")
    return ColdStart(
        result["first_step_begins"] - started, result["first_step_ends"] - started, result.get("peak_bytes")
    )


def peak_memory() -> int | None:
    """The largest resident memory of this process so far, in bytes; None if the system does not report it."""
    try:  # Linux's getrusage reports at least the parent's figure from before it started this process
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _last_object(text: str) -> Mapping[str, Any]:
    """The JSON object in the last line; a library may have printed before it."""
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return found if isinstance(found, dict) else {}


def _run(job: ColdStartJob) -> dict[str, Any]:
    from kandinsky_runtime.bench.inputs import random_inputs
    from kandinsky_runtime.decoder.inpaint import InpaintPipeline

    ends: list[float] = []

    def at_end(*_: object) -> None:
        ends.append(time.time())

    with InpaintPipeline.load(job.bundle, job.engine, job.precision, job.device, job.threads) as pipeline:
        inputs = random_inputs(pipeline.geometry.embed_width, job.height, job.width, job.seed)
        pipeline(**inputs, num_inference_steps=2, callback_on_step_end=at_end)
    first, second = ends
    return {
        "first_step_begins": first - (second - first),
        "first_step_ends": first,
        "peak_bytes": peak_memory(),
    }


def main() -> int:
    """Run the job on stdin; returns the exit status."""
    try:
        result = _run(ColdStartJob(**json.load(sys.stdin)))
    except Kandinsky22Error as error:
        result = {"error": str(error)}
    sys.stdout.write("\n" + json.dumps(result) + "\n")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
