"""Sources of random numbers: torch's generator, numpy's generator, or a recording.

A source draws float32 arrays of standard normal numbers, one after another. No source touches numpy's global random
state.
"""

from __future__ import annotations

import io
import math
import operator
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.checks import whole_number
from kandinsky_runtime.errors import InputError, UsageError
from kandinsky_runtime.files import read_pipe, write_whole

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]

SEEDED_KINDS = ("torch", "numpy")

_BLOCK = 16
_HALF = _BLOCK // 2
_KEY = re.compile(r"draw_(\d{4,})")
_MOST_BYTES = 1 << 32  # of a pipe
_SAME_OPTIONS = "use the options of the recorded run"


class NoiseSource(ABC):
    """A stream of standard normal draws."""

    def draw(self, shape: Shape, out: Array | None = None) -> Array:
        """The next draw.

        Args:
            shape: the shape of the draw.
            out: the array to write to, contiguous float32 of `shape`; None allocates one.

        Returns:
            `out`, or the new array.

        Raises:
            InputError: a recording is used up, or its next draw has another shape.
            UsageError: `out` has another shape, dtype or layout.
        """
        shape = tuple(operator.index(extent) for extent in shape)
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise UsageError(f"out is {out.dtype} {out.shape}; expected contiguous float32 {shape}")
        self._fill(out)
        return out

    @abstractmethod
    def _fill(self, out: Array) -> None:
        """Write the next draw into `out`, which is contiguous."""


