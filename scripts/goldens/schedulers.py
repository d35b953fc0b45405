"""Golden arrays of the schedulers and of torch's noise, from the newest diffusers and torch.

    python scripts/goldens/schedulers.py tests/golden

writes schedulers.npz, late_starts.npz and torch_randn.npz to the folder. Only `main` needs torch and diffusers. The
tests import the cases and the fake model from here, so that both sides run the same.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

SHAPE = (2, 4, 3, 2)
"""The shape of the latents."""

STEPS = (2, 5, 20, 50, 150)
SPACINGS = ("leading", "linspace", "trailing")
PREDICTIONS = ("epsilon", "sample", "v_prediction")

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "steps_offset": 1}
"""The noise schedule of the decoder."""

DIFFUSERS_CLASSES = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "unclip": "UnCLIPScheduler",
}


@dataclass(frozen=True)
class Case:
    """One trajectory.

    Attributes:
        method: a name of `DIFFUSERS_CLASSES`.
        steps: the number of steps.
        options: the scheduler config.
        first: the first step. If it is above 0, the trajectory begins with noised clean latents, as in image-to-image.
    """

    method: str
    steps: int
    options: tuple[tuple[str, Any], ...]
    first: int = 0

    @property
    def config(self) -> dict[str, Any]:
        """The scheduler config, with lists in place of tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.options}

    @property
    def name(self) -> str:
        """A unique, readable name."""
        options = ",".join(
            f"{name}={_short(value)}" for name, value in self.options if (name, value) not in _OMITTED_IN_NAMES
        )
        first = f"-from{self.first}" if self.first else ""
        return f"{self.method}-{self.steps}{first}[{options}]"


_OMITTED_IN_NAMES = frozenset(LATENT.items())


def _short(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple) and len(value) > 3 else str(value)


def cases() -> list[Case]:
    """All trajectories that begin at step 0, in the order of their file."""
    return list(dict.fromkeys([*_matrix(), *_options()]))


def late_cases() -> list[Case]:
    """Trajectories that begin at a later step, in the order of their file."""
    cases = [
        case
        for method, options in (
            ("ddpm", {}),
            ("ddpm", {"variance_type": "learned_range"}),
            ("ddim", {}),
            ("dpm++", {}),
            ("dpm++", {"solver_order": 3, "timestep_spacing": "leading"}),
            ("dpm++", {"algorithm_type": "sde-dpmsolver++"}),
            ("dpm++", {"use_karras_sigmas": True}),
            ("unipc", {}),
            ("unipc", {"solver_order": 3, "timestep_spacing": "leading"}),
            ("unipc", {"disable_corrector": (0, 8)}),
            ("euler", {}),
            ("euler", {"timestep_spacing": "leading"}),
            ("euler-a", {}),
        )
        for case in (_case(method, 20, **options), _case(method, 6, **options))
    ]
    starts = {20: (1, 7, 14, 18, 19), 6: (1, 3, 5)}
    return [replace(case, first=first) for case in cases for first in starts[case.steps]]


def _case(method: str, steps: int, /, **options: Any) -> Case:
    base = {} if method == "unclip" else LATENT
    return Case(method, steps, tuple({**base, **options}.items()))


def _matrix() -> Iterator[Case]:
    """Every scheduler × prediction type × spacing × number of steps."""
    for prediction, spacing, steps in itertools.product(PREDICTIONS, SPACINGS, STEPS):
        shared = {"prediction_type": prediction, "timestep_spacing": spacing}
        yield _case("ddpm", steps, **shared)
        yield _case("ddim", steps, **shared)
        yield _case("dpm++", steps, **shared)
        yield _case("dpm++", steps, algorithm_type="sde-dpmsolver++", **shared)
        yield _case("unipc", steps, **shared)
        yield _case("euler", steps, **shared)
        if prediction != "sample":
            yield _case("euler-a", steps, **shared)
    for prediction, steps in itertools.product(PREDICTIONS, STEPS):
        yield _case("dpm++", steps, prediction_type=prediction, use_karras_sigmas=True)
        yield _case(
            "dpm++", steps, prediction_type=prediction, use_karras_sigmas=True, algorithm_type="sde-dpmsolver++"
        )
    for prediction, steps in itertools.product(("epsilon", "sample"), STEPS):
        yield _case("unclip", steps, prediction_type=prediction, clip_sample_range=10.0)


