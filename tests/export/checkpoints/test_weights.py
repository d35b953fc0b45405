"""Weight files: whole and in shards, damaged, hostile, and changed behind our back."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kandinsky_export.checkpoints.pdparams_writer import write_pdparams
from kandinsky_export.checkpoints.weights import read_weights, weight_files
from kandinsky_export.errors import CheckpointError
from tests.export.checkpoints.weight_files import as_thunks, save_safetensors, save_shards, to_bf16

VALUES = np.random.default_rng(0).standard_normal((3, 5, 2), np.float32)
TENSORS: dict[str, npt.NDArray[Any]] = {
    "f32": VALUES,
    "f16": VALUES.astype(np.float16),
    "f64": VALUES.astype(np.float64),
    "bf16": to_bf16(VALUES),
    "one": np.ones(1, np.float32),
    "empty": np.ones((0, 4), np.float32),
    "empty_bf16": np.ones((2, 0), np.uint16),
}


def fault_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        [tensor.read() for tensor in read_weights(path).values()]
    (fault,) = caught.value.faults
    return fault


def as_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array.astype(np.float32)


@pytest.mark.parametrize("suffix", ["safetensors", "pdparams"])
class TestBothFormats:
    def write(self, path: Path, tensors: dict[str, npt.NDArray[Any]]) -> Path:
        if path.suffix == ".pdparams":
            write_pdparams(path, as_thunks(tensors))
        else:
            save_safetensors(path, tensors)
        return path

    def test_values(self, suffix: str, tmp_path: Path) -> None:
        read = read_weights(self.write(tmp_path / f"w.{suffix}", TENSORS))
        assert read.keys() == TENSORS.keys()
        for name, array in TENSORS.items():
            values = read[name].read()
            np.testing.assert_array_equal(values, as_float32(array))
            assert read[name].shape == values.shape == array.shape
            assert values.dtype == np.float32
            assert values.flags.aligned
            assert values.flags.writeable  # an array of its own
            assert read[name].is_float

    def test_whole_numbers_are_told_apart(self, suffix: str, tmp_path: Path) -> None:
        tensors = {"a": np.arange(3), "b": np.arange(3, dtype=np.int32)}
        read = read_weights(self.write(tmp_path / f"w.{suffix}", tensors))
        assert [item.is_float for item in read.values()] == [False, False]
        assert [item.dtype.upper()[0] for item in read.values()] == ["I", "I"]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bf16"])
    def test_numbers_that_are_not_finite(self, bad: float, dtype: str, suffix: str, tmp_path: Path) -> None:
        values = VALUES.copy()
        values[1, 2, 1] = bad
        stored = to_bf16(values) if dtype == "bf16" else values.astype(dtype)
        path = self.write(tmp_path / f"w.{suffix}", {"good": VALUES, "bad": stored})
        assert fault_of(path) == "`bad` has NaN or infinity"

    def test_a_number_too_large_for_float32(self, suffix: str, tmp_path: Path) -> None:
        path = self.write(tmp_path / f"w.{suffix}", {"large": np.array([1e300])})
        assert fault_of(path) == "`large` has NaN or infinity"

    def test_a_file_that_is_cut_short(self, suffix: str, tmp_path: Path) -> None:
        path = self.write(tmp_path / f"w.{suffix}", TENSORS)
        content = path.read_bytes()
        for length in (0, 1, 7, 8, 9, 40, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            assert fault_of(path)

    @pytest.mark.parametrize("what", ["missing", "folder", "noise"])
    def test_no_such_file(self, what: str, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"w.{suffix}"
        if what == "folder":
            path.mkdir()
        elif what == "noise":
            path.write_bytes(np.random.default_rng(0).bytes(1000))
        assert fault_of(path)


def test_pages_of_a_mapped_file_are_given_back(tmp_path: Path) -> None:
    """Reading a large .pdparams tensor by tensor holds one tensor, not the file."""
    write_pdparams(tmp_path / "w.pdparams", [(str(i), lambda: np.ones(16 << 20 >> 2, np.float32)) for i in range(8)])
    program = """
        import pathlib, sys
        from kandinsky_export.checkpoints.weights import read_weights

        def resident():
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

        before = resident()
        for tensor in read_weights(pathlib.Path(sys.argv[1])).values():
            tensor.read()
            assert resident() - before < 20 << 10, resident() - before  # KiB; the file has 128 << 10
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "w.pdparams")], check=True)


