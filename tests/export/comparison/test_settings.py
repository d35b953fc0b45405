"""Specifications of settings: what they say, and what is wrong with them."""

from __future__ import annotations

import pytest

from kandinsky_export.cli import compare as command
from kandinsky_export.comparison.cases import MAX_CASES
from kandinsky_export.comparison.settings import KEYS, Setting
from kandinsky_runtime.errors import EngineError, InputError, UsageError


def test_every_key() -> None:
    setting = Setting.parse(
        "engine=onnxruntime, precision=fp32,device=cpu,threads=2,tiles=true,low_memory=false,scheduler=ddpm,steps=50,"
        "guidance_scale=3.5,guidance_interval=0.3:5,prior_steps=10,prior_guidance_scale=2"
    )
    assert setting.loading == {
        "engine": "onnxruntime",
        "precision": "fp32",
        "device": "cpu",
        "threads": 2,
        "tiles": True,
        "low_memory": False,
    }
    assert setting.sampling == {
        "scheduler": "ddpm",
        "num_inference_steps": 50,
        "guidance_scale": 3.5,
        "guidance_interval": (0.3, 5.0),
        "prior_num_inference_steps": 10,
        "prior_guidance_scale": 2.0,
    }


def test_what_is_left_out_has_its_default() -> None:
    setting = Setting.parse(" steps=7 ")
    assert (setting.text, setting.loading, setting.sampling) == ("steps=7", {}, {"num_inference_steps": 7})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engin=x", f"'engin=x' has the unknown key 'engin'; the keys are {', '.join(KEYS)}"),
        ("50", "has the unknown key '50'"),
        ("steps", "gives steps no value; write steps=VALUE"),
        ("steps=", "gives steps no value"),
        ("steps=50,steps=25", "gives steps twice"),
        ("steps=many", "gives steps the value 'many', which cannot be used"),
        ("tiles=yes", "'yes' is neither true nor false"),
        ("guidance_interval=3", "is not two noise levels"),
        ("", "says nothing; write KEY=VALUE"),
        (" , ", "says nothing"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Setting.parse(text)
    assert message in str(caught.value)


def test_the_command_repeats_what_it_does_not_load() -> None:
    assert command.KEYS.split(", ") == list(KEYS)
    assert command.MAX_CASES == MAX_CASES


@pytest.mark.parametrize("kind", [EngineError, InputError])
def test_errors_name_the_setting_and_keep_their_kind(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^steps=7: it failed$"), Setting.parse("steps=7").named_in_errors():
        raise kind("it failed")
