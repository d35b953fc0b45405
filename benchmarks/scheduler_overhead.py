"""The cost of a step outside the engine, for each scheduler: latents of 768² pixels, one result, guidance.

    python benchmarks/scheduler_overhead.py [--json] [--steps 50] [--repeats 5]

The runtime's own trajectory and UNet are driven; only the engine is replaced, by one that returns a ready array. The
time is that of everything else: filling the UNet's inputs, combining the halves of guidance, drawing noise as torch
does, the scheduler's step with its checks, and putting back the kept area.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kandinsky_runtime import SCHEDULERS
from kandinsky_runtime.decoder.kept_area import KeptArea
from kandinsky_runtime.decoder.trajectory import Trajectory
from kandinsky_runtime.decoder.unet import UNet
from kandinsky_runtime.observers import RunObserver
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.noise import TorchNoise

SHAPE, EMBEDDING = (1, 4, 96, 96), 1280
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "steps_offset": 1}


@dataclass(frozen=True)
class Timing:
    """Microseconds a step, over all steps of all repeats."""

    scheduler: str
    median: float
    p90: float


class ReadyGraphs:
    """Graphs whose UNet returns one array, whatever it is given."""

    low_memory = False

    def __init__(self) -> None:
        self._output = {"noise_pred": TorchNoise(1).draw((2, 2 * SHAPE[1], *SHAPE[2:]))}

    def engine(self, component: str) -> ReadyGraphs:
        """The engine of a component."""
        return self

    def run(self, feeds: Any, *, during: str = "") -> dict[str, np.ndarray]:
        """The ready array."""
        return self._output


def measure(name: str, steps: int, repeats: int) -> Timing:
    """Time `repeats` trajectories of one scheduler, after one that is not counted."""
    times = [seconds for repeat in range(repeats + 1) for seconds in seconds_per_step(name, steps) if repeat]
    return Timing(name, *(float(np.percentile(times, share) * 1e6) for share in (50, 90)))


def seconds_per_step(name: str, steps: int) -> list[float]:
    """The seconds of every step of one trajectory."""
    sampler = schedulers.load({} if name == "unclip" else CONFIG, name).sampler(steps, SHAPE)
    noise = TorchNoise(0)
    first, original = noise.draw(SHAPE), noise.draw(SHAPE)
    keep = np.zeros((1, 1, *SHAPE[2:]), np.float32)
    keep[..., :48] = 1
    kept = KeptArea(original, keep, first, sampler)
    embeds = TorchNoise(2).draw((2, 1, EMBEDDING))
    unet = UNet(ReadyGraphs(), SHAPE, embeds[0], embeds[1], kept.channels, steps=steps)  # type: ignore[arg-type]
    trajectory = Trajectory(sampler, first.copy(), noise, guidance_scale=4.0, kept=kept, observer=RunObserver())
    times = []
    while not trajectory.done:
        start = time.perf_counter()
        step = trajectory.feed()
        trajectory.accept(unet.predict(step.i, step.latents, step.timestep, step.guided))
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--steps", type=int, default=50, help="steps of a trajectory (default: 50)")
    parser.add_argument("--repeats", type=int, default=5, help="trajectories of each scheduler (default: 5)")
    arguments = parser.parse_args()
    timings = [measure(name, arguments.steps, arguments.repeats) for name in SCHEDULERS]
    setting = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "shape": SHAPE,
        "steps": arguments.steps,
        "repeats": arguments.repeats,
    }
    if arguments.json:
        print(json.dumps({**setting, "unit": "microseconds a step", "timings": [asdict(t) for t in timings]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    print(f"{'µs a step':<16}{'median':>10}{'p90':>8}")
    for timing in timings:
        print(f"{timing.scheduler:<16}{timing.median:>10.0f}{timing.p90:>8.0f}")


if __name__ == "__main__":
    main()
