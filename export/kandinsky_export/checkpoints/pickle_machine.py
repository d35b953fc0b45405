"""A small machine that reads the pickle of a Paddle state dict and runs nothing that the file names.

A pickle is a program. This machine knows only the opcodes and the globals that a state dict needs; a global is a
`Symbol`, recognised by name and never imported or called, and whatever else turns up is refused with its byte offset.

The cost of a hostile file is bounded. Tensor bytes stay in the memory map: the machine notes their place. A
declared length is compared with the bytes that are left before anything is done with it. Nothing recurses into a
value, so nesting, sharing and cycles cost nothing. The number of opcodes is limited, and one opcode makes one small
object; the exception, text that stands for bytes (protocol 2), is turned into bytes at most once.

Sources: CPython's Lib/pickletools.py (opcodes) and PEP 3154 (frames); numpy's `ndarray.__reduce__` and
`dtype.__reduce__` (what the reconstruction calls carry); paddle/framework/io.py (`(tuple, ((name, ndarray),))`).
"""

from __future__ import annotations

import math
import mmap
import pickletools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.pickled_values import (
    DTYPES,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    SYMBOLS,
    BytesSpan,
    PickledArray,
    PickledDtype,
    Symbol,
    TextSpan,
    describe,
    is_shape,
)

# A tensor takes at most 45 opcodes: Kandinsky's UNet, with 724 tensors, takes under 33,000.
MAX_OPCODES = 2**17
_OPCODE_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_PROTOCOLS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class PickleRefused(Exception):
    """Why, and at which byte, the machine refused a file; `read_pdparams` makes a CheckpointError of it."""


