"""Genuine files of paddle.save read as paddle.load reads them; hostile and damaged ones are refused and run nothing.

Covers `pdparams_writer`, `pickle_machine` and `pickled_values`, too.
"""

from __future__ import annotations

import builtins
import importlib
import io
import os
import pickle
import random
import struct
import sys
import time
import tracemalloc
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_export.checkpoints.pdparams import read_pdparams, widen_bf16
from kandinsky_export.checkpoints.pdparams_writer import write_pdparams
from kandinsky_export.errors import CheckpointError
from kandinsky_runtime.errors import TensorError
from tests.export.checkpoints.hostile_pickles import (
    ARRAY,
    CANARY,
    CORPUS,
    EMPTY_DICT,
    F4,
    FALSE,
    MARK,
    NEW_ARRAY,
    Hostile,
    a_dict,
    integer,
    proto,
    shape,
    state_dict,
    text,
)

PROTOCOLS = [2, 3, 4]
# The machine's own limit of 131,072 small objects, and a decoded copy of text at four bytes a character.
MEMORY_BOUND = 16 * 2**20
MEMORY_PER_BYTE = 5
SECONDS_BOUND = 10  # the slowest takes a fifth of that on two slow cores, with every allocation traced


@pytest.fixture(scope="module")
def paddle() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Paddle's own imports
        return importlib.import_module("paddle")


@pytest.fixture
def save(paddle: Any, tmp_path: Path) -> Callable[[object, int], Path]:
    def save(value: object, protocol: int) -> Path:
        path = tmp_path / f"protocol{protocol}.pdparams"
        paddle.save(value, str(path), protocol=protocol)
        return path

    return save


@pytest.fixture
def read_bytes(tmp_path: Path) -> Callable[[bytes], dict[str, Any]]:
    def read_bytes(data: bytes) -> dict[str, Any]:
        path = tmp_path / "bytes.pdparams"
        path.write_bytes(data)
        return read_pdparams(path)

    return read_bytes


@pytest.fixture(scope="module")
def audit() -> Callable[[], AbstractContextManager[set[str]]]:
    """Return a context manager that yields the names of Python's audit events inside it."""
    events: set[str] = set()
    watching = False

    def hook(event: str, _: tuple[object, ...]) -> None:
        if watching:
            events.add(event)

    @contextmanager
    def audit() -> Iterator[set[str]]:
        nonlocal watching
        events.clear()
        watching = True
        try:
            yield events
        finally:
            watching = False

    sys.addaudithook(hook)  # for good: a hook cannot be removed
    return audit


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert type(actual[name]) is np.ndarray
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape)
        assert actual[name].tobytes() == array.tobytes()
        assert not actual[name].flags.writeable


def refusal(path: str | os.PathLike[str]) -> CheckpointError:
    with pytest.raises(CheckpointError) as refused:
        read_pdparams(path)
    assert os.fspath(path) in str(refused.value)
    return refused.value


