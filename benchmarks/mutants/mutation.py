"""Seeded mutations of a file that matter to a parser: flipped bits, cuts, extreme numbers, moved and mixed parts."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator

_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?")
_NUMBERS = (b"0", b"-1", b"1", b"65535", b"2147483648", b"18446744073709551616", b"1" + b"0" * 400, b"1e999", b"NaN")
_NAMES = (b"null", b"true", b"[]", b"{}", b'""', b"[[[[]]]]", b'"\\ud800"')
_EXTREMES = (0, 1, 2, -1, -2)


def mutant(seed: tuple[int, ...], data: bytes, other: bytes) -> bytes:
    """A file with one to three mutations.

    Args:
        seed: the numbers that decide everything.
        data: the sound file.
        other: another sound file, of which parts may be taken.
    """
    rng = np.random.default_rng(seed)
    has_json = data[:1] == b"{" or data[8:9] == b"{"
    for _ in range(1 if rng.random() < 0.6 else int(rng.integers(2, 4))):
        as_text = has_json and rng.random() < 0.6
        mutate = _write_number if as_text else _MUTATIONS[int(rng.integers(len(_MUTATIONS)))]
        data = mutate(rng, data, other) or b"\0"
    # Most mutants have sound checksums and lengths of the whole, or hardly any would get beyond them.
    return data if rng.random() < 0.25 else _mended(data)


def _place(rng: Rng, data: bytes) -> int:
    """An offset in a file, mostly in its head."""
    return int(rng.integers(min(len(data), 128) if rng.random() < 0.5 else len(data)))


def _flip_bits(rng: Rng, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        changed[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(rng: Rng, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)]


def _extreme(rng: Rng, data: bytes, other: bytes) -> bytes:
    """A field of 1, 2, 4 or 8 bytes with an extreme number, as lengths and sizes are."""
    size, place = 1 << int(rng.integers(4)), _place(rng, data)
    number = int(rng.choice(_EXTREMES)) if rng.random() < 0.7 else 1 << int(rng.integers(8 * size))
    field = (number % (1 << 8 * size)).to_bytes(size, "big" if rng.random() < 0.5 else "little")
    return data[:place] + field + data[place + size :]


def _repeat(rng: Rng, data: bytes, other: bytes) -> bytes:
    begin = _place(rng, data)
    end = begin + int(rng.integers(1, 257))
    return data[:end] + data[begin:end] * int(rng.integers(1, 4)) + data[end:]


def _remove(rng: Rng, data: bytes, other: bytes) -> bytes:
    begin = _place(rng, data)
    return data[:begin] + data[begin + int(rng.integers(1, 257)) :]


def _splice(rng: Rng, data: bytes, other: bytes) -> bytes:
    """The head of one file and the tail of another, at about the same place."""
    place = _place(rng, data)
    return data[:place] + other[max(0, place + int(rng.integers(-4, 5))) :]


def _write_number(rng: Rng, data: bytes, other: bytes) -> bytes:
    """A number in a text, such as a size in JSON, replaced by an extreme one or by no number."""
    found = list(_NUMBER.finditer(data[: 1 << 16]))
    if not found:
        return _extreme(rng, data, other)
    match = found[int(rng.integers(len(found)))]
    choices = _NUMBERS + _NAMES
    return data[: match.start()] + choices[int(rng.integers(len(choices)))] + data[match.end() :]


_MUTATIONS: tuple[Callable[[Rng, bytes, bytes], bytes], ...] = (
    _flip_bits,
    _cut,
    _extreme,
    _extreme,
    _repeat,
    _remove,
    _splice,
    _write_number,
)


def _mended(data: bytes) -> bytes:
    """A PNG file whose chunks have sound checksums; a safetensors file whose first number is its header's length."""
    if data[8:9] == b"{":
        end = data.rfind(b"}}") + 2
        return (end - 8).to_bytes(8, "little") + data[8:] if end > 8 else data
    if not data.startswith(_PNG):
        return data
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        if place + 12 + length > len(data):
            break
        body = data[place + 4 : place + 8 + length]
        parts += [data[place : place + 4], body, struct.pack(">I", zlib.crc32(body))]
        place += 12 + length
    return b"".join([*parts, data[place:]])
