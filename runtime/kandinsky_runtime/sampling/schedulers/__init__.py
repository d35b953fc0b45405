"""Denoising methods, from the config that diffusers stores with a checkpoint.

    scheduler = load(config, "dpm++")             the method, with checked options
    sampler = scheduler.sampler(50, shape)        one trajectory: coefficients and buffers
    for i, timestep in enumerate(sampler.timesteps):
        output = model(sampler.scale_model_input(i, latents), timestep)
        latents = sampler.step(i, output, latents, draw() if sampler.draws_noise(i) else None)

A config that was written for one method also loads another. Options that only the first method has are ignored, and
missing options take the defaults of the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling.schedulers.base import Scheduler
from kandinsky_runtime.sampling.schedulers.config import explicit_options
from kandinsky_runtime.sampling.schedulers.ddim import DDIM
from kandinsky_runtime.sampling.schedulers.ddpm import DDPM
from kandinsky_runtime.sampling.schedulers.dpm_solver import DPMSolver
from kandinsky_runtime.sampling.schedulers.euler import Euler
from kandinsky_runtime.sampling.schedulers.euler_ancestral import EulerAncestral
from kandinsky_runtime.sampling.schedulers.names import near, short_name
from kandinsky_runtime.sampling.schedulers.sampler import Sampler
from kandinsky_runtime.sampling.schedulers.unclip import UnCLIP
from kandinsky_runtime.sampling.schedulers.unipc import UniPC

__all__ = ["SCHEDULERS", "Sampler", "Scheduler", "load"]

# Short name → the method, and the options that the name sets.
_METHODS: Mapping[str, tuple[type[Scheduler], Mapping[str, Any]]] = {
    "ddpm": (DDPM, {}),
    "ddim": (DDIM, {}),
    "dpm++": (DPMSolver, {}),
    "dpm++karras": (DPMSolver, {"use_karras_sigmas": True}),
    "dpm++sde": (DPMSolver, {"algorithm_type": "sde-dpmsolver++"}),
    "dpm++sde-karras": (DPMSolver, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    "unipc": (UniPC, {}),
    "euler": (Euler, {}),
    "euler-a": (EulerAncestral, {}),
    "unclip": (UnCLIP, {}),
}

SCHEDULERS = tuple(_METHODS)

_CLASSES = {method.class_name: method for method, _ in _METHODS.values()}


def load(config: Mapping[str, Any], name: str | None = None) -> Scheduler:
    """The scheduler that `config` describes, or the scheduler `name` with the options of `config`.

    Args:
        config: a diffusers scheduler config.
        name: one of `SCHEDULERS`, a name as people know it (see `names`), or a diffusers class name; None takes the
            config's `_class_name`.

    Raises:
        SchedulerError: the name is unknown, or an option is unknown, unsupported or has a bad value.
    """
    wanted = config.get("_class_name") if name is None else name
    if isinstance(name, str) and name not in _CLASSES:
        wanted = short_name(name, SCHEDULERS) or name
    if isinstance(wanted, str) and wanted in _METHODS:
        method, overrides = _METHODS[wanted]
        return method({**explicit_options(config), **overrides})
    if isinstance(wanted, str) and wanted in _CLASSES:
        return _CLASSES[wanted](config)
    fault = "the scheduler config has no `_class_name`" if wanted is None else f"scheduler {wanted!r} is not supported"
    if isinstance(wanted, str) and (alike := near(wanted, SCHEDULERS)):
        fault += f"; near to it: {', '.join(alike)}"
    raise SchedulerError(f"{fault}; choose one of {', '.join(SCHEDULERS)}, or {', '.join(_CLASSES)}")