class TorchNoise(NoiseSource):
    """The numbers of torch.randn with torch.Generator("cpu").manual_seed(seed), on a machine where torch has AVX2.

    The stream of integers is MT19937's, bit for bit. The floats agree to 5e-7. Torch without AVX2 evaluates the same
    formula in another precision, and differs from torch with AVX2 by 2.4e-6.

    A draw of 16 numbers or more is made in float32, in blocks of 16, by the Box-Muller transform (Box & Muller 1958).
    A smaller draw is made in float64, two numbers at a time; the second number is saved for the next small draw.

    Raises:
        UsageError: the seed is not an integer from -2**63 to 2**64 - 1. As in torch, only its lower 32 bits are used.
    """

    def __init__(self, seed: int) -> None:
        seed = whole_number("seed", seed, -(2**63), 2**64 - 1)
        # RandomState seeds MT19937 as torch does, by init_genrand of Matsumoto & Nishimura 2002.
        state: Any = np.random.RandomState(seed & 0xFFFFFFFF).get_state(legacy=False)
        engine = np.random.MT19937(0)
        engine.state = state
        self._generator = np.random.Generator(engine)
        self._spare: float | None = None
        self._work = np.empty((3, 0, _HALF), dtype=np.float32)

    def integers(self, count: int) -> npt.NDArray[np.uint32]:
        """Take the next `count` 32-bit integers from the stream of the draws."""
        return self._generator.integers(0, 2**32, size=count, dtype=np.uint32)

    def _fill(self, out: Array) -> None:
        flat = out.reshape(-1)
        if flat.size < _BLOCK:
            for position in range(flat.size):
                flat[position] = self._next_small()
            return
        whole = flat.size // _BLOCK * _BLOCK
        if self._work.shape[1] < whole // _BLOCK:
            self._work = np.empty((3, whole // _BLOCK, _HALF), dtype=np.float32)
        _box_muller(self.integers(flat.size)[:whole], self._work[:, : whole // _BLOCK], flat[:whole])
        if whole < flat.size:
            # Torch fills an incomplete last block by drawing the last 16 numbers again, from 16 fresh integers.
            _box_muller(self.integers(_BLOCK), self._work[:, :1], flat[-_BLOCK:])

    def _next_small(self) -> float:
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        high, low, high_too, low_too = (int(word) for word in self.integers(4))
        angle = 2 * math.pi * _uniform53(high, low)
        radius = math.sqrt(-2 * math.log1p(-_uniform53(high_too, low_too)))
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)


class NumpyNoise(NoiseSource):
    """The numbers of numpy.random.Generator(PCG64(seed)).standard_normal, in float32.

    Raises:
        UsageError: the seed is not an integer of 0 or more.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(whole_number("seed", seed, 0)))

    def _fill(self, out: Array) -> None:
        self._generator.standard_normal(out.shape, dtype=np.float32, out=out)


class ReplayNoise(NoiseSource):
    """Recorded draws, in order.

    Args:
        recording: the arrays of the draws, or an .npz file with the arrays draw_0000, draw_0001, …, as
            `RecordingNoise.save` writes it.

    Raises:
        InputError: the file is missing, damaged, or not a recording; or an array is not finite float32. `draw` raises
            it if the recording is used up, or if its next draw has another shape.
    """

    def __init__(self, recording: str | os.PathLike[str] | Sequence[Array]) -> None:
        if isinstance(recording, (str, os.PathLike)):
            self._name = f"noise recording {os.fspath(recording)}"
            self._draws = _load(Path(recording), self._name)
        else:
            self._name = "noise recording"
            self._draws = list(recording)
        for number, array in enumerate(self._draws):
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not np.isfinite(array).all():
                raise InputError(f"{self._name}: draw {number} is not an array of finite float32 numbers")
        self._next = 0

    @property
    def unused(self) -> str | None:
        """A note if draws are left: the run differs from the recorded one. None if all were used."""
        left = len(self._draws) - self._next
        if not left:
            return None
        return (
            f"{self._name}: {left} of its {len(self._draws)} draws {'was' if left == 1 else 'were'} not used; for the"
            f" recorded picture, {_SAME_OPTIONS}"
        )

    def _fill(self, out: Array) -> None:
        if self._next >= len(self._draws):
            raise InputError(
                f"{self._name}: all {len(self._draws)} draws are used, and the run needs another one; {_SAME_OPTIONS}"
            )
        draw = self._draws[self._next]
        if draw.shape != out.shape:
            raise InputError(
                f"{self._name}: draw {self._next} has shape {draw.shape}; expected {out.shape}: {_SAME_OPTIONS}"
            )
        self._next += 1
        np.copyto(out, draw)


class RecordingNoise(NoiseSource):
    """Passes on the draws of `source` and records a copy of each."""

    def __init__(self, source: NoiseSource) -> None:
        self._source = source
        self._draws: list[Array] = []

    def _fill(self, out: Array) -> None:
        self._source.draw(out.shape, out)
        self._draws.append(out.copy())

    def with_source(self, source: NoiseSource) -> RecordingNoise:
        """A recorder of another source, whose draws are added to the same recording."""
        other = RecordingNoise(source)
        other._draws = self._draws
        return other

    @property
    def draws(self) -> tuple[Array, ...]:
        """The draws so far, in order."""
        return tuple(self._draws)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all draws so far to an .npz file that `ReplayNoise` reads. The write is atomic.

        Raises:
            OSError: the file cannot be written.
        """
        draws = {f"draw_{number:04d}": draw for number, draw in enumerate(self._draws)}
        # To memory: a file that fails under numpy's zip writer is reported a second time, by its destructor.
        content = io.BytesIO()
        np.savez(content, **draws)
        write_whole(Path(path), content.getvalue())


class RunNoise:
    """The noise of one run: a source for each sample and a source for the whole batch. It can be recorded.

    The prior draws for single samples, before the decoder draws for the batch.

    Attributes:
        samples: one source for each sample. A caller's own source is used for all of them in turn.
        batch: the source of draws for all samples; the first extent of a draw is the number of samples.
        seeds: the seed of each sample, or None if the noise comes from a caller's source.
        recording: the recording of every draw, or None.

    Raises:
        UsageError: the kind of noise is unknown, or a seed is out of its range.
    """

    def __init__(self, noise: str | NoiseSource, seeds: Sequence[int], *, recorded: bool = False) -> None:
        if isinstance(noise, NoiseSource):
            self.samples, self.batch = [noise] * len(seeds), noise
            self.seeds: tuple[int | None, ...] = (None,) * len(seeds)
        elif isinstance(noise, str) and noise in SEEDED_KINDS:
            self.samples = [TorchNoise(seed) if noise == "torch" else NumpyNoise(seed) for seed in seeds]
            self.batch, self.seeds = BatchNoise(self.samples), tuple(seeds)
        else:
            raise UsageError(f"noise is {noise!r}; choose from {', '.join(SEEDED_KINDS)}")
        self.recording: RecordingNoise | None = None
        if recorded:
            self.batch = self.recording = RecordingNoise(self.batch)
            self.samples = [self.recording.with_source(source) for source in self.samples]


class BatchNoise(NoiseSource):
    """One source per sample: a sample's noise is the same alone and in a batch.

    Raises:
        UsageError: there are no sources. `draw` raises it if the first extent is not the number of sources.
    """

    def __init__(self, sources: Sequence[NoiseSource]) -> None:
        self._sources = tuple(sources)
        if not self._sources:
            raise UsageError("a batch of noise needs at least one source")

    def _fill(self, out: Array) -> None:
        if out.ndim == 0 or len(out) != len(self._sources):
            count = len(self._sources)
            raise UsageError(f"the draw has shape {out.shape}; expected {count} rows, one for each of {count} sources")
        for sample, source in enumerate(self._sources):
            rows = out[sample : sample + 1]
            source.draw(rows.shape, rows)


def _uniform53(high: int, low: int) -> float:
    """The lower 53 bits of a 64-bit integer as a float in [0, 1)."""
    return ((high << 32 | low) & (2**53 - 1)) * 2.0**-53


def _box_muller(integers: npt.NDArray[np.uint32], work: Array, out: Array) -> None:
    """Normal numbers in k blocks of 16, each from 8 integers for the radii and 8 for the angles.

    Args:
        integers: (16·k,) integers, whose lower 24 bits are a number u in [0, 1); overwritten.
        work: scratch memory, (3, k, 8).
        out: the array to write to, (16·k,).
    """
    radius, angle, cosine = work  # each (k, 8)
    integers &= np.uint32(0xFFFFFF)
    words = integers.reshape(-1, 2, _HALF)
    radius[:], angle[:] = words[:, 0], words[:, 1]
    radius *= np.float32(-(2.0**-24))
    radius += np.float32(1)  # 1 - u, exact
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    angle *= np.float32(2.0**-24)
    angle *= np.float32(2 * math.pi)
    np.cos(angle, out=cosine)
    np.sin(angle, out=angle)
    normal = out.reshape(-1, 2, _HALF)
    np.multiply(cosine, radius, out=normal[:, 0])
    np.multiply(angle, radius, out=normal[:, 1])


def _load(path: Path, name: str) -> list[Array]:
    try:
        content = read_pipe(path, name, _MOST_BYTES)
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            return _recorded(np.load(file, allow_pickle=False), name)
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise InputError(f"{name}: there is no such file") from error
    except Exception as error:  # a damaged file can fail anywhere in zipfile, zlib and numpy's reader
        raise InputError(f"{name}: cannot be read as an .npz file ({error})") from error


def _recorded(archive: Any, name: str) -> list[Array]:
    """The draws in a file that numpy.load opened, in order."""
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError(f"{name}: not an .npz file")
    keys = archive.files
    if not keys or any(_KEY.fullmatch(key) is None for key in keys):
        raise InputError(f"{name}: holds {', '.join(keys) or 'nothing'}; expected draw_0000, draw_0001, …")
    numbered = sorted((int(key.removeprefix("draw_")), key) for key in keys)
    if [number for number, _ in numbered] != list(range(len(keys))):
        raise InputError(f"{name}: its draws are not numbered 0 to {len(keys) - 1}")
    return [archive[key] for _, key in numbered]
