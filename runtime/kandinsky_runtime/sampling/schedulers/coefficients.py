"""A schedule as data: every step's coefficients, for programs that run a bundle without this package.

docs/running-a-bundle.md explains how to apply them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kandinsky_runtime.sampling.schedulers.base import Scheduler
from kandinsky_runtime.sampling.schedulers.limits import Clip

_PER_STEP = ("prediction", "update", "derivative", "corrector", "log_std", "forward")


def describe(scheduler: Scheduler, steps: int) -> dict[str, Any]:
    """The coefficients of a trajectory of `steps` steps, for JSON.

    Returns:
        `scheduler`, `init_noise_sigma`, `learned_variance`, the `limit` of predictions (null, clip or threshold), and
        `steps`. Each step has its `timestep`, `sigma`, `draws_noise`, `noise` (the standard deviation), `input_scale`,
        and the weights of `Table` that the method has.

    Raises:
        SchedulerError: the number of steps does not fit the options.
    """
    table, limit = scheduler.coefficients(steps), scheduler.limit()
    rows = []
    for i, timestep in enumerate(table.timesteps.tolist()):
        signal, spread = table.forward[i].tolist()
        row = {
            "timestep": timestep,
            "sigma": spread / signal if signal else None,
            "draws_noise": bool(table.draws[i]),
            "noise": float(table.noise[i]),
            "input_scale": None if table.input_scale is None else float(table.input_scale[i]),
        }
        for name in _PER_STEP:
            weights = getattr(table, name)
            row[name] = None if weights is None else weights[i].tolist()
        rows.append(row)
    described: dict[str, Any] | None = None
    if limit is not None:
        described = {"kind": "clip" if isinstance(limit, Clip) else "threshold", **vars(limit)}
    return {
        "scheduler": scheduler.class_name,
        "init_noise_sigma": float(table.init_noise_sigma),
        "learned_variance": table.learns_variance,
        "limit": described,
        "steps": rows,
    }


def as_text(data: Mapping[str, Any]) -> str:
    """The data of `describe` as a table of timesteps, noise levels, deviations of the noise, and update weights."""
    lines = [
        f"{data['scheduler']}, {len(data['steps'])} steps, first latents times {data['init_noise_sigma']:.6g}",
        f"{'step':>4} {'timestep':>9} {'sigma':>10} {'noise':>10}  update",
    ]
    for number, row in enumerate(data["steps"], start=1):
        sigma = "infinite" if row["sigma"] is None else f"{row['sigma']:.5g}"
        noise = f"{row['noise']:.5g}" if row["draws_noise"] else "-"
        weights = row["update"] if row["update"] is not None else row["derivative"]
        update = " ".join(f"{weight:+.6g}" for weight in np.asarray(weights).tolist())
        lines.append(f"{number:>4} {row['timestep']:>9g} {sigma:>10} {noise:>10}  {update}")
    return "\n".join(lines)
