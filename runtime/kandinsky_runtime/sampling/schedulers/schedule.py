"""Noise schedules: betas, cumulative alphas, timesteps and sigmas. Pure functions of the options.

Legend: T training timesteps · n inference steps · β_t = betas[t] · ᾱ_t = alphas_cumprod[t] = Π_{s≤t} (1 - β_s) ·
σ_t = sqrt((1 - ᾱ_t) / ᾱ_t), the noise level of x_t / sqrt(ᾱ_t)

A checkpoint was trained with diffusers' schedule, which is stored in float32. 1 - ᾱ_t is about 1e-4 at the first
timesteps, so rounding ᾱ_t to float32 changes its fourth digit. The schedule is therefore rounded to float32 in the same
places as in diffusers. Coefficients are derived from it in float64.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling.schedulers.config import SchedulerConfig

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Timesteps = npt.NDArray[Any]
"""int64, or a float dtype if timesteps may be fractional."""

_MAX_BETA = 0.999
_KARRAS_RHO = 7.0
_ZERO_SNR_ALPHA = 2.0**-24
"""Replaces ᾱ = 0 in methods that need a finite σ."""


def betas(config: SchedulerConfig) -> Float32:
    """The noise variances β of the forward process: DDPM (Ho et al. 2020, arXiv:2006.11239) eq. 2.

    "linear" is section 4 of that paper; "scaled_linear" is linear in sqrt(β), as latent diffusion trains;
    "squaredcos_cap_v2" is Nichol & Dhariwal 2021 (arXiv:2102.09672) eq. 17.

    Returns:
        (T,) float32.
    """
    steps = config.num_train_timesteps
    if config.trained_betas is not None:
        result = np.array(config.trained_betas, dtype=np.float32)
    elif config.beta_schedule == "linear":
        result = _linspace(config.beta_start, config.beta_end, steps)
    elif config.beta_schedule == "scaled_linear":
        result = np.square(_linspace(math.sqrt(config.beta_start), math.sqrt(config.beta_end), steps))
    else:
        bar = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
        capped = [min(1 - after / before, _MAX_BETA) for before, after in itertools.pairwise(bar)]
        result = np.array(capped, dtype=np.float32)
    return _zero_terminal_snr(result) if config.rescale_betas_zero_snr else result


def alphas_cumprod(config: SchedulerConfig) -> Float32:
    """ᾱ of DDPM eq. 4, (T,) float32: a product in float64, rounded at every t.

    Raises:
        SchedulerError: the betas leave no noise at some timestep, or no signal before the last.
    """
    alphas = _cumprod(betas(config))
    if alphas[0] >= 1 or not alphas[:-1].all():
        raise SchedulerError(
            "scheduler config: the betas are too small or too large; expected some noise at every timestep, and some "
            "signal at every timestep before the last"
        )
    return alphas


def finite_sigma_alphas(config: SchedulerConfig) -> Float32:
    """ᾱ (T,) for methods that work on σ, which must be finite: a zero terminal SNR becomes almost zero."""
    alphas = alphas_cumprod(config)
    if config.rescale_betas_zero_snr:
        alphas[-1] = _ZERO_SNR_ALPHA
    if not alphas[-1]:
        raise SchedulerError(
            "scheduler config: the betas leave no signal at the last timestep, so its sigma is infinite"
        )
    return alphas


def training_sigmas(alphas: Float32) -> Float32:
    """σ = sqrt((1 - ᾱ) / ᾱ) of every training timestep, (T,) float32, ascending."""
    sigmas: Float32 = np.sqrt((1 - alphas) / alphas)
    return sigmas


def alpha_ratio(alphas: Float64, alphas_prev: Float64) -> Float64:
    """ᾱ_t / ᾱ_{t-1} = 1 - β of a step, rounded to float32.

    β is 1 minus this ratio, about 1e-3 between late steps. The rounding changes β by a relative 1e-4, and the last
    latents with it.
    """
    return rounded(alphas / alphas_prev)


def rounded(values: Float64) -> Float64:
    """`values` rounded to float32, as diffusers rounds them, and returned as float64."""
    return values.astype(np.float32).astype(np.float64)


def timesteps(config: SchedulerConfig, steps: int) -> Int64:
    """Timesteps of the one-step methods, descending: table 2 of Lin et al. 2023 (arXiv:2305.08891).

    Returns:
        (n,) int64.

    Raises:
        SchedulerError: one of them is not a training timestep.
    """
    total = config.num_train_timesteps
    result: npt.NDArray[Any]
    if config.timestep_spacing == "linspace":
        result = np.linspace(0, total - 1, steps).round()[::-1]
    elif config.timestep_spacing == "leading":
        result = np.arange(steps)[::-1] * (total // steps) + config.steps_offset
    else:
        result = _trailing(total, total / steps)
    return _checked_timesteps(result.astype(np.int64), config)


def multistep_timesteps(config: SchedulerConfig, steps: int, last: int) -> Int64:
    """Timesteps of the multistep methods, descending: n + 1 points without the lowest.

    Args:
        last: the number of training timesteps to use, from 0 up.

    Returns:
        (n,) int64; fewer with "trailing" spacing if `last` is below T.

    Raises:
        SchedulerError: one of them is not a training timestep, or occurs twice.
    """
    result: npt.NDArray[Any]
    if config.timestep_spacing == "linspace":
        result = np.linspace(0, last - 1, steps + 1).round()[:0:-1]
    elif config.timestep_spacing == "leading":
        result = np.arange(1, steps + 1)[::-1] * (last // (steps + 1)) + config.steps_offset
    else:
        result = _trailing(last, config.num_train_timesteps / steps)
    checked = _checked_timesteps(result.astype(np.int64), config)
    if np.any(np.diff(checked) == 0):
        raise SchedulerError(
            f"{steps} steps with `{config.timestep_spacing}` spacing over {last} timesteps repeat a timestep: "
            "take fewer steps"
        )
    return checked


def _checked_timesteps(values: Int64, config: SchedulerConfig) -> Int64:
    """`values` (n,), if each is a training timestep.

    Raises:
        SchedulerError: one is not.
    """
    highest = config.num_train_timesteps - 1
    if not len(values) or values.max() > highest:
        raise SchedulerError(
            f"{len(values)} steps with `{config.timestep_spacing}` spacing and `steps_offset` {config.steps_offset} "
            f"go beyond the training timesteps 0 to {highest}: take fewer steps or a smaller offset"
        )
    return values


def karras_sigmas(config: SchedulerConfig, lowest: float, highest: float, steps: int) -> Float64:
    """Noise levels of Karras et al. 2022 (arXiv:2206.00364) eq. 5, ρ = 7; (n,) float64, descending.

    Args:
        lowest, highest: the ends, unless the options `sigma_min` and `sigma_max` set them.
    """
    lowest = lowest if config.sigma_min is None else config.sigma_min
    highest = highest if config.sigma_max is None else config.sigma_max
    if lowest > highest:
        raise SchedulerError(f"scheduler config: `sigma_min` {lowest} is above `sigma_max` {highest}")
    lowest, highest = lowest ** (1 / _KARRAS_RHO), highest ** (1 / _KARRAS_RHO)
    sigmas: Float64 = (highest + np.linspace(0, 1, steps) * (lowest - highest)) ** _KARRAS_RHO
    return sigmas


def timesteps_of(sigmas: Float64, training: Float32) -> Float64:
    """Fractional timesteps whose noise levels are `sigmas` (n,), by interpolation in log σ over `training` (T,).

    The logarithms of `training` are rounded to float32, as in diffusers: this decides which integer an end point is.
    """
    logs, log_training = np.log(sigmas), np.log(training)
    low = np.clip(np.searchsorted(log_training, logs, side="right") - 1, 0, len(training) - 2)
    below, above = log_training[low], log_training[low + 1]
    weight = np.clip((below - logs) / (below - above), 0, 1)
    result: Float64 = (1 - weight) * low + weight * (low + 1)
    return result


def multistep_levels(config: SchedulerConfig, alphas: Float32, steps: int, last: int) -> tuple[Timesteps, Float64]:
    """Timesteps and noise levels of the multistep methods.

    Args:
        alphas: ᾱ, (T,).
        last: see `multistep_timesteps`; Karras' levels ignore it.

    Returns:
        The timesteps, (n,) int64, or fractional float64 for Karras' levels; and the noise level at the start of each
        step, (n,) float64.
    """
    training = training_sigmas(alphas)
    if not config.use_karras_sigmas:
        timesteps = multistep_timesteps(config, steps, last)
        return timesteps, training[timesteps].astype(np.float64)
    sigmas = karras_sigmas(config, float(training[0]), float(training[-1]), steps)
    return timesteps_of(sigmas, training), sigmas


def ending(sigmas: Float64, final: float) -> Float64:
    """σ at the start of each step and at the end, (n + 1,), rounded to float32 as in diffusers.

    Raises:
        SchedulerError: the levels rise, or repeat before the end.
    """
    levels = np.append(sigmas, final).astype(np.float32)
    if np.any(np.diff(levels[:-1]) >= 0) or levels[-1] > levels[-2]:
        raise SchedulerError(f"the noise level does not fall at each of {len(sigmas)} steps: take fewer steps")
    return levels.astype(np.float64)


def signal_and_noise(sigmas: Float64) -> tuple[Float64, Float64]:
    """sqrt(ᾱ) and sqrt(1 - ᾱ) at noise levels σ: weights of x_0 and ε in a sample of the forward process."""
    alpha = 1 / np.sqrt(np.square(sigmas) + 1)
    return alpha, sigmas * alpha


def forward_steps(timesteps: Timesteps) -> Int64:
    """For each step, the step whose noise level diffusers looks up for its timestep, (n,).

    It is the step itself. If rounding gave several steps the same timestep, it is the second of them.
    """
    return np.array([np.flatnonzero(timesteps == timestep)[:2][-1] for timestep in timesteps])


def prediction_to_x0(prediction_type: str, alpha: Float64, sigma: Float64) -> Float64:
    """Weights of (sample, model output) in x̂_0, for sample = alpha·x_0 + sigma·ε, each (n,).

    "epsilon" is DDPM eq. 15, "v_prediction" is v = alpha·ε - sigma·x_0 of Salimans & Ho 2022 (arXiv:2202.00512)
    appendix D, which assumes alpha² + sigma² = 1.

    Returns:
        (n, 2) float64.

    Raises:
        SchedulerError: the sample has no signal, from which epsilon cannot recover x_0.
    """
    if prediction_type == "sample":
        return np.stack([np.zeros_like(alpha), np.ones_like(alpha)], axis=1)
    if prediction_type == "v_prediction":
        return np.stack([alpha, -sigma], axis=1)
    if not alpha.all():
        raise SchedulerError(
            "scheduler config: the first step starts without signal (zero terminal SNR), which `prediction_type` "
            "epsilon does not support: use v_prediction or sample, or `timestep_spacing` leading"
        )
    return np.stack([1 / alpha, -sigma / alpha], axis=1)


def prediction_to_epsilon(prediction_type: str, alpha: Float64, sigma: Float64) -> Float64:
    """Weights of (sample, model output) in ε̂; arguments, formulas and result as for `prediction_to_x0`."""
    if prediction_type == "epsilon":
        return np.stack([np.zeros_like(alpha), np.ones_like(alpha)], axis=1)
    if prediction_type == "v_prediction":
        return np.stack([sigma, alpha], axis=1)
    return np.stack([1 / sigma, -alpha / sigma], axis=1)


def _linspace(first: float, last: float, count: int) -> Float32:
    """Evenly spaced float32 numbers, rounded as by torch.linspace: a float32 step, counted from the nearer end."""
    start, stop = np.float32(first), np.float32(last)
    step = np.float64((stop - start) / np.float32(count - 1))
    position = np.arange(count)
    rising = np.float64(start) + step * position
    falling = np.float64(stop) - step * (count - 1 - position)
    return np.where(position < count // 2, rising, falling).astype(np.float32)


def _trailing(first: int, stride: float) -> npt.NDArray[Any]:
    """first - 1, first - 1 - stride, … rounded, down to 0.

    The rounding of arange can add a value below 0, for which there is no timestep.
    """
    values = np.arange(first, 0, -stride).round() - 1
    return values[values >= 0]


def _cumprod(betas: Float32) -> Float32:
    return np.cumprod(1 - betas, dtype=np.float64).astype(np.float32)


def _zero_terminal_snr(betas: Float32) -> Float32:
    """Algorithm 1 of Lin et al. 2023 (arXiv:2305.08891): betas whose last ᾱ is 0, (T,) float32."""
    root = np.sqrt(_cumprod(betas))
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    bar = np.square(root)
    alphas = np.concatenate([bar[:1], bar[1:] / bar[:-1]])
    rescaled: Float32 = 1 - alphas
    return rescaled
