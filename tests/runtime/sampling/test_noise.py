"""Noise sources: torch's numbers (golden arrays from torch), recordings, batches."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky_runtime.errors import InputError, UsageError
from kandinsky_runtime.sampling.noise import (
    BatchNoise,
    NoiseSource,
    NumpyNoise,
    RecordingNoise,
    ReplayNoise,
    RunNoise,
    TorchNoise,
)
from scripts.goldens.schedulers import RANDN_SEEDS, RANDN_SEQUENCES, stored_part
from tests.golden import GOLDEN
from tests.tolerances import STANDARD_ERRORS, TORCH_NORMALS

FILE = GOLDEN / "torch_randn.npz"
REMAKE = "remake the golden arrays with scripts/regen_goldens if the seeds or sequences changed"

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@pytest.fixture(scope="module")
def golden() -> dict[str, npt.NDArray[Any]]:
    with np.load(FILE, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize("seed", RANDN_SEEDS)
def test_the_integer_stream_equals_torchs_bit_for_bit(golden: dict[str, npt.NDArray[Any]], seed: int) -> None:
    # More than one state of MT19937, which has 624 integers.
    np.testing.assert_array_equal(TorchNoise(seed).integers(700), golden[f"integers_{seed}"], err_msg=REMAKE)


@pytest.mark.parametrize("number", range(len(RANDN_SEQUENCES)))
@pytest.mark.parametrize("seed", RANDN_SEEDS)
def test_draws_are_torch_randns(golden: dict[str, npt.NDArray[Any]], seed: int, number: int) -> None:
    """Small and large draws in a row from one generator, among them every size from 1 to 40."""
    source = TorchNoise(seed)
    draws = [source.draw(shape) for shape in RANDN_SEQUENCES[number]]
    assert [draw.shape for draw in draws] == list(RANDN_SEQUENCES[number])
    assert {draw.dtype for draw in draws} == {np.dtype(np.float32)}
    ours = np.concatenate([stored_part(draw) for draw in draws])
    np.testing.assert_allclose(ours, golden[f"sequence_{number}_{seed}"], rtol=0, atol=TORCH_NORMALS, err_msg=REMAKE)


@settings(deadline=None)
@given(seed=st.integers(-(2**63), 2**64 - 1), shape=SHAPES)
def test_only_the_lower_half_of_a_seed_is_used(seed: int, shape: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(TorchNoise(seed).draw(shape), TorchNoise(seed % 2**32).draw(shape))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shapes=st.lists(SHAPES, max_size=6))
def test_a_recording_replays_what_was_drawn(seed: int, shapes: list[tuple[int, ...]]) -> None:
    recording = RecordingNoise(TorchNoise(seed))
    drawn = [recording.draw(shape) for shape in shapes]
    for array in drawn:
        array.fill(0)  # the recording must not share memory with the draw
    again = TorchNoise(seed)
    replayed = ReplayNoise(recording.draws)
    for shape in shapes:
        np.testing.assert_array_equal(replayed.draw(shape), again.draw(shape))


@pytest.mark.parametrize("seed", [-(2**63) - 1, 2**64, 1.5, "1", None, True])
def test_seeds_that_torch_refuses_are_refused(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed"):
        TorchNoise(seed)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, False])
def test_bad_seeds_of_numpy_are_refused(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed"):
        NumpyNoise(seed)


def test_numpy_noise_equals_numpys_generator() -> None:
    source = NumpyNoise(7)
    generator = np.random.Generator(np.random.PCG64(7))
    for shape in ((2, 3), (1,), ()):
        np.testing.assert_array_equal(source.draw(shape), generator.standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("source", [TorchNoise, NumpyNoise])
def test_noise_is_standard_normal(source: Callable[[int], NoiseSource]) -> None:
    draw = np.sort(source(3).draw((100, 1000)).reshape(-1).astype(np.float64))
    assert abs(draw.mean()) < STANDARD_ERRORS / math.sqrt(draw.size)
    assert abs(draw.std() - 1) < STANDARD_ERRORS / math.sqrt(2 * draw.size)
    # Kolmogorov-Smirnov: the greatest distance from the normal distribution, below its 0.1% point of 1.95 / sqrt(n).
    normal = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in draw[::10]])
    assert np.abs(normal - np.arange(0, draw.size, 10) / draw.size).max() < 1.95 / math.sqrt(draw.size)


@pytest.mark.parametrize("source", [TorchNoise, NumpyNoise])
def test_no_global_random_state_is_touched(source: Callable[[int], NoiseSource]) -> None:
    before = np.random.get_state(legacy=False)
    source(0).draw((1, 4, 8, 8))
    after = np.random.get_state(legacy=False)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    np.testing.assert_array_equal(before["state"]["key"], after["state"]["key"])
    assert before["state"]["pos"] == after["state"]["pos"]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (16,), (2, 4, 3, 3)])
@pytest.mark.parametrize("make", [TorchNoise, NumpyNoise])
def test_a_draw_can_be_written_into_the_callers_array(make: Any, shape: tuple[int, ...]) -> None:
    out = np.full(shape, np.nan, dtype=np.float32)
    assert make(5).draw(shape, out) is out
    np.testing.assert_array_equal(out, make(5).draw(shape))


def test_further_draws_allocate_the_integers_alone() -> None:
    source = TorchNoise(0)
    out = source.draw((1, 4, 96, 96))
    tracemalloc.start()
    try:
        source.draw(out.shape, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The integers, as many bytes as the draw, and numpy's buffer for conversions, 32 kB.
    assert peak < 1.4 * out.nbytes


@pytest.mark.parametrize(
    "out",
    [np.empty((3, 2), np.float32), np.empty((2, 3)), np.empty((3, 2), np.float32).T],
    ids=["shape", "dtype", "layout"],
)
def test_arrays_that_a_draw_does_not_fit_are_refused(out: npt.NDArray[Any]) -> None:
    with pytest.raises(UsageError, match="out is"):
        TorchNoise(0).draw((2, 3), out)


def test_a_sample_has_the_same_noise_alone_and_in_a_batch() -> None:
    shape = (4, 3, 3)
    batch = BatchNoise([TorchNoise(seed) for seed in (5, 6, 7)])
    alone = [TorchNoise(seed) for seed in (5, 6, 7)]
    for _ in range(3):
        together = batch.draw((3, *shape))
        for sample, source in enumerate(alone):
            np.testing.assert_array_equal(together[sample : sample + 1], source.draw((1, *shape)))


@pytest.mark.parametrize("shape", [(), (2, 4), (4, 4)])
def test_a_draw_for_another_number_of_samples_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="3 sources"):
        BatchNoise([TorchNoise(seed) for seed in (5, 6, 7)]).draw(shape)


def test_a_batch_without_sources_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        BatchNoise([])


@pytest.mark.parametrize("suffix", [".npz", ".noise"])
def test_a_saved_recording_is_read_back(tmp_path: Path, suffix: str) -> None:
    recording = RecordingNoise(TorchNoise(3))
    drawn = [recording.draw(shape).copy() for shape in ((1, 4, 6, 6), (2,), (1, 4, 6, 6))]
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(b"an older file")
    recording.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    source = ReplayNoise(path)
    for array in drawn:
        np.testing.assert_array_equal(source.draw(array.shape), array)
    with pytest.raises(InputError, match="all 3 draws are used"):
        source.draw((1, 4, 6, 6))


def test_draws_stay_in_order_beyond_four_digits(tmp_path: Path) -> None:
    path = tmp_path / "noise.npz"
    names = [*range(10001)]
    with path.open("wb") as file:
        np.savez(file, **{f"draw_{number:04d}": np.full(1, number, np.float32) for number in reversed(names)})
    source = ReplayNoise(path)
    assert [int(source.draw((1,))[0]) for _ in names] == names


def test_a_recording_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = RecordingNoise(TorchNoise(3))
    recording.draw((4,))
    path = tmp_path / "noise.npz"
    path.write_bytes(b"an older file")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        recording.save(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"an older file"]


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    """Numpy's zip writer has a destructor that fails once more, with a traceback on stderr."""
    resource = pytest.importorskip("resource")
    recording = RecordingNoise(TorchNoise(3))
    recording.draw((1, 4, 64, 64))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            recording.save(tmp_path / "noise.npz")
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_recording_of_another_shape_is_refused_and_not_consumed() -> None:
    source = ReplayNoise([np.zeros((1, 4, 8, 8), np.float32)])
    with pytest.raises(InputError, match=r"draw 0 has shape \(1, 4, 8, 8\); expected \(2, 4, 8, 8\): use the options"):
        source.draw((2, 4, 8, 8))
    assert source.draw((1, 4, 8, 8)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    "array",
    [np.zeros(3), np.array([1, np.nan], np.float32), np.array([np.inf], np.float32), [0.0]],
    ids=["float64", "nan", "infinite", "list"],
)
def test_recorded_arrays_must_be_finite_float32(array: Any) -> None:
    with pytest.raises(InputError, match="draw 0 is not"):
        ReplayNoise([array])


