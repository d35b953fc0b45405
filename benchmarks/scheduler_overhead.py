"""What a step costs around the engine, per scheduler: latents of 768² pixels, one image, guidance.

    python benchmarks/scheduler_overhead.py [--json] [--steps 50] [--repeats 5]

The engine is a stand-in that returns a ready array, so what is timed is all else: scaling the model's input, mixing the
halves of guidance, drawing noise as torch does, the scheduler's step with its checks, and the forward process of the
kept area with the blend.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass

import numpy as np

from kandinsky_runtime.sampling import guidance, schedulers
from kandinsky_runtime.sampling.noise import TorchNoise

SHAPE = (1, 4, 96, 96)
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "steps_offset": 1}


@dataclass(frozen=True)
class Timing:
    """Microseconds a step, over all steps of all repeats."""

    scheduler: str
    whole_median: float
    whole_p90: float
    step_median: float
    step_p90: float


def measure(name: str, steps: int, repeats: int) -> Timing:
    """Time `repeats` trajectories of one scheduler, after one that is not counted."""
    config = {} if name == "unclip" else CONFIG
    wholes: list[float] = []
    parts: list[float] = []
    for repeat in range(repeats + 1):
        one_whole, one_part = _trajectory(schedulers.load(config, name), steps)
        if repeat:
            wholes += one_whole
            parts += one_part
    return Timing(
        name,
        *(float(np.percentile(times, share) * 1e6) for times in (wholes, parts) for share in (50, 90)),
    )


def _trajectory(scheduler: schedulers.Scheduler, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of every step: all around the engine, and the scheduler's `step` alone."""
    sampler = scheduler.sampler(steps, SHAPE)
    noise = TorchNoise(0)
    latents, original, known, drawn = (noise.draw(SHAPE) for _ in range(4))
    output = noise.draw((2, *SHAPE[1:]))
    mixed = np.empty(SHAPE, dtype=np.float32)
    keep = np.zeros(SHAPE, dtype=bool)
    keep[..., :48] = True
    first = latents.copy()
    whole, part = [], []
    for i in range(steps):
        start = time.perf_counter()
        sampler.scale_model_input(i, latents)
        guided = guidance.combine(output, 4.0, SHAPE[1], mixed)
        draw = noise.draw(SHAPE, drawn) if sampler.draws_noise(i) else None
        before = time.perf_counter()
        latents = sampler.step(i, guided, latents, draw)
        part.append(time.perf_counter() - before)
        np.copyto(latents, sampler.add_noise(i, original, first, known), where=keep)
        whole.append(time.perf_counter() - start)
    return whole, part


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--steps", type=int, default=50, help="steps of a trajectory (default 50)")
    parser.add_argument("--repeats", type=int, default=5, help="trajectories of each scheduler (default 5)")
    arguments = parser.parse_args()
    timings = [measure(name, arguments.steps, arguments.repeats) for name in schedulers.NAMES]
    machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    setting = {**machine, "numpy": np.__version__, "shape": SHAPE, "steps": arguments.steps}
    setting["repeats"] = arguments.repeats
    if arguments.json:
        print(json.dumps({**setting, "unit": "microseconds a step", "timings": [asdict(t) for t in timings]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    print(f"{'µs a step':<16}{'all, median':>12}{'p90':>8}{'step, median':>14}{'p90':>8}")
    for t in timings:
        print(f"{t.scheduler:<16}{t.whole_median:>12.0f}{t.whole_p90:>8.0f}{t.step_median:>14.0f}{t.step_p90:>8.0f}")


if __name__ == "__main__":
    main()
