"""Signatures: what a graph accepts, and the errors for everything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec, symbol_of
from kandinsky_runtime.errors import TensorError

SPEC = GraphSpec(
    inputs=(
        TensorSpec("sample", "float32", ("batch", 9, "height", "width")),
        TensorSpec("timestep", "float32", ("batch",)),
    ),
    outputs=(TensorSpec("image", "float32", ("batch", 3, "8*height", "width/2")),),
    ranges={"batch": Range(max=4), "height": Range(min=8, max=96, multiple=8), "width": Range(min=2, multiple=2)},
)


def feeds(**changes: object) -> dict[str, np.ndarray]:
    sound = {"sample": np.zeros((2, 9, 16, 10), np.float32), "timestep": np.zeros(2, np.float32)}
    return {name: array for name, array in {**sound, **changes}.items() if array is not None}


def sample(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


def test_sizes_of_symbols() -> None:
    sizes = SPEC.check(feeds())
    assert sizes == {"batch": 2, "height": 16, "width": 10}
    assert SPEC.outputs[0].shape(sizes) == (2, 3, 128, 5)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"timestep": None}, "it takes the inputs sample, timestep; got sample"),
        ({"timestep": None, "sample": None}, "it takes the inputs sample, timestep; got none"),
        ({"mask": sample(1)}, "it takes the inputs sample, timestep; got sample, timestep, mask"),
        ({"timestep": [0.0, 0.0]}, "it: `timestep` is a list; expected a numpy array, timestep float32 (batch)"),
        ({"timestep": sample(2, dtype="int64")}, "it: `timestep` is int64; expected float32"),
        ({"timestep": sample(2, dtype=">f4")}, "it: `timestep` is >f4; expected float32"),
        ({"timestep": sample(2, 1)}, "it: `timestep` is (2, 1); expected 1 dimensions, timestep float32 (batch)"),
        ({"timestep": sample(3)}, "it: `timestep` is (3,); batch must be 2, as in the other inputs"),
        (
            {"sample": sample(2, 8, 16, 10)},
            "it: `sample` is (2, 8, 16, 10); expected sample float32 (batch, 9, height, width)",
        ),
        ({"sample": sample(0, 9, 16, 10)}, "it: `sample` is (0, 9, 16, 10); batch must be at least 1: shrug"),
        ({"sample": sample(5, 9, 16, 10)}, "it: `sample` is (5, 9, 16, 10); batch must be at most 4: shrug"),
        ({"sample": sample(2, 9, 20, 10)}, "it: `sample` is (2, 9, 20, 10); height must be a multiple of 8: shrug"),
        ({"sample": sample(2, 9, 104, 10)}, "it: `sample` is (2, 9, 104, 10); height must be at most 96: shrug"),
    ],
)
def test_fault_names_tensor_got_expected_and_remedy(changes: dict[str, object], text: str) -> None:
    with pytest.raises(TensorError) as caught:
        SPEC.check(feeds(**changes), subject="it", remedy="shrug")
    assert str(caught.value) == text


def test_without_remedy_the_sentence_ends_early() -> None:
    with pytest.raises(TensorError, match="height must be at most 96$"):
        SPEC.check(feeds(sample=sample(2, 9, 104, 10)))


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Range(), "1 and more"),
        (Range(min=8, multiple=8), "8 and more, multiples of 8"),
        (Range(min=2, max=6, multiple=2), "2 to 6, multiples of 2"),
    ],
)
def test_range_as_text(limit: Range, text: str) -> None:
    assert str(limit) == text


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 9), st.integers(-5, 100))
def test_range_agrees_with_python(least: int, more: int, multiple: int, size: int) -> None:
    limit = Range(least, least + more, multiple)
    assert (limit.fault(size) is None) == (size in range(least, least + more + 1) and size % multiple == 0)


@pytest.mark.parametrize("dim", ["height", "8*height", "height/8", "2*height/3", "a_b"])
def test_dimension_has_a_symbol(dim: str) -> None:
    assert symbol_of(dim) in ("height", "a_b")


@pytest.mark.parametrize("dim", ["", "8", "height*8", "0*height", "height/0", "08*height", "-height", "Height", "h w"])
def test_no_dimension(dim: str) -> None:
    with pytest.raises(ValueError, match="is not a dimension; expected name"):
        symbol_of(dim)


@given(st.text(alphabet="0123456789*/_ab-٣ \n", max_size=8))
def test_any_text_is_a_dimension_or_refused(text: str) -> None:
    try:
        symbol = symbol_of(text)
    except ValueError:
        return
    assert TensorSpec("t", "float32", (text,)).shape({symbol: 10_000}) >= (0,)