def _npz(path: Path, **arrays: Any) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3, np.float32))


def _damaged(path: Path) -> None:
    _npz(path, draw_0000=np.zeros(1000, np.float32))
    data = bytearray(path.read_bytes())
    data[500] ^= 0xFF
    path.write_bytes(data)


def _cut(path: Path) -> None:
    _npz(path, draw_0000=np.zeros(1000, np.float32))
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no such file"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"no archive"), "cannot be read"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut short"), "cannot be read"),
        (_damaged, "cannot be read"),
        (_cut, "cannot be read"),
        (_npy, "not an .npz file"),
        (lambda path: _npz(path), "holds nothing"),
        (lambda path: _npz(path, latents=np.zeros(3, np.float32)), "holds latents"),
        (lambda path: _npz(path, draw_0001=np.zeros(3, np.float32)), "not numbered 0 to 0"),
        (lambda path: _npz(path, draw_0000=np.array([None])), "cannot be read"),
        (lambda path: _npz(path, draw_0000=np.zeros(3)), "draw 0 is not"),
    ],
)
def test_files_that_are_not_recordings_are_refused(tmp_path: Path, write: Any, message: str) -> None:
    path = tmp_path / "noise.npz"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        ReplayNoise(path)
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "noise.npz"
    _npz(path, draw_0000=np.zeros(20, np.float32), draw_0001=np.ones((2, 3), np.float32))
    return path