class TestSafetensors:
    @pytest.mark.parametrize("dtype", ["F32", "BF16"])
    def test_a_file_cut_short_after_it_was_opened(self, dtype: str, tmp_path: Path) -> None:
        path = tmp_path / "w.safetensors"
        save_safetensors(path, {"a": VALUES if dtype == "F32" else to_bf16(VALUES)})
        tensors = read_weights(path)
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(CheckpointError, match="`a` cannot be read any more"):
            tensors["a"].read()
        path.unlink()
        with pytest.raises(CheckpointError, match="`a` cannot be read any more"):
            tensors["a"].read()

    def test_a_dtype_that_is_not_read(self, tmp_path: Path) -> None:
        header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
        path = tmp_path / "w.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        tensor = read_weights(path)["a"]
        assert (tensor.dtype, tensor.is_float) == ("F8_E4M3", False)


class TestShards:
    INDEX = "w.safetensors.index.json"

    def test_values_and_files(self, tmp_path: Path) -> None:
        save_shards(tmp_path, TENSORS, self.INDEX, "w-{}.safetensors")
        read = read_weights(tmp_path / self.INDEX)
        assert list(read) == list(TENSORS)
        for name, array in TENSORS.items():
            np.testing.assert_array_equal(read[name].read(), as_float32(array))
        assert weight_files(tmp_path / self.INDEX) == (
            tmp_path / self.INDEX,
            *(tmp_path / f"w-{i:05}-of-00003.safetensors" for i in (1, 2, 3)),
        )

    def test_shards_may_be_links(self, tmp_path: Path) -> None:
        """The cache of huggingface_hub has links to files elsewhere."""
        (tmp_path / "blobs").mkdir()
        (tmp_path / "snapshot").mkdir()
        save_shards(tmp_path / "snapshot", TENSORS, self.INDEX, "w-{}.safetensors")
        for path in (tmp_path / "snapshot").iterdir():
            path.rename(tmp_path / "blobs" / path.name)
            path.symlink_to(tmp_path / "blobs" / path.name)
        assert list(read_weights(tmp_path / "snapshot" / self.INDEX)) == list(TENSORS)

    def test_every_bad_shard_is_listed(self, tmp_path: Path) -> None:
        save_shards(tmp_path, TENSORS, self.INDEX, "w-{}.safetensors")
        (tmp_path / "w-00001-of-00003.safetensors").unlink()
        (tmp_path / "w-00002-of-00003.safetensors").write_bytes(b"short")
        save_safetensors(tmp_path / "w-00003-of-00003.safetensors", {"other": VALUES})
        with pytest.raises(CheckpointError) as caught:
            read_weights(tmp_path / self.INDEX)
        assert [fault.partition(" ")[0] for fault in caught.value.faults] == [
            "w-00001-of-00003.safetensors:",
            "w-00002-of-00003.safetensors:",
            "w-00003-of-00003.safetensors",
            "w-00003-of-00003.safetensors",
        ]
        assert "lacks `f64`, which the index says it has" in caught.value.faults[2]

    @pytest.mark.parametrize(
        "file",
        [
            "../w.safetensors",
            "/etc/w.safetensors",
            "sub/w.safetensors",
            "..\\w.safetensors",
            "..",
            ".",
            "",
            "w\0.safetensors",
            "weights.bin",
        ],
    )
    def test_an_index_that_names_no_plain_file(self, file: str, tmp_path: Path) -> None:
        (tmp_path / self.INDEX).write_text(json.dumps({"weight_map": {"a": file, "b": "w.safetensors"}}))
        with pytest.raises(CheckpointError) as caught:
            read_weights(tmp_path / self.INDEX)
        assert caught.value.faults == (f"{file!r} is not the plain name of a .safetensors file",)

    @pytest.mark.parametrize(
        "content",
        ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": []}', "[" * 100_000],
    )
    def test_no_index(self, content: str, tmp_path: Path) -> None:
        (tmp_path / self.INDEX).write_text(content)
        for read in (read_weights, weight_files):
            with pytest.raises(CheckpointError, match="index"):
                read(tmp_path / self.INDEX)
