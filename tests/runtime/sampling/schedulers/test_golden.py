"""Whole trajectories against diffusers'. `scripts/goldens/schedulers.py` makes the golden arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.schedulers import Sampler
from scripts.goldens.schedulers import SHAPE, Case, cases, fake_model, late_cases, random_stream, stored_steps
from tests.golden import GOLDEN
from tests.tolerances import EULER_ZERO_SNR, FIRST_SIGMA, FRACTIONAL_TIMESTEP, GOLDEN_FORWARD, GOLDEN_STEP

REMAKE = "remake the golden arrays with scripts/regen_goldens if the cases changed"

Arrays = Mapping[str, npt.NDArray[Any]]


class Golden(NamedTuple):
    """The trajectory of diffusers in one case."""

    timesteps: npt.NDArray[Any]
    wholes: npt.NDArray[np.float32]
    trace: npt.NDArray[np.float32]
    forward: npt.NDArray[np.float32]
    init_noise_sigma: float
    draws: int


def _goldens(name: str) -> dict[str, Golden]:
    with np.load(GOLDEN / name, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    result = {}
    step = whole = 0
    for number, name in enumerate(arrays["names"].tolist()):
        length = int(arrays["lengths"][number])
        stored = len(stored_steps(length))
        result[name] = Golden(
            timesteps=arrays["timesteps"][step : step + length].astype(
                np.int64 if arrays["integers"][number] else np.float32
            ),
            wholes=arrays["wholes"][whole : whole + stored],
            trace=arrays["trace"][step : step + length],
            forward=arrays["forward"][number],
            init_noise_sigma=float(arrays["init_noise_sigma"][number]),
            draws=int(arrays["draws"][number]),
        )
        step += length
        whole += stored
    return result


GOLDENS = _goldens("schedulers.npz")
LATE_GOLDENS = _goldens("late_starts.npz")


def _tolerance(case: Case) -> float:
    return EULER_ZERO_SNR if _zero_snr_euler(case) else GOLDEN_STEP


def _zero_snr_euler(case: Case) -> bool:
    return case.method.startswith("euler") and bool(case.config.get("rescale_betas_zero_snr"))


def test_the_files_contain_all_cases() -> None:
    assert list(GOLDENS) == [case.name for case in cases()], REMAKE
    assert list(LATE_GOLDENS) == [case.name for case in late_cases()], REMAKE


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_trajectory_agrees_with_diffusers(case: Case) -> None:
    golden = GOLDENS[case.name]
    sampler = schedulers.load(case.config, case.method).sampler(case.steps, SHAPE)
    latents = next(random_stream()) * np.float32(sampler.init_noise_sigma)
    check_trajectory(case, golden, sampler, latents)


@pytest.mark.parametrize("case", late_cases(), ids=lambda case: case.name)
def test_a_late_start_agrees_with_diffusers(case: Case) -> None:
    golden = LATE_GOLDENS[case.name]
    sampler = schedulers.load(case.config, case.method).sampler(case.steps, SHAPE, first=case.first)
    original, noise = (next(random_stream())[:, ::order].copy() for order in (-1, 1))
    latents = sampler.add_noise(case.first, original, noise)
    np.testing.assert_allclose(
        latents, golden.forward[0], rtol=0, atol=GOLDEN_FORWARD * np.abs(latents).max(), err_msg=REMAKE
    )
    check_trajectory(case, golden, sampler, latents)


def check_trajectory(case: Case, golden: Golden, sampler: Sampler, latents: npt.NDArray[np.float32]) -> None:
    timesteps = sampler.timesteps[sampler.first :]
    assert timesteps.dtype == golden.timesteps.dtype
    if case.method == "euler" and case.config.get("use_karras_sigmas"):
        np.testing.assert_allclose(timesteps, golden.timesteps, rtol=0, atol=FRACTIONAL_TIMESTEP)
    else:
        np.testing.assert_array_equal(timesteps, golden.timesteps, err_msg=REMAKE)
    assert sampler.init_noise_sigma == pytest.approx(golden.init_noise_sigma, rel=FIRST_SIGMA)

    stream = random_stream()
    next(stream)  # the first latents
    wholes = []
    draws = 0
    for i, timestep in enumerate(timesteps.tolist(), sampler.first):
        output = fake_model(case, sampler.scale_model_input(i, latents), timestep)
        noise = next(stream) if sampler.draws_noise(i) else None
        draws += noise is not None
        latents = sampler.step(i, output, latents, noise)
        assert latents.dtype == np.float32
        off = np.abs(latents[:, 0, 0, 0] - golden.trace[i - sampler.first]).max()
        assert off <= _tolerance(case) * np.abs(latents).max(), f"{REMAKE}: step {i + 1} is off by {off}"
        if i - sampler.first in stored_steps(len(timesteps)):
            wholes.append(latents.copy())
    assert draws == golden.draws
    for ours, theirs in zip(wholes, golden.wholes, strict=True):
        off = np.abs(ours - theirs).max()
        assert off <= _tolerance(case) * np.abs(theirs).max(), f"{REMAKE}: latents are off by {off}"


@pytest.mark.parametrize("case", [case for case in cases() if case.steps == 5], ids=lambda case: case.name)
def test_forward_process_agrees_with_diffusers(case: Case) -> None:
    golden = GOLDENS[case.name]
    sampler = schedulers.load(case.config, case.method).sampler(case.steps, SHAPE)
    original, noise = (next(random_stream())[:, ::order].copy() for order in (-1, 1))
    out = np.empty(SHAPE, dtype=np.float32)
    for step, theirs in zip((0, len(sampler.timesteps) - 1), golden.forward, strict=True):
        assert sampler.add_noise(step, original, noise, out) is out
        # 5e-6 is needed if the betas are rescaled, because of the square roots; else one sum is rounded.
        np.testing.assert_allclose(out, theirs, rtol=0, atol=GOLDEN_FORWARD * np.abs(theirs).max(), err_msg=REMAKE)
