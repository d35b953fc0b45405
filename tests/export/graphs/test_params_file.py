"""The shared weights file: read back by Paddle, by ONNX, and byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tqdm import tqdm

from kandinsky_export.graphs.params_file import Placement, write_params
from kandinsky_export.vendors import paddle
from tests.export.checkpoints.weight_files import as_thunks

Array = npt.NDArray[np.float32]
RNG = np.random.default_rng(5)
SHAPES: Mapping[str, tuple[int, ...]] = {
    "scalar": (),
    "one": (1,),
    "ones": (1, 1, 1, 1, 1, 1, 1),
    "odd": (3, 5, 7),
    "just_under_a_block": (16383,),
    "a_block": (16384,),
    "over_a_block": (129, 130),
    "conv.weight": (8, 9, 3, 3),
    "Capital": (2, 2),
    "a.10": (4,),
    "a.9": (4,),
    "wide": (1, 200, 1),
}


def write(path: Path, arrays: Mapping[str, Array]) -> dict[str, Placement]:
    return write_params(path, as_thunks(arrays))


@pytest.fixture(scope="module")
def arrays() -> dict[str, Array]:
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_values_lie_where_it_says(arrays: dict[str, Array], tmp_path: Path) -> None:
    placements = write(tmp_path / "w", arrays)
    assert list(placements) == sorted(arrays)  # Paddle reads them in the order of their names
    content = (tmp_path / "w").read_bytes()
    end = 0
    for name, placement in placements.items():
        array = arrays[name]
        assert placement.length == array.nbytes
        assert content[placement.offset : placement.offset + placement.length] == array.tobytes()
        assert placement.offset % (4096 if array.nbytes >= 65536 else 64) == 0
        assert placement.offset > end
        end = placement.offset + placement.length
    assert len(content) == end


def test_paddle_reads_it(arrays: dict[str, Array], tmp_path: Path) -> None:
    """Through the loader that Paddle Inference uses, which takes names in sorted order and values by position."""
    write(tmp_path / "w", arrays)
    read = paddle_load(tmp_path / "w", {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        assert read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)


def paddle_load(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[Any]]:
    targets = [paddle.zeros(shapes[name], "float32") for name in sorted(shapes)]
    tensors = [target.get_tensor() for target in targets]
    paddle.base.core.load_combine_func(str(path), sorted(shapes), tensors, False, paddle.CPUPlace())
    return {name: target.numpy() for name, target in zip(sorted(shapes), targets, strict=True)}


def test_onnx_reads_it(arrays: dict[str, Array], tmp_path: Path) -> None:
    placements = write(tmp_path / "w", arrays)
    graph = helper.make_graph([], "graph", [], [])
    for name, placed in placements.items():
        tensor = graph.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT, dims=arrays[name].shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "w"), ("offset", placed.offset), ("length", placed.length)):
            tensor.external_data.add(key=key, value=str(value))
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
    for tensor in onnx.load(str(tmp_path / "model.onnx")).graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), arrays[tensor.name])


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text("ab._0", min_size=1, max_size=6), st.lists(st.integers(1, 9), max_size=5), min_size=1))
def test_any_names_and_shapes(tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]]) -> None:
    path = tmp_path_factory.mktemp("params") / "w"
    arrays = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    write(path, arrays)
    read = paddle_load(path, {name: array.shape for name, array in arrays.items()})
    assert all(np.array_equal(read[name], array) for name, array in arrays.items())


def test_other_layouts_and_dtypes_become_contiguous_float32(tmp_path: Path) -> None:
    turned = RNG.standard_normal((4, 6)).astype(np.float32).T
    doubles = RNG.standard_normal(3)
    placements = write(tmp_path / "w", {"a": turned, "b": doubles, "c": np.zeros((0, 3), np.float32)})  # type: ignore[dict-item]
    content = (tmp_path / "w").read_bytes()
    for name, array in (("a", turned), ("b", doubles.astype(np.float32))):
        placed = placements[name]
        assert content[placed.offset : placed.offset + placed.length] == array.tobytes("C")
    assert placements["c"].length == 0


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    class Tracked(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            alive.remove("array")

    def make() -> Array:
        assert not alive
        alive.append("array")
        return np.ones(3, np.float32).view(Tracked)

    with tqdm(total=36, disable=True) as bar:
        write_params(tmp_path / "w", dict.fromkeys("abc", make), bar)
    assert not alive


def test_the_bar_counts_the_bytes_of_values(arrays: dict[str, Array], tmp_path: Path, capsys: Any) -> None:
    total = sum(array.nbytes for array in arrays.values())
    with tqdm(total=total) as bar:
        write_params(tmp_path / "w", as_thunks(arrays), bar)
        assert bar.n == total


def test_a_full_disk_is_an_oserror_with_its_number() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write(Path("/dev/full"), {"a": np.ones(1 << 16, np.float32)})
    assert caught.value.errno == 28