@settings(deadline=None, max_examples=200)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_recording_with_a_byte_changed_is_read_or_refused(recording: Path, place: float, byte: int) -> None:
    data = bytearray(recording.read_bytes())
    data[int(place * len(data))] = byte
    path = recording.with_name("changed.npz")
    path.write_bytes(data)
    try:
        source: NoiseSource = ReplayNoise(path)
    except InputError as error:
        message = str(error)
    else:
        message = str(path)
        source.draw((20,))
    assert str(path) in message


@pytest.mark.parametrize(("kind", "source"), [("torch", TorchNoise), ("numpy", NumpyNoise)])
def test_a_kind_gives_its_source(kind: str, source: type[NoiseSource]) -> None:
    made = RunNoise(kind, (11,)).samples[0]
    assert type(made) is source
    np.testing.assert_array_equal(made.draw((20,)), RunNoise(kind, (11,)).samples[0].draw((20,)))


def test_a_run_draws_for_samples_and_then_for_the_batch_from_the_same_streams() -> None:
    run = RunNoise("torch", (7, 8), recorded=True)
    own = [source.draw((1, 20)) for source in run.samples]
    together = run.batch.draw((2, 3, 8))
    for row, seed in enumerate(run.seeds):
        alone = TorchNoise(seed or 0)
        np.testing.assert_array_equal(own[row], alone.draw((1, 20)))
        np.testing.assert_array_equal(together[row : row + 1], alone.draw((1, 3, 8)))
    assert run.recording is not None
    for draw, recorded in zip((*own, together), run.recording.draws, strict=True):
        np.testing.assert_array_equal(recorded, draw)


def test_a_callers_source_is_used_for_every_sample_in_turn() -> None:
    run, alone = RunNoise(NumpyNoise(3), (7, 8)), NumpyNoise(3)
    for source, shape in ((run.samples[1], (1, 4)), (run.samples[0], (1, 4)), (run.batch, (2, 5))):
        np.testing.assert_array_equal(source.draw(shape), alone.draw(shape))
    assert run.seeds == (None, None)
    assert run.recording is None


@pytest.mark.parametrize("noise", ["cuda", "replay", "", None, 3, TorchNoise])
def test_unknown_noise_of_a_run_is_refused(noise: Any) -> None:
    with pytest.raises(UsageError, match="noise is .*; choose from torch, numpy"):
        RunNoise(noise, (1,))