# Genuine files


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_state_dict_of_a_layer(paddle: Any, save: Any, protocol: int) -> None:
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 8, 3), paddle.nn.GroupNorm(2, 8), paddle.nn.Linear(300, 300))
    path = save(layer.state_dict(), protocol)
    expected = paddle.load(str(path), return_numpy=True)
    assert list(expected) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert_same(read_pdparams(path), expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool", "bfloat16"]
)
def test_every_dtype(paddle: Any, save: Any, protocol: int, dtype: str) -> None:
    values = paddle.to_tensor(np.arange(-3, 9).reshape(3, 4).astype("float32"))
    tensors = {"matrix": values.astype(dtype), "scalar": paddle.to_tensor(1.0).astype(dtype), "one": values[:1, 0]}
    path = save(tensors, protocol)
    assert_same(read_pdparams(path), paddle.load(str(path), return_numpy=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_every_layout(paddle: Any, save: Any, protocol: int) -> None:
    matrix = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tied = np.arange(5)
    tensors = {
        "fortran": np.asfortranarray(matrix),
        "transposed": matrix.transpose(2, 0, 1),
        "strided": matrix[:, ::2],
        "scalar": np.array(3, np.int32),
        "empty": np.zeros((0, 3), np.float32),
        "empty too": np.zeros((4, 0, 2), np.int64),
        "large": np.arange(100_000, dtype=np.float64).reshape(100, 1000),
        "tied": tied,
        "tied too": tied,
        "Übergewicht, 权重": np.ones(1, np.uint8),
        "kept" * 250: np.ones(300, bool),
    }
    path = save(tensors, protocol)
    tensors_read = read_pdparams(path)
    assert_same(tensors_read, paddle.load(str(path), return_numpy=True))
    assert tensors_read["fortran"].flags.f_contiguous


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_saved_with_their_names(paddle: Any, save: Any, protocol: int) -> None:
    """A dict that is not wholly of tensors takes paddle.save's other way, `(tuple, ((name, ndarray),))`."""
    path = save({"tensor": paddle.ones([2, 3]), "array": np.zeros(4)}, protocol)
    assert b"tuple" in path.read_bytes()
    tensors = read_pdparams(path)
    assert_same(tensors, {"tensor": np.ones((2, 3), np.float32), "array": np.zeros(4)})


@pytest.mark.parametrize("protocol", [2, 3])
def test_tensors_that_paddle_split(paddle: Any, save: Any, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def seven_for_a_gigabyte(value: float) -> int:
        return 7 if value > 1e6 else builtins.int(value)

    io_utils = importlib.import_module("paddle.framework.io_utils")
    with monkeypatch.context() as patch:
        patch.setattr(io_utils, "int", seven_for_a_gigabyte, raising=False)
        tensors = {"a": paddle.rand([4, 5]), "b": paddle.rand([3]), "c": paddle.arange(14).reshape([2, 7])}
        path = save(tensors, protocol)
    assert path.read_bytes().count(b"a@@.2") == 1
    assert_same(read_pdparams(path), paddle.load(str(path), return_numpy=True))


def test_files_of_newer_numpy(paddle: Any, save: Any, read_bytes: Any) -> None:
    """numpy 2 names its private module numpy._core."""
    data = save({"a": paddle.ones([3])}, 2).read_bytes().replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    assert_same(read_bytes(data), {"a": np.ones(3, np.float32)})


def test_an_empty_state_dict(read_bytes: Any) -> None:
    assert read_bytes(proto(EMPTY_DICT + b".")) == {}


def test_tensors_are_views_that_keep_the_file_mapped(save: Any) -> None:
    path = save({"large": np.arange(50_000), "small": np.arange(3)}, 4)
    tensors = read_pdparams(path)
    path.unlink()
    assert type(tensors["large"].base).__name__ == type(tensors["small"].base).__name__ == "mmap"
    assert tensors["large"].sum() == sum(range(50_000))
    with pytest.raises(ValueError, match="read-only"):
        tensors["large"][0] = 1


def test_a_gigabyte_is_neither_read_nor_copied(tmp_path: Path) -> None:
    path = tmp_path / "sparse.pdparams"
    head = MARK + integer(1) + shape(2**28) + F4 + FALSE + b"\x8e" + struct.pack("<Q", 2**30)
    with path.open("wb") as file:
        file.write(proto(EMPTY_DICT + text("weight") + NEW_ARRAY + head, 4))
        file.seek(2**30, os.SEEK_CUR)
        file.write(b"tbs.")
    tracemalloc.start()
    begin = time.perf_counter()
    tensors = read_pdparams(path)
    seconds = time.perf_counter() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tensors["weight"].shape == (2**28,)
    assert tensors["weight"][-1] == 0
    assert seconds < 0.5
    assert peak < 2**20


def test_bf16_widens_exactly(paddle: Any, save: Any) -> None:
    values = paddle.to_tensor([[1.5, -2.0, 3e38], [0.0, float("inf"), 1e-40]]).astype("bfloat16")
    tensors = read_pdparams(save({"a": values, "scalar": values[0, 0]}, 4))
    assert tensors["a"].dtype == np.uint16
    np.testing.assert_array_equal(widen_bf16(tensors["a"]), values.astype("float32").numpy())
    scalar = widen_bf16(tensors["scalar"])
    assert (type(scalar), scalar.shape, scalar.dtype) == (np.ndarray, (), np.float32)
    assert np.isnan(widen_bf16(np.array([0x7FC0], np.uint16)))
    with pytest.raises(TensorError, match="float32"):
        widen_bf16(np.ones(2, np.float32))


# Hostile files


def test_the_corpus_is_large_and_without_twins() -> None:
    assert len(CORPUS) >= 200
    assert len({hostile.data for hostile in CORPUS}) == len(CORPUS)
    assert len({hostile.name for hostile in CORPUS}) == len(CORPUS)
    assert sum(hostile.runs for hostile in CORPUS) >= 40


@pytest.mark.parametrize("hostile", [hostile for hostile in CORPUS if hostile.runs], ids=lambda hostile: hostile.name)
def test_the_corpus_is_armed(hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pdparams"
    path.write_bytes(hostile.data)
    with path.open("rb") as file, suppress(Exception):  # most fail once their call is done
        pickle.load(file)
    assert os.path.lexists(CANARY)


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: hostile.name)
def test_hostile_file(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit: Any, read_bytes: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    read_bytes(state_dict(ARRAY))  # imports the codecs
    path = tmp_path / "hostile.pdparams"
    path.write_bytes(hostile.data)
    tracemalloc.start()
    begin = time.process_time()  # of this process: others may keep the cores busy
    with audit() as events, pytest.raises(CheckpointError) as refused:
        read_pdparams(path)
    seconds = time.process_time() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(path) in str(refused.value)
    assert hostile.reason in str(refused.value)
    assert len(str(refused.value)) < 10_000
    assert events <= {"open", "mmap.__new__"}
    assert not os.path.lexists(CANARY)
    assert peak < MEMORY_BOUND + MEMORY_PER_BYTE * len(hostile.data)
    assert seconds < SECONDS_BOUND


def test_a_refusal_says_where_what_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(proto(b"}X\x01\x00\x00\x00acos\nsystem\n."))
    assert str(refusal(path)) == (
        f"{path}: at byte 9, the global 'os.system' has no place in a state dict; nothing in the file was run: "
        "fetch it again, or save the model's state_dict() alone with paddle.save"
    )


def test_every_wrong_value_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "training.pdparams"
    path.write_bytes(proto(a_dict(model=a_dict(weight=ARRAY), epoch=integer(3), weight=ARRAY) + b"."))
    faults = refusal(path).faults
    assert [fault.split(":")[0] for fault in faults] == [
        "'model' holds a dict, not an array",
        "'epoch' holds an int, not an array",
    ]


# Damaged files


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    assert "No such file or directory" in str(refusal(tmp_path / "missing.pdparams"))
    assert "folder or a device" in str(refusal(tmp_path))
    assert "folder or a device" in str(refusal(tmp_path / "pipe"))
    assert "folder or a device" in str(refusal("/dev/zero"))
    assert "file is empty" in str(refusal(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match="null byte"):
        read_pdparams("a\0b")


def genuine_files(paddle: Any, directory: Path) -> list[bytes]:
    layer = paddle.nn.Sequential(paddle.nn.Linear(2, 3), paddle.nn.GroupNorm(1, 3))
    arrays = OrderedDict(a=np.asfortranarray(np.ones((2, 3))), b=np.array(True), c=np.zeros((0, 2), np.float16))
    values = [layer.state_dict(), dict(arrays), {"tensor": paddle.ones([2, 3]), "array": np.zeros(4, np.int8)}]
    split = a_dict(w=a_dict(OriginShape=shape(2, 2), slices=b"](" + text("w@@.0") + text("w@@.1") + b"e"))
    files = [proto(a_dict(**{"w@@.0": ARRAY, "w@@.1": ARRAY, "UnpackBigParamInfor@@": split}) + b".")]
    for value in values:
        for protocol in PROTOCOLS:
            path = directory / "genuine.pdparams"
            paddle.save(value, str(path), protocol=protocol)
            files.append(path.read_bytes())
    return files


def mutated(source: bytes, other: bytes, choose: random.Random) -> bytes:
    data = bytearray(source)
    for _ in range(choose.choice([1, 1, 1, 2, 4])):
        at = choose.randrange(len(data) + 1)
        match choose.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << choose.randrange(8)
            case 1 if at < len(data):
                data[at] = choose.randrange(256)
            case 2:
                del data[at : at + choose.choice([1, 1, 2, 8, 40, len(data)])]
            case 3:
                data[at:at] = choose.randbytes(choose.choice([1, 1, 2, 8]))
            case 4:
                start = choose.randrange(len(other))
                data[at:at] = other[start : start + choose.randrange(1, 60)]
            case _:
                start = choose.randrange(len(other))
                length = choose.randrange(1, 60)
                data[at : at + length] = other[start : start + length]
    return bytes(data)


class PlainUnpickler(pickle.Unpickler):
    """Python's own reader, for files that name nothing but the globals of a state dict."""

    GLOBALS = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
            ("builtins", "tuple"),
            ("__builtin__", "tuple"),
            ("__builtin__", "bytes"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        assert (module, name) in self.GLOBALS, f"a file that was accepted names {module}.{name}"
        return super().find_class(module, name)


def read_by_python(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a state dict as Python's reader reads them, with split tensors joined."""
    root = PlainUnpickler(io.BytesIO(data)).load()
    root.pop("StructuredToParameterName@@", None)
    splits = root.pop("UnpackBigParamInfor@@", {})
    tensors = {name: value[1] if isinstance(value, tuple) else value for name, value in root.items()}
    for name, split in splits.items():
        parts = [tensors.pop(part) for part in split["slices"]]
        tensors[name] = np.concatenate(parts).reshape(split["OriginShape"])
    return tensors


def test_20_000_mutations_of_genuine_files(paddle: Any, tmp_path: Path) -> None:
    """A mutated file is refused, or it is still a state dict, and Python's own reader reads the same from it."""
    choose = random.Random(20_000)
    sources = genuine_files(paddle, tmp_path)
    path = tmp_path / "mutated.pdparams"
    accepted = 0
    for _ in range(20_000):
        data = mutated(choose.choice(sources), choose.choice(sources), choose)
        path.write_bytes(data)
        try:
            tensors = read_pdparams(path)
        except CheckpointError:
            continue
        accepted += 1
        expected = read_by_python(data)
        assert tensors.keys() == expected.keys()
        for name, array in tensors.items():
            assert (array.shape, array.dtype) == (expected[name].shape, expected[name].dtype)
            assert array.tobytes() == expected[name].tobytes()
    assert 500 < accepted < 1_000  # a payload may change freely; the count depends on the names that Paddle gives


# The writer


def writable() -> dict[str, np.ndarray[Any, Any]]:
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        dtype: np.arange(5).astype(dtype) for dtype in ("f2", "f4", "f8", "i1", "i4", "i8", "u1", "u2", "?")
    }
    return arrays | {
        "scalar": np.array(2.5),
        "empty": np.zeros((3, 0), np.float16),
        "fortran": np.asfortranarray(matrix),
        "strided": matrix[::2, ::-1],
        "big-endian": np.arange(3, dtype=">i4"),
        "large": np.arange(70_000),
        "Übergewicht, 权重": np.ones(1),
    }


@pytest.mark.parametrize("as_pairs", [False, True])
def test_written_files_are_read_by_paddle_and_by_us(paddle: Any, tmp_path: Path, as_pairs: bool) -> None:
    arrays = writable()
    thunks = {name: lambda array=array: array for name, array in arrays.items()}
    path = tmp_path / "written.pdparams"
    write_pdparams(path, iter(thunks.items()) if as_pairs else thunks)
    expected = {name: array.astype(array.dtype.newbyteorder("="), order="A") for name, array in arrays.items()}
    assert_same(read_pdparams(path), expected)
    loaded = paddle.load(str(path), return_numpy=True)
    assert list(loaded) == list(expected)
    for name, array in expected.items():
        assert type(loaded[name]) is np.ndarray
        np.testing.assert_array_equal(loaded[name], array, strict=True)
    assert loaded["fortran"].flags.f_contiguous
    assert set(paddle.load(str(path))) == set(expected)


def test_the_writer_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    def thunk() -> np.ndarray[Any, Any]:
        return np.ones(2**20, np.float32)

    tracemalloc.start()
    write_pdparams(tmp_path / "written.pdparams", ((str(index), thunk) for index in range(8)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * 2**22
    assert (tmp_path / "written.pdparams").stat().st_size > 8 * 2**22


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("taken", np.ones(1), "used twice"),
        ("StructuredToParameterName@@", np.ones(1), "reserved by Paddle"),
        ("UnpackBigParamInfor@@", np.ones(1), "reserved by Paddle"),
        ("n" * 1025, np.ones(1), "1,025 bytes"),
        ("weight", np.ones(1, np.complex64), "complex64"),
        ("weight", np.array([None]), "object"),
        ("weight", np.zeros(1, [("a", "f4")]), "none of f2"),
    ],
)
def test_the_writer_refuses_what_cannot_be_read_back(
    tmp_path: Path, name: str, array: np.ndarray[Any, Any], reason: str
) -> None:
    with pytest.raises(TensorError, match=reason):
        write_pdparams(tmp_path / "written.pdparams", [("taken", lambda: np.ones(2)), (name, lambda: array)])
