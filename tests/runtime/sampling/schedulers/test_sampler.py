"""The sampler: the calls that it refuses, the error texts, and the memory that it writes to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kandinsky_runtime.errors import NonFiniteError, SchedulerError, TensorError, UsageError
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.schedulers import Sampler
from kandinsky_runtime.sampling.schedulers.config import SchedulerConfig
from kandinsky_runtime.sampling.schedulers.ddpm import DDPM
from tests.tolerances import ONE_ROUNDING

SHAPE = (2, 4, 3, 5)
MULTISTEP = ["dpm++", "dpm++karras", "dpm++sde", "dpm++sde-karras", "unipc"]


def make(name: str = "ddpm", steps: int = 10, first: int = 0, **options: Any) -> Sampler:
    shared = {} if name == "unclip" else {"steps_offset": 1}
    return schedulers.load({**shared, **options}, name).sampler(steps, SHAPE, first=first)


def ones(*shape: int) -> npt.NDArray[np.float32]:
    return np.ones(shape or SHAPE, dtype=np.float32)


def run(sampler: Sampler, i: int, output: npt.NDArray[Any], sample: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return sampler.step(i, output, sample, ones() if sampler.draws_noise(i) else None)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_errors_of_non_finite_model_outputs_name_step_component_and_tensor(name: str, bad: float) -> None:
    sampler = make(name)
    output = ones()
    output[1, 2, 0, 3] = bad
    tensor = "predicted_image_embedding" if name == "unclip" else "noise_pred"
    component = "prior" if name == "unclip" else "unet"
    kind = "1 NaN and 0 infinite" if np.isnan(bad) else "0 NaN and 1 infinite"
    with pytest.raises(NonFiniteError) as caught:
        run(sampler, 0, output, ones())
    assert f"step 1 of 10 (timestep {sampler.timesteps[0]:g}): the {component} returned {kind}" in str(caught.value)
    assert f"`{tensor}`" in str(caught.value)


def test_errors_of_non_finite_samples_and_noise_name_them() -> None:
    bad = ones()
    bad[0] = np.nan
    with pytest.raises(NonFiniteError, match=r"step 1 of 10 .* given 60 NaN .* `sample`"):
        make().step(0, ones(), bad, ones())
    with pytest.raises(NonFiniteError, match=r"step 1 of 10 .* given 60 NaN .* `noise`"):
        make().step(0, ones(), ones(), bad)


def test_latents_that_overflow_are_refused() -> None:
    with pytest.raises(NonFiniteError, match=r"step 1 of 10 .*overflowed float32.*`noise_pred`"):
        run(make(clip_sample=False), 0, ones() * np.float32(3e38), ones())


@pytest.mark.parametrize("part", [slice(0, 4), slice(4, 8)])
@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_variance_channels_are_checked_as_well(variance_type: str, part: slice) -> None:
    output = ones(2, 8, 3, 5)
    output[:, part] = np.nan
    with pytest.raises(NonFiniteError, match=r"120 NaN .*`noise_pred` \(2, 8, 3, 5\)"):
        run(make(variance_type=variance_type), 0, output, ones())


def test_a_negative_learned_variance_is_refused() -> None:
    output = ones(2, 8, 3, 5)
    output[1, 5] = -1
    with pytest.raises(NonFiniteError, match=r"step 1 of 10 .*variance channels of the unet's `noise_pred`"):
        run(make(variance_type="learned"), 0, output, ones())


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
@pytest.mark.parametrize(
    "output",
    [ones(1, 4, 3, 5), ones(2, 8, 3, 5), ones(2, 4, 5, 3), ones().astype(np.float64), ones().astype(np.float16)],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_a_model_output_of_another_shape_or_dtype_is_refused(name: str, output: npt.NDArray[Any]) -> None:
    with pytest.raises(TensorError) as caught:
        run(make(name), 0, output, ones())
    for part in ("step 1 of 10", f"{output.dtype} {output.shape}", f"expected float32 {SHAPE}"):
        assert part in str(caught.value)


def test_a_learned_variance_needs_its_channels() -> None:
    with pytest.raises(TensorError, match=r"expected float32 \(2, 8, 3, 5\)"):
        run(make(variance_type="learned_range"), 0, ones(), ones())


def test_latents_and_noise_of_another_shape_are_refused() -> None:
    wrong = ones(1, 4, 3, 5)
    with pytest.raises(TensorError, match="`sample`"):
        make().step(0, ones(), wrong, ones())
    with pytest.raises(TensorError, match="`noise`"):
        make().step(0, ones(), ones(), wrong)
    for name, arrays in (("original", (wrong, ones())), ("noise", (ones(), wrong))):
        with pytest.raises(TensorError, match=f"`{name}`"):
            make().add_noise(0, *arrays)
    with pytest.raises(TensorError, match="`out`"):
        make().add_noise(0, ones(), ones(), ones().astype(np.float64))
    with pytest.raises(TensorError, match="`noise_pred` of the unet is list"):
        make().step(0, [1.0], ones(), ones())  # type: ignore[arg-type]


def test_noise_is_required_exactly_at_the_steps_that_draw() -> None:
    with pytest.raises(UsageError, match="needs a draw of noise"):
        make().step(0, ones(), ones())
    with pytest.raises(UsageError, match="takes no noise"):
        make("unipc").step(0, ones(), ones(), ones())
    sampler = make(steps_offset=0)  # ends at timestep 0
    with pytest.raises(UsageError, match=r"step 10 of 10 .*takes no noise"):
        sampler.step(9, ones(), ones(), ones())


@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep_methods_take_their_steps_in_order(name: str) -> None:
    sampler = make(name)
    latents = run(sampler, 0, ones(), ones())
    with pytest.raises(UsageError, match=r"got step 2; expected step 1, or step 0 to start again: .* in order"):
        run(sampler, 2, ones(), latents)
    latents = run(sampler, 1, ones(), latents)
    with pytest.raises(UsageError, match=r"got step 1; expected step 2, or step 0"):
        run(sampler, 1, ones(), latents)
    with pytest.raises(UsageError, match=r"got step 1; expected step 0: "):
        run(make(name), 1, ones(), latents)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_step_zero_starts_a_new_trajectory(name: str) -> None:
    def trajectory(sampler: Sampler) -> npt.NDArray[np.float32]:
        latents = ones()
        for i in range(10):
            latents = run(sampler, i, np.sin(latents), latents)
        return latents.copy()

    sampler = make(name)
    run(sampler, 0, ones(), ones())
    np.testing.assert_array_equal(trajectory(sampler), trajectory(sampler))


@pytest.mark.parametrize("name", sorted({*schedulers.SCHEDULERS} - {*MULTISTEP}))
def test_a_one_step_method_gives_the_same_latents_after_a_late_start(name: str) -> None:
    whole, late = make(name), make(name, first=6)
    latents = ones()
    for i in range(10):
        before = latents
        latents = run(whole, i, np.sin(before), before).copy()
        if i >= late.first:
            np.testing.assert_array_equal(run(late, i, np.sin(before), before), latents)


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_late_start_uses_no_earlier_predictions(name: str) -> None:
    """The first step has order 1, whatever the order of the method; the second uses the first."""
    orders = (1, 2) if "sde" in name else (1, 2, 3)
    samplers = [make(name, first=6, solver_order=order) for order in orders]
    firsts = [run(sampler, 6, np.sin(ones()), ones()).copy() for sampler in samplers]
    for latents in firsts[1:]:
        np.testing.assert_allclose(
            latents, firsts[0], rtol=ONE_ROUNDING, atol=0
        )  # one rounding differs: order 1 is folded
    seconds = [run(sampler, 7, np.cos(ones()), firsts[0]).copy() for sampler in samplers]
    assert np.abs(seconds[0] - seconds[1]).max() > 1e-4
    np.testing.assert_array_equal(seconds[1], seconds[-1])


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_steps_before_a_late_start_are_refused(name: str) -> None:
    sampler = make(name, first=6)
    np.testing.assert_array_equal(sampler.timesteps, make(name).timesteps)
    for call in (
        lambda: run(sampler, 5, ones(), ones()),
        lambda: sampler.draws_noise(5),
        lambda: sampler.scale_model_input(0, ones()),
        lambda: sampler.add_noise(5, ones(), ones()),
    ):
        with pytest.raises(UsageError, match="outside 6 to 9"):
            call()


@pytest.mark.parametrize("name", MULTISTEP)
def test_the_first_step_of_a_late_start_starts_a_new_trajectory(name: str) -> None:
    sampler = make(name, first=6)
    with pytest.raises(UsageError, match="in order"):
        run(sampler, 7, ones(), ones())

    def trajectory() -> npt.NDArray[np.float32]:
        latents = ones()
        for i in range(6, 10):
            latents = run(sampler, i, np.sin(latents), latents)
        return latents.copy()

    run(sampler, 6, ones(), ones())
    np.testing.assert_array_equal(trajectory(), trajectory())


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
@pytest.mark.parametrize("first", [-1, 10, 11, 10**9])
def test_a_first_step_outside_the_trajectory_is_refused(name: str, first: int) -> None:
    with pytest.raises(SchedulerError, match=f"the first step is {first}; expected a step from 0 to 9"):
        make(name, first=first)


@pytest.mark.parametrize("i", [-1, 10])
def test_steps_outside_the_trajectory_are_refused(i: int) -> None:
    sampler = make()
    for call in (
        lambda: sampler.step(i, ones(), ones(), ones()),
        lambda: sampler.draws_noise(i),
        lambda: sampler.scale_model_input(i, ones()),
        lambda: sampler.add_noise(i, ones(), ones()),
    ):
        with pytest.raises(UsageError, match="outside 0 to 9"):
            call()


@pytest.mark.parametrize("shape", [(4,), (), (0, 4, 3, 5), (1, -4)])
def test_shapes_that_latents_cannot_have_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="shape"):
        schedulers.load({}, "ddpm").sampler(5, shape)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_the_caller_may_feed_buffers_back_and_write_into_them(name: str) -> None:
    """The numbers are the same in place and in copies."""

    def trajectory(copies: bool) -> npt.NDArray[np.float32]:
        sampler = make(name)
        latents = ones()
        for i in range(10):
            latents = run(sampler, i, np.sin(latents), latents.copy() if copies else latents)
            latents[:, 0] *= np.float32(0.5)
        return latents

    np.testing.assert_array_equal(trajectory(copies=True), trajectory(copies=False))


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_model_may_return_its_input(name: str) -> None:
    results = []
    for copies in (False, True):
        sampler = make(name, clip_sample=False)
        latents = ones()
        for i in range(10):
            latents = run(sampler, i, latents.copy() if copies else latents, latents)
        results.append(latents)
    np.testing.assert_array_equal(*results)


def test_non_contiguous_views_are_accepted() -> None:
    wide = np.arange(2 * 8 * 3 * 5, dtype=np.float32).reshape(2, 8, 3, 5) / 100
    view, copy = wide[:, 4:], wide[:, 4:].copy()
    np.testing.assert_array_equal(run(make(), 0, view, view), run(make(), 0, copy, copy))


@pytest.mark.parametrize("alias", ["original", "noise"])
def test_the_forward_process_may_write_over_its_arguments(alias: str) -> None:
    original, noise = np.random.default_rng(0).standard_normal((2, *SHAPE), dtype=np.float32)
    expected = make().add_noise(3, original, noise)
    out = original if alias == "original" else noise
    np.testing.assert_array_equal(make().add_noise(3, original, noise, out), expected)


def test_timesteps_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        make().timesteps[0] = 3


def test_two_samplers_of_a_scheduler_share_nothing() -> None:
    scheduler = schedulers.load({}, "unipc")
    first, second = scheduler.sampler(5, SHAPE), scheduler.sampler(5, SHAPE)
    latents = run(first, 0, ones(), ones()).copy()
    run(second, 0, ones() * 2, ones())
    result = run(second, 1, ones() * 2, ones())
    assert not np.may_share_memory(result, run(first, 1, ones(), latents))


def test_tables_are_float64() -> None:
    table = DDPM({}).table(10)
    assert table.update is not None
    assert {table.update.dtype, table.prediction.dtype, table.noise.dtype, table.forward.dtype} == {np.dtype("f8")}
    assert DDPM({}).config == SchedulerConfig()
