"""The options of a scheduler, read from the config that diffusers stores with a checkpoint.

There are four kinds of options:
  - The scheduler reads it. It is checked here and nowhere else.
  - It belongs to another scheduler. It is ignored, as in diffusers, so that a config of one scheduler loads another.
  - It requests something that no scheduler of this package supports. It is refused by name.
  - No scheduler knows it. It is refused by name.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kandinsky_runtime.errors import SchedulerError

Check = Callable[[Any], Any]
"""Returns the checked value of an option; raises ValueError with the expected values."""

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
LEARNED_VARIANCES = ("learned", "learned_range")
MAX_TIMESTEPS = 100_000
"""The most training timesteps; a larger number is a mistake in the config."""

SCHEDULE_OPTIONS = frozenset(
    {
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
        "prediction_type",
        "timestep_spacing",
        "steps_offset",
    }
)
"""The options that every scheduler reads, except the prior's."""

THRESHOLD_OPTIONS = frozenset({"thresholding", "dynamic_thresholding_ratio", "sample_max_value"})
CLIP_OPTIONS = frozenset({"clip_sample", "clip_sample_range"})
SIGMA_OPTIONS = frozenset({"use_karras_sigmas", "sigma_min", "sigma_max", "final_sigmas_type"})

# Options of schedulers that this package lacks; they do not affect the schedulers that it has.
_FOREIGN = frozenset(
    {
        "skip_prk_steps",  # PNDM
        "noise_sampler_seed",  # DPM-Solver SDE
        "original_inference_steps",  # LCM, TCD
        "timestep_scaling",
        "predictor_order",  # SA-Solver
        "corrector_order",
        "tau_func",
        "sigma_data",  # EDM
        "sigma_schedule",
        "rho",
    }
)

# Options that other schedulers store as null: null means the default of the scheduler that reads it.
_NULL_IS_DEFAULT = frozenset({"variance_type"})

# Features of diffusers' classes that this package lacks, with the values that leave them off.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "use_exponential_sigmas": (None, False),
    "use_beta_sigmas": (None, False),
    "use_lu_lambdas": (None, False),
    "use_flow_sigmas": (None, False),
    "use_dynamic_shifting": (None, False),
    "time_shift_type": (None, "exponential"),
    "flow_shift": (None, 1.0),
    "shift_terminal": (None,),
    "solver_p": (None,),
    "interpolation_type": (None, "linear"),
    "timestep_type": (None, "discrete"),
}


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return value

    return check


def _integer(least: int, most: int | None = None) -> Check:
    def check(value: Any) -> int:
        expected = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
        if isinstance(value, bool):
            raise ValueError(expected)
        try:
            number = operator.index(value)
        except TypeError:
            raise ValueError(expected) from None
        if number < least or (most is not None and number > most):
            raise ValueError(expected)
        return number

    return check


def _number(holds: Callable[[float], bool], expected: str) -> Check:
    def check(value: Any) -> float:
        if isinstance(value, (bool, str)):
            raise ValueError(expected)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(expected) from None
        if not holds(number):
            raise ValueError(expected)
        return number

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _each(item: Check, expected: str) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if isinstance(value, (str, bytes, Mapping)):
            raise ValueError(expected)
        try:
            return tuple(item(entry) for entry in value)
        except (TypeError, ValueError):
            raise ValueError(expected) from None

    return check


