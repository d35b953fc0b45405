"""The sampler: it applies a table of coefficients to latents, step by step, in its own buffers.

Legend: n steps · B samples · shape = (B, C, …), that of the latents

Weights are Python floats, so that float32 arrays stay float32 under the promotion rules of numpy 1 and of numpy 2.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kandinsky_runtime.errors import NonFiniteError, TensorError, UsageError
from kandinsky_runtime.sampling.schedulers.limits import Clip, Threshold
from kandinsky_runtime.sampling.schedulers.schedule import Float32, Float64
from kandinsky_runtime.sampling.schedulers.table import Table


@dataclass(frozen=True)
class Source:
    """The names of a model output in errors.

    Attributes:
        component: the name of the model.
        tensor: the name of its output.
    """

    component: str
    tensor: str


class Sampler:
    """One trajectory: n steps of latents of one shape, in buffers that are allocated once.

    Attributes:
        timesteps: the timesteps, (n,) int64, or float32 if they may be fractional; read-only.
        first: the step to begin with.
        init_noise_sigma: the standard deviation of the first latents.
        learns_variance: whether the second half of the model's channels is a variance.
    """

    def __init__(
        self, table: Table, shape: tuple[int, ...], limit: Clip | Threshold | None, source: Source, first: int = 0
    ) -> None:
        self.timesteps = table.timesteps
        self.first = first
        self.init_noise_sigma = table.init_noise_sigma
        self._shape = shape
        self._limit = limit
        self._source = source
        if limit is None:
            table = table.folded()
        self._prediction = _rows(table.prediction)
        self._update = _rows(table.update)
        self._derivative = _rows(table.derivative)
        self._corrector = _rows(table.corrector)
        self._forward = _rows(table.forward)
        self._log_std = _rows(table.log_std)
        self._noise: list[float] = table.noise.tolist()
        self._draws: list[bool] = table.draws.tolist()
        self._input_scale: list[float] = [] if table.input_scale is None else table.input_scale.tolist()
        self.learns_variance = table.learns_variance

        self._output_shape = (shape[0], shape[1] * (2 if self.learns_variance else 1), *shape[2:])
        self._finite = np.empty(self._output_shape, dtype=np.bool_)
        self._scratch = np.empty(shape, dtype=np.float32)
        # Three, because the sample and the model output may occupy two of them.
        self._results = [np.empty(shape, dtype=np.float32) for _ in range(3)]
        # The latest prediction first; empty if the table is folded.
        self._predictions = deque(np.empty(shape, dtype=np.float32) for _ in range(table.predictions_in_use))
        # The latents that the last two steps started from, latest first.
        self._bases = deque(np.empty(shape, dtype=np.float32) for _ in range(0 if table.corrector is None else 2))
        self._scaled = np.empty(shape if self._input_scale else 0, dtype=np.float32)
        self._next_step = first

    def scale_model_input(self, i: int, sample: Float32) -> Float32:
        """The model's input at step i.

        Args:
            sample: the latents, `shape` float32; never modified.

        Returns:
            `sample` itself, or a buffer that the next call overwrites.
        """
        self._check_index(i)
        self._check(i, "`sample`", sample, self._shape)
        if not self._input_scale:
            return sample
        return np.divide(sample, self._input_scale[i], out=self._scaled)

    def sigma(self, i: int) -> float:
        """The noise level σ of step i's latents: the noise's standard deviation divided by the signal's scale.

        σ is that of Karras et al. 2022, arXiv:2206.00364. It equals √((1 - ᾱ) / ᾱ) for a DDPM schedule, and is infinite
        if there is no signal.
        """
        self._check_index(i)
        signal, spread = self._forward[i]
        return spread / signal if signal else math.inf

    def draws_noise(self, i: int) -> bool:
        """Whether step i consumes one draw of noise of `shape`."""
        self._check_index(i)
        return self._draws[i]

    def step(self, i: int, model_output: Float32, sample: Float32, noise: Float32 | None = None) -> Float32:
        """The latents after step i.

        Args:
            i: the step, from `first` up. Multistep methods take their steps in order; `first` starts a new trajectory.
            model_output: (B, C, …) float32, or (B, 2C, …) if the scheduler `predicts_variance`. Never modified.
            sample: the latents before the step, `shape` float32. Modified only if it is one of the sampler's buffers.
            noise: one draw, `shape` float32, if `draws_noise(i)`, else None. Never modified.

        Returns:
            The latents, `shape` float32, in one of the sampler's buffers. The caller may write to it; a later step
            overwrites it.

        Raises:
            NonFiniteError: the model output or the result has NaN or infinite values.
            TensorError: a tensor has the wrong shape or dtype.
            UsageError: the step is out of order, or noise is missing or superfluous.
        """
        self._check_index(i)
        if len(self._predictions) > 1 and i not in (self.first, self._next_step):
            again = "" if self._next_step == self.first else f", or step {self.first} to start again"
            raise UsageError(
                f"got step {i}; expected step {self._next_step}{again}: this scheduler takes its steps in order"
            )
        self._check(i, f"`{self._source.tensor}` of the {self._source.component}", model_output, self._output_shape)
        self._check(i, "`sample`", sample, self._shape)
        if noise is not None:
            self._check(i, "`noise`", noise, self._shape)
        if (noise is None) == self._draws[i]:
            raise UsageError(f"{self._where(i)} {'needs a draw of' if self._draws[i] else 'takes no'} noise")
        self._check_finite(i, model_output)
        output, variance = model_output, None
        if self.learns_variance:
            output, variance = np.split(model_output, 2, axis=1)  # each (B, C, …)

        with np.errstate(over="ignore", invalid="ignore"):
            if self._predictions:
                self._predict(i, output, sample)
            result = self._free_buffer(sample, output)
            self._advance(i, output, sample, result)
            if noise is not None:
                result += np.multiply(noise, self._deviation(i, variance), out=self._scratch)
        if not np.isfinite(result, out=self._finite[:, : self._shape[1]]).all():
            self._refuse_result(i, sample, noise)
        self._next_step = i + 1
        return result

    def clean(self, i: int, model_output: Float32, sample: Float32) -> Float32:
        """The clean latents that the model predicts at step i, before clipping or thresholding; changes nothing.

        Args:
            model_output: the model's output, `shape` float32, without a variance.
            sample: step i's latents, `shape` float32.
        """
        self._check_index(i)
        of_sample, of_output = self._prediction[i]
        return np.float32(of_sample) * sample + np.float32(of_output) * model_output

    def add_noise(self, i: int, original: Float32, noise: Float32, out: Float32 | None = None) -> Float32:
        """The forward process: clean latents `original` at the noise level of `timesteps[i]`.

        Args:
            original, noise: the clean latents and the noise, `shape` float32.
            out: the array to write to, which may be `original` or `noise`; None allocates one.

        Returns:
            `out`, or the new array.
        """
        self._check_index(i)
        if out is None:
            out = np.empty(self._shape, dtype=np.float32)
        for name, array in (("`original`", original), ("`noise`", noise), ("`out`", out)):
            self._check(i, name, array, self._shape)
        signal, spread = self._forward[i]
        np.multiply(noise, spread, out=self._scratch)
        np.multiply(original, signal, out=out)
        return np.add(out, self._scratch, out=out)

    def _advance(self, i: int, output: Float32, sample: Float32, result: Float32) -> None:
        """Write step i without its noise to `result`."""
        if not self._derivative:
            self._combine(result, self._update[i], (self._base(i, sample), output, *self._predictions))
            return
        sigma, change = self._derivative[i]
        np.subtract(sample, self._predictions[0], out=result)
        result /= sigma
        result *= change
        result += sample

    def _base(self, i: int, sample: Float32) -> Float32:
        """The latents that step i starts from: `sample`, or the corrected sample."""
        if not self._corrector:
            return sample
        self._bases.rotate(1)
        base, last = self._bases
        if any(self._corrector[i]):
            self._combine(base, self._corrector[i], (last, *self._predictions))
        else:
            np.copyto(base, sample)
        return base

    def _predict(self, i: int, output: Float32, sample: Float32) -> None:
        self._predictions.rotate(1)
        latest = self._predictions[0]
        self._combine(latest, self._prediction[i], (sample, output))
        if self._limit is not None:
            self._limit.apply(latest, self._scratch)

    def _combine(self, out: Float32, weights: list[float], arrays: Iterable[Float32]) -> None:
        """out = Σ weight·array; `out` must not be one of the arrays."""
        empty = True
        for weight, array in zip(weights, arrays, strict=False):
            if weight == 0:
                continue
            if empty:
                np.multiply(array, weight, out=out)
                empty = False
            else:
                out += np.multiply(array, weight, out=self._scratch)
        if empty:
            out.fill(0)

    def _deviation(self, i: int, variance: Float32 | None) -> float | Float32:
        """The standard deviation of step i's noise; an array in the scratch buffer if it is learned."""
        if variance is None:
            return self._noise[i]
        if not self._log_std:
            return np.sqrt(variance, out=self._scratch)
        constant, slope = self._log_std[i]
        np.multiply(variance, slope, out=self._scratch)
        self._scratch += constant
        return np.exp(self._scratch, out=self._scratch)

    def _free_buffer(self, *used: Float32) -> Float32:
        return next(buffer for buffer in self._results if not any(np.may_share_memory(buffer, array) for array in used))

    def _where(self, i: int) -> str:
        return f"step {i + 1} of {len(self.timesteps)} (timestep {self.timesteps[i]:g})"

    def _check_index(self, i: int) -> None:
        if not self.first <= i < len(self.timesteps):
            raise UsageError(f"step {i} is outside {self.first} to {len(self.timesteps) - 1}")

    def _check(self, i: int, name: str, array: Float32, shape: tuple[int, ...]) -> None:
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.float32:
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise TensorError(f"{self._where(i)}: {name} is {got}; expected float32 {shape}")

    def _check_finite(self, i: int, output: Float32) -> None:
        if not np.isfinite(output, out=self._finite).all():
            self._refuse(i, f"the {self._source.component} returned", self._source.tensor, output)
        if self.learns_variance and not self._log_std and output[:, self._shape[1] :].min() < 0:
            raise NonFiniteError(
                f"{self._where(i)}: the variance channels of the {self._source.component}'s `{self._source.tensor}` "
                "are below 0, so the noise's deviation is NaN"
            )

    def _refuse_result(self, i: int, sample: Float32, noise: Float32 | None) -> None:
        for name, array in (("sample", sample), ("noise", noise)):
            if array is not None and not np.isfinite(array).all():
                self._refuse(i, "the scheduler was given", name, array)
        raise NonFiniteError(
            f"{self._where(i)}: the latents overflowed float32: the {self._source.component}'s "
            f"`{self._source.tensor}` is finite but too large"
        )

    def _refuse(self, i: int, what: str, name: str, array: Float32) -> None:
        nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        raise NonFiniteError(
            f"{self._where(i)}: {what} {nan} NaN and {infinite} infinite values in `{name}` {array.shape}"
        )


def _rows(table: Float64 | None) -> list[list[float]]:
    """A table's rows as Python floats; an empty list for None."""
    rows: list[list[float]] = [] if table is None else table.tolist()
    return rows