def _options() -> Iterator[Case]:
    """One option at a time, with 5 and 20 steps."""
    for steps in (5, 20):
        for method in ("ddpm", "ddim", "dpm++", "unipc", "euler", "euler-a"):
            yield _case(method, steps, beta_schedule="scaled_linear")
            yield _case(method, steps, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
            yield _case(method, steps, trained_betas=tuple(np.linspace(0.001, 0.02, 1000).tolist()))
            yield _case(method, steps, steps_offset=0)
            for spacing in SPACINGS:
                yield _case(
                    method,
                    steps,
                    rescale_betas_zero_snr=True,
                    prediction_type="v_prediction",
                    timestep_spacing=spacing,
                )
        for variance in ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"):
            for offset in (0, 1):
                yield _case("ddpm", steps, variance_type=variance, steps_offset=offset)
        for method, prediction in itertools.product(("ddpm", "ddim"), PREDICTIONS):
            yield _case(method, steps, clip_sample=True, prediction_type=prediction)
            yield _case(method, steps, clip_sample=True, clip_sample_range=0.5, prediction_type=prediction)
        for method in ("ddpm", "ddim", "dpm++", "unipc"):
            yield _case(method, steps, thresholding=True)
            yield _case(method, steps, thresholding=True, dynamic_thresholding_ratio=0.7, sample_max_value=3.0)
        yield _case("ddim", steps, set_alpha_to_one=False)
        for order, solver in itertools.product((1, 2, 3), ("midpoint", "heun")):
            for final in ("zero", "sigma_min"):
                yield _case("dpm++", steps, solver_order=order, solver_type=solver, final_sigmas_type=final)
        for solver in ("midpoint", "heun"):
            yield _case("dpm++", steps, algorithm_type="sde-dpmsolver++", solver_type=solver)
            yield _case("dpm++", steps, algorithm_type="sde-dpmsolver++", solver_type=solver, solver_order=1)
        yield _case("dpm++", steps, euler_at_final=True, final_sigmas_type="sigma_min", lower_order_final=False)
        yield _case("dpm++", steps, lower_order_final=False)
        yield _case("dpm++", steps, lambda_min_clipped=-1.5, timestep_spacing="trailing")
        yield _case("dpm++", steps, lambda_min_clipped=-1.5, timestep_spacing="linspace")
        yield _case("dpm++", steps, use_karras_sigmas=True, final_sigmas_type="sigma_min")
        for order, solver in itertools.product((1, 2, 3), ("bh1", "bh2")):
            yield _case("unipc", steps, solver_order=order, solver_type=solver, final_sigmas_type="sigma_min")
            yield _case(
                "unipc",
                steps,
                solver_order=order,
                solver_type=solver,
                final_sigmas_type="sigma_min",
                predict_x0=False,
                prediction_type="v_prediction",
            )
        yield _case("unipc", steps, solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min")
        yield _case("unipc", steps, predict_x0=False, final_sigmas_type="sigma_min", prediction_type="sample")
        yield _case("unipc", steps, disable_corrector=(0, 2))
        yield _case("unipc", steps, use_karras_sigmas=True)
        yield _case("unipc", steps, use_karras_sigmas=True, sigma_min=0.05, sigma_max=10.0)
        yield _case("euler", steps, final_sigmas_type="sigma_min")
        for spacing in SPACINGS:
            yield _case("euler", steps, use_karras_sigmas=True, timestep_spacing=spacing)
        yield _case("unclip", steps, variance_type="learned_range", clip_sample_range=5.0)
        yield _case("unclip", steps, clip_sample=False, prediction_type="sample")


def learns_variance(case: Case) -> bool:
    """Whether the model returns variance channels as well."""
    return case.config.get("variance_type") in ("learned", "learned_range")


def fake_model(case: Case, sample: Array, timestep: float) -> Array:
    """A smooth function of latents (B, C, …) and timestep, bounded by 1; (B, 2C, …) if a variance is learned."""
    x = sample.astype(np.float64)
    prediction = 0.7 * np.tanh(x + 0.5 * np.sin(0.01 * timestep)) + 0.2 * np.cos(2 * x)
    if not learns_variance(case):
        return prediction.astype(np.float32)
    variance = np.sin(3 * x + 0.02 * timestep)
    if case.config["variance_type"] == "learned":
        variance = 0.01 * np.square(variance)
    return np.concatenate([prediction, variance], axis=1).astype(np.float32)


def random_stream() -> Iterator[Array]:
    """Draws of `SHAPE`: the first latents, then every step's noise. numpy never changes RandomState's numbers."""
    generator = np.random.RandomState(2022)
    while True:
        yield generator.standard_normal(SHAPE).astype(np.float32)


def stored_steps(count: int) -> list[int]:
    """The steps whose whole latents are stored."""
    return sorted({0, min(1, count - 1), count // 2, max(count - 2, 0), count - 1})


RANDN_SEEDS = (0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63))

RANDN_SEQUENCES: tuple[tuple[tuple[int, ...], ...], ...] = (
    tuple((size,) for size in range(1, 41)),
    tuple((size,) for size in range(40, 0, -1)),
    ((3,), (16,), (1,), (17,), (2,), (5, 3), (4, 4), (1, 4, 3, 3), (), (0,), (31,), (1, 1, 1, 1), (2, 33)),
    ((1, 4, 96, 96), (1,), (1, 4, 96, 96), (1, 4, 9, 7)),
)
"""The shapes of consecutive draws from one generator."""


def stored_part(draw: Array) -> Array:
    """The stored part of a draw: a small draw whole; of a large draw both ends and samples between them."""
    flat = draw.reshape(-1)
    return flat if flat.size <= 200 else np.concatenate([flat[:64], flat[64:-64:509], flat[-64:]])


def _trajectory(case: Case) -> dict[str, Any]:
    import diffusers
    import torch

    scheduler = getattr(diffusers, DIFFUSERS_CLASSES[case.method]).from_config(case.config)
    scheduler.set_timesteps(case.steps)
    stream = random_stream()
    drawn = 0

    def randn_tensor(shape: Any, **_: Any) -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        if tuple(shape) != SHAPE:
            raise AssertionError(f"diffusers draws noise of shape {tuple(shape)}; expected {SHAPE}")
        return torch.from_numpy(next(stream))

    vars(__import__(type(scheduler).__module__, fromlist=["randn_tensor"]))["randn_tensor"] = randn_tensor
    timesteps = scheduler.timesteps[case.first :]
    count = len(timesteps)
    latents = torch.from_numpy(next(stream)) * scheduler.init_noise_sigma
    original, noise = (torch.from_numpy(next(random_stream())[:, ::order].copy()) for order in (-1, 1))
    forward = [scheduler.add_noise(original, noise, timesteps[i : i + 1]).numpy() for i in (0, count - 1)]
    if case.first:
        latents = torch.from_numpy(forward[0])
    wholes, trace = [], []
    for i, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        output = torch.from_numpy(fake_model(case, scaled.numpy(), float(timestep)))
        extra: dict[str, Any] = {}
        if case.method == "unclip":
            extra["prev_timestep"] = None if i + 1 == count else timesteps[i + 1]
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
        trace.append(latents[:, 0, 0, 0].numpy())
        if i in stored_steps(count):
            wholes.append(latents.numpy())
    if not np.isfinite(wholes).all() or latents.dtype != torch.float32:
        raise AssertionError(f"{case.name}: diffusers returned {latents}; expected finite float32 latents")
    return {
        "timesteps": timesteps.numpy(),
        "wholes": np.stack(wholes),
        "trace": np.stack(trace),
        "forward": np.stack(forward),
        "init_noise_sigma": float(scheduler.init_noise_sigma),
        "draws": drawn,
    }


def write_schedulers(path: Path, versions: str, cases: list[Case]) -> None:
    """Run the cases through diffusers and write all trajectories to one file."""
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    results = [_trajectory(case) for case in cases]
    np.savez_compressed(
        path,
        versions=np.array(versions),
        names=np.array([case.name for case in cases]),
        lengths=np.array([len(result["timesteps"]) for result in results], dtype=np.int16),
        timesteps=np.concatenate([result["timesteps"].astype(np.float32) for result in results]),
        integers=np.array([result["timesteps"].dtype.kind == "i" for result in results]),
        wholes=np.concatenate([result["wholes"] for result in results]),
        trace=np.concatenate([result["trace"] for result in results]),
        forward=np.stack([result["forward"] for result in results]),
        init_noise_sigma=np.array([result["init_noise_sigma"] for result in results]),
        draws=np.array([result["draws"] for result in results], dtype=np.int16),
    )


def write_randn(path: Path, versions: str) -> None:
    """Draw every sequence with torch, and store the start of the integer stream."""
    import torch

    arrays: dict[str, npt.NDArray[Any]] = {"versions": np.array(versions)}
    for seed in RANDN_SEEDS:
        generator = torch.Generator("cpu").manual_seed(seed)
        # The full range of int64 takes two integers of the stream as they are, the upper half first.
        pairs = torch.empty(350, dtype=torch.int64).random_(-(2**63), None, generator=generator).numpy()
        arrays[f"integers_{seed}"] = pairs.astype(">i8").view(">u4").astype(np.uint32)
        for number, sequence in enumerate(RANDN_SEQUENCES):
            generator = torch.Generator("cpu").manual_seed(seed)
            draws = [stored_part(torch.randn(shape, generator=generator).numpy()) for shape in sequence]
            arrays[f"sequence_{number}_{seed}"] = np.concatenate(draws)
    np.savez_compressed(path, **arrays)


def main() -> None:
    """Write the files to the folder given on the command line."""
    import diffusers
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write the files to")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    versions = f"diffusers {diffusers.__version__}, torch {torch.__version__}, numpy {np.__version__}"
    write_schedulers(folder / "schedulers.npz", versions, cases())
    write_schedulers(folder / "late_starts.npz", versions, late_cases())
    write_randn(folder / "torch_randn.npz", versions)


if __name__ == "__main__":
    main()