def _or_null(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _option(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


_POSITIVE = _number(lambda x: 0 < x < math.inf, "a number above 0")
_BETA = _number(lambda x: 0 < x <= 1, "a number above 0, at most 1")


@dataclass(frozen=True)
class SchedulerConfig:
    """Every option that at least one scheduler reads, under diffusers' names.

    Raises:
        SchedulerError: a value has the wrong type or is out of range; the message names each such option.
    """

    num_train_timesteps: int = _option(1000, _integer(2, MAX_TIMESTEPS))
    beta_start: float = _option(0.0001, _BETA)
    beta_end: float = _option(0.02, _BETA)
    beta_schedule: str = _option("linear", _one_of("linear", "scaled_linear", "squaredcos_cap_v2"))
    trained_betas: tuple[float, ...] | None = _option(
        None, _or_null(_each(_BETA, "a list of numbers above 0, at most 1"))
    )
    rescale_betas_zero_snr: bool = _option(False, _boolean)
    prediction_type: str = _option("epsilon", _one_of(*PREDICTION_TYPES))
    variance_type: str = _option(
        "fixed_small",
        _one_of("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", *LEARNED_VARIANCES),
    )
    clip_sample: bool = _option(True, _boolean)
    clip_sample_range: float = _option(1.0, _POSITIVE)
    thresholding: bool = _option(False, _boolean)
    dynamic_thresholding_ratio: float = _option(0.995, _number(lambda x: 0 <= x <= 1, "a number from 0 to 1"))
    sample_max_value: float = _option(1.0, _POSITIVE)
    set_alpha_to_one: bool = _option(True, _boolean)
    timestep_spacing: str = _option("leading", _one_of("leading", "linspace", "trailing"))
    steps_offset: int = _option(0, _integer(0, MAX_TIMESTEPS))
    solver_order: int = _option(2, _integer(1, 3))
    solver_type: str = _option("midpoint", _one_of("midpoint", "heun", "bh1", "bh2"))
    algorithm_type: str = _option("dpmsolver++", _one_of("dpmsolver++", "sde-dpmsolver++"))
    lower_order_final: bool = _option(True, _boolean)
    euler_at_final: bool = _option(False, _boolean)
    final_sigmas_type: str = _option("zero", _one_of("zero", "sigma_min"))
    lambda_min_clipped: float = _option(-math.inf, _number(lambda x: x < math.inf, "a number, or -Infinity"))
    use_karras_sigmas: bool = _option(False, lambda value: False if value is None else _boolean(value))
    sigma_min: float | None = _option(None, _or_null(_POSITIVE))
    sigma_max: float | None = _option(None, _or_null(_POSITIVE))
    predict_x0: bool = _option(True, _boolean)
    disable_corrector: tuple[int, ...] = _option((), _each(_integer(0), "a list of step numbers"))

    def __post_init__(self) -> None:
        faults: list[str] = []
        for option in dataclasses.fields(self):
            object.__setattr__(self, option.name, _checked(option.name, getattr(self, option.name), faults))
        _refuse(faults)
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise SchedulerError(
                f"scheduler config: `trained_betas` has {len(self.trained_betas)} values; "
                f"expected `num_train_timesteps`, {self.num_train_timesteps}"
            )


@dataclass(frozen=True)
class Options:
    """The options that one scheduler reads from a config.

    Attributes:
        reads: the names of the options.
        defaults: the defaults that differ from `SchedulerConfig`'s.
        choices: the supported values of an option, if `SchedulerConfig` has more.
        translates: for each option, the values of other schedulers and their equivalents here.
    """

    reads: frozenset[str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    translates: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def read(self, config: Mapping[str, Any], class_name: str) -> SchedulerConfig:
        """The options of `config` that this scheduler reads, with its defaults for absent ones.

        Args:
            config: a diffusers scheduler config.
            class_name: the scheduler's diffusers name, for messages.

        Raises:
            SchedulerError: an option is unknown, unsupported or has a bad value; the message names each one.
        """
        faults: list[str] = []
        values = dict(self.defaults)
        for name, value in explicit_options(config).items():
            if name in _UNSUPPORTED:
                if not any(value is neutral or value == neutral for neutral in _UNSUPPORTED[name]):
                    faults.append(f"`{name}` is {_shown(value)}, which is not supported")
            elif name not in _KNOWN:
                faults.append(f"`{name}` is unknown to every scheduler")
            elif name in self.reads and not (value is None and name in _NULL_IS_DEFAULT):
                if isinstance(value, str):
                    value = self.translates.get(name, {}).get(value, value)
                if name in self.choices and value not in self.choices[name]:
                    expected = ", ".join(self.choices[name])
                    faults.append(f"`{name}` is {_shown(value)}; {class_name} supports {expected}")
                else:
                    values[name] = _checked(name, value, faults)
        _refuse(faults)
        return SchedulerConfig(**values)


def explicit_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a config sets, without metadata, whose names begin with an underscore.

    `_use_default_values` lists the options that diffusers wrote out although they had the defaults of one scheduler.
    Another scheduler uses its own defaults for them.
    """
    defaulted = config.get("_use_default_values") or ()
    return {name: value for name, value in config.items() if not name.startswith("_") and name not in defaulted}


_CHECKS: Mapping[str, Check] = {option.name: option.metadata["check"] for option in dataclasses.fields(SchedulerConfig)}
_KNOWN = frozenset(_CHECKS) | _FOREIGN


def _checked(name: str, value: Any, faults: list[str]) -> Any:
    """The checked value of an option. If it is invalid, returns None and adds a line to `faults`."""
    try:
        return _CHECKS[name](value)
    except ValueError as error:
        faults.append(f"`{name}` is {_shown(value)}; expected {error}")
        return None


def _refuse(faults: list[str]) -> None:
    """Raise one SchedulerError for all faults, if there are any."""
    if len(faults) == 1:
        raise SchedulerError(f"scheduler config: {faults[0]}")
    if faults:
        raise SchedulerError(f"scheduler config: {len(faults)} faults:" + "".join(f"\n  - {fault}" for fault in faults))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
