"""Schedulers by the names that people know: exactly ours, or refused with what is near."""

from __future__ import annotations

import pytest

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling.schedulers import SCHEDULERS, load
from kandinsky_runtime.sampling.schedulers.names import short_name

CONFIG = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("DPM++ 2M Karras", "dpm++karras"),
        ("dpm++ 2m karras", "dpm++karras"),
        ("dpmpp_2m_karras", "dpm++karras"),
        ("DPM++ 2M", "dpm++"),
        ("DPM++ 2M SDE", "dpm++sde"),
        ("DPM++ 2M SDE Karras", "dpm++sde-karras"),
        ("Euler a", "euler-a"),
        ("euler_ancestral", "euler-a"),
        ("Euler", "euler"),
        ("DDIM", "ddim"),
        ("DDPM", "ddpm"),
        ("UniPC", "unipc"),
        ("uni_pc", "unipc"),
        *((name, name) for name in SCHEDULERS),
    ],
)
def test_names(name: str, short: str) -> None:
    assert short_name(name, SCHEDULERS) == short
    wanted, got = load(CONFIG, short), load(CONFIG, name)
    assert type(got) is type(wanted)
    assert got.config == wanted.config


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("DPM++ SDE Karras", "dpm++sde-karras"),
        ("DPM++ SDE", "dpm++sde"),
        ("DPM++ Karras", "dpm++karras"),
        ("DPM++ 3M SDE", "dpm++sde"),
        ("DPM++ 2S a", "dpm++"),
        ("Euler Karras", "euler"),
        ("UniPC Karras", "unipc"),
        ("DDIMInverseScheduler", "ddim"),
    ],
)
def test_other_methods_are_refused_with_what_is_near(name: str, near: str) -> None:
    with pytest.raises(SchedulerError, match="is not supported; near to it: ") as caught:
        load(CONFIG, name)
    nearest = str(caught.value).partition("near to it: ")[2].partition("; choose")[0]
    assert near in nearest.split(", ")
    assert "choose one of ddpm, ddim" in str(caught.value)


@pytest.mark.parametrize("name", ["LMS", "Heun", "", "x"])
def test_nothing_is_near(name: str) -> None:
    with pytest.raises(SchedulerError, match="is not supported; choose one of ddpm"):
        load(CONFIG, name)
