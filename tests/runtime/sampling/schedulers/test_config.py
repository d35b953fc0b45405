"""Configs: which options are read, ignored and refused, and which scheduler a name selects."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.schedulers.config import SchedulerConfig

SHIPPED_DECODER = json.loads("""{
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.17.0.dev0", "num_train_timesteps": 1000,
    "beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": false,
    "set_alpha_to_one": false, "steps_offset": 1, "prediction_type": "epsilon", "thresholding": false
}""")
SHIPPED_PRIOR = json.loads("""{
    "_class_name": "UnCLIPScheduler", "_diffusers_version": "0.17.0.dev0", "clip_sample": true,
    "clip_sample_range": 10.0, "num_train_timesteps": 1000, "prediction_type": "sample",
    "variance_type": "fixed_small_log"
}""")
PNDM = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SHAPE = (1, 4, 2, 2)


def test_the_shipped_decoder_config_is_ddpm_with_small_variance() -> None:
    scheduler = schedulers.load(SHIPPED_DECODER)
    assert scheduler.class_name == "DDPMScheduler"
    assert scheduler.config.variance_type == "fixed_small"
    assert not scheduler.predicts_variance
    for steps, first in ((50, 981), (100, 991), (30, 958)):
        sampler = scheduler.sampler(steps, SHAPE)
        assert (sampler.timesteps[0], sampler.timesteps[-1]) == (first, 1)
        assert all(sampler.draws_noise(i) for i in range(steps))


def test_the_shipped_prior_config_is_unclip_over_all_timesteps() -> None:
    sampler = schedulers.load(SHIPPED_PRIOR).sampler(25, (2, 1280))
    assert (sampler.timesteps[0], sampler.timesteps[-1]) == (999, 0)
    assert [sampler.draws_noise(i) for i in range(25)] == [True] * 24 + [False]


@pytest.mark.parametrize("name", [name for name in schedulers.SCHEDULERS if name != "unclip"])
def test_every_scheduler_loads_the_shipped_ddpm_config(name: str) -> None:
    scheduler = schedulers.load(SHIPPED_DECODER, name)
    assert (scheduler.config.beta_start, scheduler.config.steps_offset) == (0.00085, 1)
    # Options that the config omits take the scheduler's own defaults, as in diffusers.
    assert scheduler.config.timestep_spacing == ("leading" if name in ("ddpm", "ddim") else "linspace")


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++", "unipc", "euler", "euler-a"])
def test_a_config_of_an_unsupported_scheduler_loads_supported_ones(name: str) -> None:
    assert schedulers.load(PNDM, name).config.beta_schedule == "scaled_linear"


def test_short_names_and_class_names_are_equivalent() -> None:
    for name, class_name in (("dpm++", "DPMSolverMultistepScheduler"), ("euler-a", "EulerAncestralDiscreteScheduler")):
        short, long = schedulers.load(SHIPPED_DECODER, name), schedulers.load(SHIPPED_DECODER, class_name)
        assert type(short) is type(long)
        assert short.config == long.config


def test_a_name_can_set_options() -> None:
    defaulted = {"_use_default_values": ["algorithm_type", "use_karras_sigmas"], "algorithm_type": "dpmsolver++"}
    config = schedulers.load({**SHIPPED_DECODER, **defaulted}, "dpm++sde-karras").config
    assert (config.algorithm_type, config.use_karras_sigmas) == ("sde-dpmsolver++", True)
    assert schedulers.load({"algorithm_type": "sde-dpmsolver++"}, "dpm++").sampler(5, SHAPE).draws_noise(0)


def test_options_of_other_schedulers_are_ignored() -> None:
    foreign = {"solver_order": 99, "algorithm_type": "deis", "disable_corrector": [1], "variance_type": "learned"}
    scheduler = schedulers.load({**SHIPPED_DECODER, **foreign}, "ddim")
    assert scheduler.config == schedulers.load(SHIPPED_DECODER, "ddim").config
    assert not scheduler.predicts_variance


def test_values_of_related_schedulers_are_translated() -> None:
    assert schedulers.load({"solver_type": "bh1"}, "dpm++").config.solver_type == "midpoint"
    assert schedulers.load({"algorithm_type": "deis"}, "dpm++").config.algorithm_type == "dpmsolver++"
    assert schedulers.load({"solver_type": "midpoint"}, "unipc").config.solver_type == "bh2"
    assert schedulers.load({"prediction_type": "original_sample"}, "euler").config.prediction_type == "sample"


def test_values_marked_as_defaults_of_another_scheduler_are_ignored() -> None:
    config = {"timestep_spacing": "leading", "beta_end": 0.5, "_use_default_values": ["timestep_spacing"]}
    read = schedulers.load(config, "dpm++").config
    assert (read.timestep_spacing, read.beta_end) == ("linspace", 0.5)


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_a_learned_variance_is_used_by_ddpm_and_unclip_only(variance_type: str) -> None:
    config = {**SHIPPED_DECODER, "variance_type": variance_type}
    assert schedulers.load(config).predicts_variance
    for name in ("ddim", "dpm++", "unipc", "euler"):
        assert not schedulers.load(config, name).predicts_variance
    assert schedulers.load({"variance_type": "learned_range"}, "unclip").predicts_variance


@pytest.mark.parametrize("name", ["ddpm", "dpm++", "euler"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("use_lu_lambdas", True),
        ("use_flow_sigmas", True),
        ("use_dynamic_shifting", True),
        ("flow_shift", 3.0),
        ("interpolation_type", "log_linear"),
        ("timestep_type", "continuous"),
        ("solver_p", "DDIMScheduler"),
        ("shift_terminal", 0.1),
        ("time_shift_type", "linear"),
    ],
)
def test_unsupported_options_are_refused_by_name(name: str, option: str, value: Any) -> None:
    with pytest.raises(SchedulerError, match=f"`{option}`.*not supported"):
        schedulers.load({**SHIPPED_DECODER, option: value}, name)


def test_unsupported_options_that_are_off_are_accepted() -> None:
    neutral = {
        "use_exponential_sigmas": False,
        "use_beta_sigmas": None,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "use_dynamic_shifting": False,
        "flow_shift": 1.0,
        "interpolation_type": "linear",
        "timestep_type": "discrete",
        "solver_p": None,
        "shift_terminal": None,
        "time_shift_type": "exponential",
    }
    assert schedulers.load({**SHIPPED_DECODER, **neutral}, "euler").sampler(5, SHAPE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {"beta_schedule": "sigmoid"}),
        ("ddpm", {"beta_schedule": "laplace"}),
        ("ddpm", {"beta_schedule": ["linear"]}),
        ("ddpm", {"beta_start": 0}),
        ("ddpm", {"beta_start": "0.1"}),
        ("ddpm", {"beta_end": math.nan}),
        ("ddpm", {"beta_end": 1.5}),
        ("ddpm", {"num_train_timesteps": 0}),
        ("ddpm", {"num_train_timesteps": 10.5}),
        ("ddpm", {"num_train_timesteps": True}),
        ("ddpm", {"trained_betas": "0.1"}),
        ("ddpm", {"trained_betas": [0.1, -0.1]}),
        ("ddpm", {"trained_betas": [0.1, 0.2]}),
        ("ddpm", {"prediction_type": "flow_prediction"}),
        ("ddpm", {"variance_type": "learned_whatever"}),
        ("ddpm", {"clip_sample": None}),
        ("ddpm", {"clip_sample": 1}),
        ("ddpm", {"clip_sample_range": -1.0}),
        ("ddpm", {"thresholding": "yes"}),
        ("ddpm", {"dynamic_thresholding_ratio": 1.5}),
        ("ddpm", {"sample_max_value": 0}),
        ("ddpm", {"timestep_spacing": "quadratic"}),
        ("ddpm", {"steps_offset": -1}),
        ("ddpm", {"steps_offset": 1.0}),
        ("ddim", {"set_alpha_to_one": "no"}),
        ("dpm++", {"solver_order": 4}),
        ("dpm++", {"solver_type": "euler"}),
        ("dpm++", {"algorithm_type": "dpmsolver"}),
        ("dpm++", {"algorithm_type": "sde-dpmsolver"}),
        ("dpm++", {"final_sigmas_type": "one"}),
        ("dpm++", {"lambda_min_clipped": math.inf}),
        ("dpm++", {"lower_order_final": 0}),
        ("dpm++", {"euler_at_final": None}),
        ("dpm++", {"use_karras_sigmas": "true"}),
        ("unipc", {"solver_type": "bh3"}),
        ("unipc", {"disable_corrector": 3}),
        ("unipc", {"disable_corrector": [-1]}),
        ("unipc", {"predict_x0": "true"}),
        ("euler", {"sigma_min": -0.1}),
        ("euler-a", {"prediction_type": "sample"}),
        ("unclip", {"prediction_type": "v_prediction"}),
        ("unclip", {"variance_type": "fixed_large"}),
        ("unclip", {"beta_schedule": "linear"}),
    ],
)
def test_bad_values_are_refused_by_name(name: str, options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(SchedulerError, match=f"`{option}`"):
        schedulers.load(options, name)


def test_unknown_options_are_refused_by_name() -> None:
    with pytest.raises(SchedulerError, match="`beta_finish` is unknown"):
        schedulers.load({**SHIPPED_DECODER, "beta_finish": 0.1})


def test_all_faults_are_named_at_once() -> None:
    config = {"beta_start": -1, "clip": True, "use_flow_sigmas": True, "steps_offset": "x"}
    with pytest.raises(SchedulerError, match="4 faults") as caught:
        schedulers.load(config, "ddpm")
    for option in config:
        assert f"`{option}`" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        ({}, None, "no `_class_name`"),
        ({}, "pndm", "'pndm' is not supported"),
        ({"_class_name": "PNDMScheduler"}, None, "'PNDMScheduler' is not supported"),
        ({"_class_name": ["DDPMScheduler"]}, None, "not supported"),
    ],
)
def test_unknown_schedulers_are_refused_with_the_choices(
    config: dict[str, Any], name: str | None, message: str
) -> None:
    with pytest.raises(SchedulerError, match=message) as caught:
        schedulers.load(config, name)
    for choice in (*schedulers.SCHEDULERS, "UniPCMultistepScheduler"):
        assert choice in str(caught.value)


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True, "20", None])
@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_bad_numbers_of_steps_are_refused(name: str, steps: Any) -> None:
    with pytest.raises(SchedulerError, match="num_inference_steps"):
        schedulers.load({}, name).sampler(steps, SHAPE)


def test_steps_may_be_a_numpy_integer() -> None:
    assert len(schedulers.load({}, "ddpm").sampler(np.int32(7), SHAPE).timesteps) == 7


@pytest.mark.parametrize(
    ("name", "options", "steps", "message"),
    [
        ("ddpm", {"steps_offset": 1}, 1000, "steps_offset"),
        ("ddim", {"steps_offset": 990}, 50, "steps_offset"),
        ("dpm++", {}, 1000, "repeat a timestep"),
        ("unipc", {"timestep_spacing": "leading"}, 1000, "repeat a timestep"),
        ("dpm++", {"lambda_min_clipped": 100.0}, 20, "lambda_min_clipped"),
        ("dpm++sde", {"solver_order": 3}, 20, "solver_order"),
        ("dpm++karras", {"sigma_min": 3.0, "sigma_max": 2.0}, 20, "sigma_min"),
        ("dpm++karras", {"sigma_min": 0.001, "final_sigmas_type": "sigma_min"}, 20, "noise level"),
        ("unipc", {"lower_order_final": False}, 20, "lower_order_final"),
        ("unipc", {"predict_x0": False, "thresholding": True}, 20, "thresholding"),
        ("unclip", {}, 1, "at least 2"),
        ("ddpm", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 20, "zero terminal SNR"),
        ("ddpm", {"beta_start": 1e-12}, 20, "betas"),
        ("ddpm", {"trained_betas": [1.0] * 1000}, 20, "betas"),
        ("euler", {"beta_end": 1.0}, 20, "betas"),
    ],
)
def test_incompatible_options_are_refused(name: str, options: dict[str, Any], steps: int, message: str) -> None:
    with pytest.raises(SchedulerError, match=message):
        schedulers.load(options, name).sampler(steps, SHAPE)


@pytest.mark.parametrize("steps", [61, 103, 998])
def test_trailing_spacing_ends_above_zero(steps: int) -> None:
    """The rounding of arange adds a timestep of -1 for these numbers of steps, which must be dropped."""
    sampler = schedulers.load({"timestep_spacing": "trailing"}, "ddpm").sampler(steps, SHAPE)
    assert len(sampler.timesteps) == steps
    assert sampler.timesteps.min() >= 0


WORDS = ("linear", "epsilon", "learned", "bh2", "zero", "leading", "nonsense", "")
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.lists(st.floats(), max_size=3)
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(SchedulerConfig.__dataclass_fields__)), VALUES, max_size=6),
    st.sampled_from(schedulers.SCHEDULERS),
)
def test_any_config_gives_a_scheduler_or_a_scheduler_error(config: dict[str, Any], name: str) -> None:
    message = ""
    try:
        schedulers.load(config, name)
    except SchedulerError as error:
        message = str(error)
    assert not message or any(f"`{option}`" in message for option in config)


@settings(deadline=None)
@given(st.text("abcdefghij_", min_size=1).filter(lambda name: not name.startswith("_")))
def test_any_unknown_option_is_named(option: str) -> None:
    with pytest.raises(SchedulerError, match=f"`{option}` is unknown"):
        schedulers.load({option: 1}, "ddpm")


def test_betas_too_small_for_float32_are_refused() -> None:
    config = {"trained_betas": [0.5, *[1e-9] * 999], "variance_type": "learned_range"}
    with pytest.raises(SchedulerError, match="log_std weights of step 1"):
        schedulers.load(config, "ddpm").sampler(20, SHAPE)
    with pytest.raises(SchedulerError, match="noise level"):
        schedulers.load(config, "dpm++").sampler(20, SHAPE)


@pytest.mark.parametrize("name", ["num_train_timesteps", "steps_offset"])
def test_numbers_beyond_any_schedule_are_refused(name: str) -> None:
    with pytest.raises(SchedulerError, match=name):
        schedulers.load({"_class_name": "DDPMScheduler", name: 10**30})
