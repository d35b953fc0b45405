"""Precisions: their properties, and names that this version does not know."""

from __future__ import annotations

import json

import pytest

from kandinsky_runtime.bundle.precision import PRECISIONS, Precision


@pytest.mark.parametrize(
    ("name", "bits", "is_float32", "is_16_bit"),
    [("fp32", 32, True, False), ("fp16", 16, False, True), ("bf16", 16, False, True)],
)
def test_properties(name: str, bits: int, is_float32: bool, is_16_bit: bool) -> None:
    precision = Precision(name)
    assert precision.known
    assert (precision.bits, precision.is_float32, precision.is_16_bit) == (bits, is_float32, is_16_bit)


def test_all_are_known_and_in_the_order_of_error_texts() -> None:
    assert PRECISIONS == (Precision.FP32, Precision.FP16, Precision.BF16)
    assert ", ".join(PRECISIONS) == "fp32, fp16, bf16"


@pytest.mark.parametrize("name", ["int8", "fp8", "FP32", ""])
def test_a_name_that_this_version_does_not_know(name: str) -> None:
    precision = Precision(name)
    assert not precision.known
    assert not precision.is_float32
    assert not precision.is_16_bit
    with pytest.raises(KeyError):
        _ = precision.bits


def test_it_is_its_name_in_texts_and_json() -> None:
    assert f"{Precision.BF16}" == json.loads(json.dumps(Precision.BF16)) == "bf16"
    assert {Precision.BF16: 1}["bf16"] == 1