class PickleMachine:
    """One run over one file.

    `data` is the file's read-only memory map. Arrays are views of it, as unaligned as the file has them, and keep it
    alive. Only where protocol 2 stores bytes as text are they copied.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._position = 0
        self._opcode_at = 0
        self._frame_end: int | None = None
        self._stack: list[object] = []
        self._marks: list[int] = []  # stack heights
        self._memo: list[object] = []
        self._encoded: dict[str | TextSpan, bytes] = {}

    def run(self) -> object:
        """Return the one value that the pickle leaves: None, bool, int, float, str, bytes, tuple, list, dict, Symbol
        or one of this module's classes.

        Raises PickleRefused for anything that a state dict does not need.
        """
        if self._take(2) not in _PROTOCOLS:
            raise self._refused("the file does not begin as a pickle of protocol 2 to 5 does")
        for _ in range(MAX_OPCODES):
            self._opcode_at = self._position
            if self._position == self._frame_end:
                self._frame_end = None
            code = self._take(1)[0]
            name = _OPCODE_NAMES.get(code, f"0x{code:02x}")
            if name == "STOP":
                return self._result()
            operation = _OPERATIONS.get(name)
            if operation is None:
                raise self._refused(f"the opcode {name} has no place in a state dict")
            operation(self)
        raise self._refused(f"the pickle goes on after {MAX_OPCODES:,} opcodes, far more than a state dict needs")

    def _result(self) -> object:
        if len(self._stack) != 1 or self._marks:
            raise self._refused(f"the pickle ends with {len(self._stack)} values and {len(self._marks)} open marks")
        if self._frame_end not in (None, self._position):
            raise self._refused("the pickle ends inside a frame")
        # Paddle writes nothing after the pickle: more bytes mean a damaged file, or one made to be read in two ways.
        if self._position != len(self._data):
            raise self._refused(f"the pickle ends, but {len(self._data) - self._position:,} bytes follow it")
        return self._stack[0]

    def _refused(self, reason: str) -> PickleRefused:
        return PickleRefused(f"at byte {self._opcode_at:,}, {reason}")

    # Bytes of the file

    def _skip(self, count: int) -> int:
        """Step over `count` bytes and return their first position."""
        start = self._position
        end, what = (len(self._data), "file") if self._frame_end is None else (self._frame_end, "frame")
        if count > end - start:
            raise self._refused(f"{count:,} bytes are announced, but only {end - start:,} are left in the {what}")
        self._position += count
        return start

    def _take(self, count: int) -> bytes:
        start = self._skip(count)
        return self._data[start : start + count]

    def _unsigned(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _signed(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little", signed=True)

    def _line(self) -> str:
        start = self._position
        end = self._data.find(b"\n", start, start + MAX_NAME_BYTES)
        if end < 0:
            raise self._refused(f"no line of at most {MAX_NAME_BYTES:,} bytes follows")
        return self._decoded(self._take(end + 1 - start)[:-1])

    def _decoded(self, raw: bytes | memoryview) -> str:
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise self._refused("text is not valid UTF-8") from None

    # Stack and memo

    def _pop(self) -> object:
        value = self._top()
        self._stack.pop()
        return value

    def _top(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise self._refused("a value is needed, but the stack is empty")
        return self._stack[-1]

    def _pop_tuple(self) -> tuple[object, ...]:
        value = self._pop()
        if not isinstance(value, tuple):
            raise self._refused(f"got {describe(value)}; expected a tuple")
        return value

    def _pop_to_mark(self) -> list[object]:
        if not self._marks:
            raise self._refused("a mark is needed, but none is set")
        height = self._marks.pop()
        values = self._stack[height:]
        del self._stack[height:]
        return values

    def _memoize(self) -> None:
        self._memo.append(self._top())

    def _put(self, index: int) -> None:
        if index != len(self._memo):
            raise self._refused(f"memo entry {index:,} is written where {len(self._memo):,} comes next")
        self._memoize()

    def _get(self, index: int) -> None:
        if index >= len(self._memo):
            raise self._refused(f"memo entry {index:,} is read, but only {len(self._memo):,} are written")
        self._stack.append(self._memo[index])

    # Operations

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _frame(self) -> None:
        size = self._unsigned(8)
        if self._frame_end is not None:
            raise self._refused("a frame begins inside another")
        start = self._skip(size)
        self._position, self._frame_end = start, start + size

    def _push_long(self) -> None:
        size = self._unsigned(1)
        if size > 8:
            raise self._refused(f"an int of {size} bytes is longer than any size of a tensor")
        self._push(self._signed(size))

    def _push_text(self, length_size: int) -> None:
        size = self._unsigned(length_size)
        if size <= MAX_NAME_BYTES:
            self._push(self._decoded(self._take(size)))
        else:
            start = self._skip(size)
            self._push(TextSpan(start, start + size))

    def _push_bytes(self, length_size: int) -> None:
        size = self._unsigned(length_size)
        start = self._skip(size)
        self._push(BytesSpan(start, start + size))

    def _push_tuple(self, size: int) -> None:
        self._push(tuple([self._pop() for _ in range(size)][::-1]))

    def _append(self, values: list[object]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise self._refused(f"values are appended to {describe(target)}, not to a list")
        target.extend(values)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _set_items(self, values: list[object]) -> None:
        target = self._top()
        if not isinstance(target, dict):
            raise self._refused(f"items are set in {describe(target)}, not in a dict")
        if len(values) % 2:
            raise self._refused("a key of a dict comes without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):
                raise self._refused(f"a key of a dict is {describe(key)}, not a name")
            if key in target:
                raise self._refused(f"the key {key[:80]!r} appears twice in one dict")
            target[key] = value

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise self._refused(f"a global is named by {describe(module)} and {describe(name)}")
        self._push_symbol(module, name)

    def _push_symbol(self, module: str, name: str) -> None:
        symbol = SYMBOLS.get((module, name))
        if symbol is None:
            raise self._refused(f"the global {f'{module}.{name}'[:80]!r} has no place in a state dict")
        self._push(symbol)

    def _reduce(self) -> None:
        """Do what the calls that rebuild arrays would do, without calling anything."""
        arguments, function = self._pop_tuple(), self._pop()
        result: object
        match function, arguments:
            case Symbol.RECONSTRUCT, (Symbol.NDARRAY, (0,), BytesSpan() | bytes() as code) if self._is_b(code):
                result = PickledArray()
            case Symbol.DTYPE, (str() as code, 0, 1):
                if code not in DTYPES:
                    raise self._refused(f"the dtype {code[:80]!r} is none of {', '.join(DTYPES)}")
                result = PickledDtype(DTYPES[code])
            case Symbol.ENCODE, (str() | TextSpan() as text, "latin1"):
                result = self._latin1(text)
            case Symbol.TUPLE, ((str(), PickledArray()) as name_and_array,):
                result = name_and_array
            case Symbol.BYTES, ():
                result = b""
            case _:
                raise self._refused(f"{describe(function)} is called as no state dict does")
        self._push(result)

    def _is_b(self, code: BytesSpan | bytes) -> bool:  # numpy's dtype of an array before it is given one
        return len(code) == 1 and (code if isinstance(code, bytes) else self._data[code.start : code.stop]) == b"b"

    def _latin1(self, text: str | TextSpan) -> bytes:
        """Return the bytes that protocol 2 writes as text, the same object every time."""
        if text not in self._encoded:
            if isinstance(text, TextSpan):
                characters = self._decoded(memoryview(self._data)[text.start : text.stop])
            else:
                characters = text
            try:
                self._encoded[text] = characters.encode("latin-1")
            except UnicodeEncodeError:
                raise self._refused("text that stands for bytes has characters beyond Latin-1") from None
        return self._encoded[text]

    def _build(self) -> None:
        """Give the announced array its shape, dtype and bytes, or check the rest of a dtype."""
        state, target = self._pop_tuple(), self._top()
        match target, state:
            case PickledArray(array=None), (1, shape, PickledDtype() as pickled, bool() as fortran_order, content) if (
                isinstance(content, BytesSpan | bytes)
            ):
                target.array = self._view(shape, pickled.dtype, fortran_order, content)
            case PickledDtype(), (3, str() as order, None, None, None, -1, -1, 0):
                if order != ("|" if target.dtype.itemsize == 1 else "<"):
                    raise self._refused(f"the byte order {order[:80]!r} of {target.dtype.name} is not little-endian")
            case _:
                raise self._refused(f"{describe(target)} is given a state that no state dict has")

    def _view(
        self, shape: object, dtype: np.dtype[Any], fortran_order: bool, content: BytesSpan | bytes
    ) -> npt.NDArray[Any]:
        if not is_shape(shape):
            raise self._refused(f"the shape of an array is not a tuple of at most {MAX_DIMENSIONS} non-negative ints")
        if math.prod(size for size in shape if size) * dtype.itemsize >= 2**63:
            raise self._refused("the shape of an array is larger than any memory")
        needed = math.prod(shape) * dtype.itemsize
        if needed != len(content):
            raise self._refused(f"an array has {len(content):,} bytes; its shape and dtype need {needed:,}")
        buffer, offset = (self._data, content.start) if isinstance(content, BytesSpan) else (content, 0)
        return np.ndarray(shape, dtype, buffer, offset, order="F" if fortran_order else "C")


# What every opcode of a state dict does.
_OPERATIONS: dict[str, Callable[[PickleMachine], None]] = {
    "FRAME": PickleMachine._frame,
    "MARK": PickleMachine._mark,
    "NONE": lambda machine: machine._push(None),
    "NEWTRUE": lambda machine: machine._push(True),
    "NEWFALSE": lambda machine: machine._push(False),
    "BININT": lambda machine: machine._push(machine._signed(4)),
    "BININT1": lambda machine: machine._push(machine._unsigned(1)),
    "BININT2": lambda machine: machine._push(machine._unsigned(2)),
    "LONG1": PickleMachine._push_long,
    "BINFLOAT": lambda machine: machine._push(struct.unpack(">d", machine._take(8))[0]),
    "SHORT_BINUNICODE": lambda machine: machine._push_text(1),
    "BINUNICODE": lambda machine: machine._push_text(4),
    "SHORT_BINBYTES": lambda machine: machine._push_bytes(1),
    "BINBYTES": lambda machine: machine._push_bytes(4),
    "BINBYTES8": lambda machine: machine._push_bytes(8),
    "EMPTY_TUPLE": lambda machine: machine._push(()),
    "TUPLE1": lambda machine: machine._push_tuple(1),
    "TUPLE2": lambda machine: machine._push_tuple(2),
    "TUPLE3": lambda machine: machine._push_tuple(3),
    "TUPLE": lambda machine: machine._push(tuple(machine._pop_to_mark())),
    "EMPTY_LIST": lambda machine: machine._push([]),
    "APPEND": lambda machine: machine._append([machine._pop()]),
    "APPENDS": lambda machine: machine._append(machine._pop_to_mark()),
    "EMPTY_DICT": lambda machine: machine._push({}),
    "SETITEM": PickleMachine._set_item,
    "SETITEMS": lambda machine: machine._set_items(machine._pop_to_mark()),
    "MEMOIZE": PickleMachine._memoize,
    "BINPUT": lambda machine: machine._put(machine._unsigned(1)),
    "LONG_BINPUT": lambda machine: machine._put(machine._unsigned(4)),
    "BINGET": lambda machine: machine._get(machine._unsigned(1)),
    "LONG_BINGET": lambda machine: machine._get(machine._unsigned(4)),
    "GLOBAL": lambda machine: machine._push_symbol(machine._line(), machine._line()),
    "STACK_GLOBAL": PickleMachine._stack_global,
    "REDUCE": PickleMachine._reduce,
    "BUILD": PickleMachine._build,
}
