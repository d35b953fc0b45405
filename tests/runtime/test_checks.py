"""Checks of single values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.checks import real_number
from kandinsky_runtime.errors import InputError


@pytest.mark.parametrize("number", [0, 1, 4.5, np.float32(4.5), np.int64(3), 3e38])
def test_a_number_is_returned_as_a_float(number: Any) -> None:
    checked = real_number("guidance_scale", number, 0)
    assert type(checked) is float
    assert checked == number


@pytest.mark.parametrize("value", [-1, -1e-9, np.nan, np.inf, 1e39, 10**400, "4", None, True, [4.0], 4j, np.ones(2)])
def test_what_float32_cannot_hold_as_a_number_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"guidance_scale is .*; expected a finite number of at least 0"):
        real_number("guidance_scale", value, 0)
