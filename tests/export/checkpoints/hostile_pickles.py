"""A corpus of files that `read_pdparams` has to refuse, spelled out opcode by opcode.

`CANARY` is the file that the calls among them would create in the working directory. Where `runs` is true, plain
`pickle.load` really does create it, so that the corpus is known to be armed.

An "expression" below is a piece of pickle that leaves one value on the stack.
"""

from __future__ import annotations

import itertools
import pickletools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

CANARY = "k22-canary"

NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"
EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT = b")", b"]", b"}"
REDUCE, BUILD, MARK = b"R", b"b", b"("
NOT_A_PLACE = "has no place in a state dict"
NOT_AS_CALLED = "is called as no state dict does"


@dataclass(frozen=True)
class Hostile:
    name: str
    data: bytes
    reason: str  # part of the refusal
    runs: bool = False  # pickle.load would create the canary


# Expressions


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def content(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def a_tuple(*values: bytes) -> bytes:
    return MARK + b"".join(values) + b"t"


def a_list(*values: bytes) -> bytes:
    return EMPTY_LIST + MARK + b"".join(values) + b"e"


def a_dict(**values: bytes) -> bytes:
    return EMPTY_DICT + MARK + b"".join(text(name) + value for name, value in values.items()) + b"u"


def a_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def a_stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + a_tuple(*arguments) + REDUCE


NDARRAY = a_global("numpy", "ndarray")
DTYPE = a_global("numpy", "dtype")
ENCODE = a_global("_codecs", "encode")
TUPLE = a_global("builtins", "tuple")
RECONSTRUCT = a_global("numpy.core.multiarray", "_reconstruct")
NEW_ARRAY = call(RECONSTRUCT, NDARRAY, a_tuple(integer(0)), content(b"b"))


def new_dtype(code: str = "f4") -> bytes:
    return call(DTYPE, text(code), FALSE, TRUE)


def dtype_state(version: int = 3, order: str = "<", subarray: bytes = NONE, names: bytes = NONE, fields: bytes = NONE,
                itemsize: int = -1, alignment: int = -1, flags: int = 0) -> bytes:  # fmt: skip
    return a_tuple(integer(version), text(order), subarray, names, fields, integer(itemsize), integer(alignment),
                   integer(flags))  # fmt: skip


F4 = new_dtype() + dtype_state() + BUILD
I4 = new_dtype("i4") + dtype_state() + BUILD


def shape(*sizes: int) -> bytes:
    return a_tuple(*(integer(size) for size in sizes))


def array_state(version: int = 1, sizes: bytes = shape(2), dtype: bytes = F4, fortran: bytes = FALSE,
                data: bytes = content(bytes(8))) -> bytes:  # fmt: skip
    return a_tuple(integer(version), sizes, dtype, fortran, data)


ARRAY = NEW_ARRAY + array_state() + BUILD


def proto(body: bytes, protocol: int = 2) -> bytes:
    return bytes([0x80, protocol]) + body


def state_dict(value: bytes, name: str = "weight") -> bytes:
    """Return a whole file whose one tensor is `value`."""
    return proto(EMPTY_DICT + text(name) + value + b"s.")


def frame(body: bytes, size: int | None = None) -> bytes:
    return b"\x95" + struct.pack("<Q", len(body) if size is None else size) + body


# The corpus, one function per kind of attack

_TOUCH = f"touch {CANARY}"
_OPEN = f"open({CANARY!r}, 'w').close()"

# module, name, arguments: calls that create the canary wherever pickle.load runs them
_LIVE_CALLS = [
    ("os", "system", [text(_TOUCH)]),
    ("posix", "system", [text(_TOUCH)]),
    ("os", "mkdir", [text(CANARY)]),
    ("os", "mkfifo", [text(CANARY)]),
    ("os", "symlink", [text("/"), text(CANARY)]),
    ("subprocess", "call", [a_list(text("touch"), text(CANARY))]),
    ("subprocess", "check_output", [a_list(text("touch"), text(CANARY))]),
    ("subprocess", "getoutput", [text(_TOUCH)]),
    ("builtins", "eval", [text(_OPEN)]),
    ("builtins", "exec", [text(_OPEN)]),
    ("__builtin__", "eval", [text(_OPEN)]),
    ("timeit", "timeit", [text(_OPEN), text("pass"), call(a_global("builtins", "eval"), text("print")), integer(1)]),
    ("shutil", "copyfile", [text("hostile.pdparams"), text(CANARY)]),
    ("os", "makedirs", [text(CANARY)]),
    ("numpy", "memmap", [text(CANARY), text("f4"), text("w+"), integer(0), a_tuple(integer(1))]),
    ("numpy.testing", "runstring", [text(_OPEN), EMPTY_DICT]),
]

# module, name: what else a pickle might reach for
_OTHER_GLOBALS = [
    ("builtins", "getattr"),
    ("builtins", "setattr"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("builtins", "compile"),
    ("builtins", "globals"),
    ("builtins", "type"),
    ("builtins", "object"),
    ("builtins", "list"),
    ("builtins", "dict"),
    ("builtins", "bytes"),
    ("builtins", "bytearray"),
    ("builtins", "tuple.__class__"),
    ("builtins", "breakpoint"),
    ("io", "open"),
    ("io", "FileIO"),
    ("os", "execv"),
    ("os", "fork"),
    ("os", "kill"),
    ("os", "remove"),
    ("nt", "system"),
    ("pty", "spawn"),
    ("sys", "exit"),
    ("sys", "modules"),
    ("subprocess", "Popen"),
    ("importlib", "import_module"),
    ("runpy", "run_path"),
    ("code", "interact"),
    ("pdb", "run"),
    ("cProfile", "run"),
    ("ctypes", "CDLL"),
    ("marshal", "loads"),
    ("types", "FunctionType"),
    ("types", "CodeType"),
    ("operator", "attrgetter"),
    ("operator", "methodcaller"),
    ("functools", "partial"),
    ("functools", "reduce"),
    ("itertools", "accumulate"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("pickle", "Unpickler"),
    ("shelve", "open"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"),
    ("collections", "OrderedDict"),
    ("_codecs", "decode"),
    ("_codecs", "register"),
    ("codecs", "encode"),
    ("socket", "create_connection"),
    ("urllib.request", "urlopen"),
    ("webbrowser", "open"),
    ("multiprocessing", "Process"),
    ("asyncio", "run"),
    ("logging.config", "dictConfig"),
    ("numpy", "load"),
    ("numpy", "savez"),
    ("numpy", "fromfile"),
    ("numpy", "ndarray.tofile"),
    ("numpy", "vectorize"),
    ("numpy", "DTYPE"),
    ("numpy", ""),
    ("numpy ", "ndarray"),
    ("numpy", "ndarray\0"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "fromfile"),
    ("numpy.core", "multiarray._reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("paddle", "load"),
    ("paddle.utils.cpp_extension", "load"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("", "tuple"),
    ("__main__", "tuple"),
    ("builtins.tuple", "tuple"),
    ("k22_no_such_module", "anything"),
]


def foreign_globals() -> Iterator[Hostile]:
    for module, name, arguments in _LIVE_CALLS:
        for way in (a_global, a_stack_global):
            data = state_dict(call(way(module, name), *arguments))
            yield Hostile(f"{way.__name__} {module}.{name}", data, f"{module}.{name}", runs=True)
    for module, name in _OTHER_GLOBALS:
        reason = f"the global {f'{module}.{name}'!r} {NOT_A_PLACE}"
        yield Hostile(f"a_global {module!r} {name!r}", state_dict(a_global(module, name)), reason)
    for module, name in _OTHER_GLOBALS[:12]:
        yield Hostile(f"a_stack_global {module}.{name}", state_dict(a_stack_global(module, name)), NOT_A_PLACE)

    system, touch = a_global("os", "system"), text(_TOUCH)
    getattr_ = a_global("builtins", "getattr")
    chain = call(getattr_, call(a_global("builtins", "__import__"), text("os")), text("system"))
    partial = call(a_global("functools", "partial"), system, touch)
    hidden = proto(EMPTY_DICT + text("weight") + ARRAY + b"s" + call(system, touch) + b"0.")
    yield Hostile("getattr chain", state_dict(call(chain, touch)), "builtins.", runs=True)
    yield Hostile("partial of os.system", state_dict(call(partial)), "functools.partial", runs=True)
    yield Hostile("call after the tensors, result popped", hidden, "os.system", runs=True)
    yield Hostile("call in a key", proto(EMPTY_DICT + call(system, touch) + ARRAY + b"s."), "os.system", runs=True)
    yield Hostile("call in a shape", state_dict(NEW_ARRAY + array_state(sizes=call(system, touch)) + BUILD),
                  "os.system", runs=True)  # fmt: skip
    yield Hostile("call in a dtype", state_dict(NEW_ARRAY + array_state(dtype=call(system, touch)) + BUILD),
                  "os.system", runs=True)  # fmt: skip
    yield Hostile("call in a tensor's name", state_dict(call(TUPLE, a_tuple(call(system, touch), ARRAY))),
                  "os.system", runs=True)  # fmt: skip
    yield Hostile("call instead of a state dict", proto(call(system, touch) + b"."), "os.system", runs=True)
    yield Hostile("call in a frame", proto(frame(call(system, touch) + b"."), 4), "os.system", runs=True)
    yield Hostile("call in the name table", state_dict(call(system, touch), "StructuredToParameterName@@"),
                  "os.system", runs=True)  # fmt: skip
    yield Hostile(
        "global module from the memo", state_dict(text("os") + b"q\x00" + text("system") + b"\x93"), "os.system"
    )
    yield Hostile("global named by ints", state_dict(integer(1) + integer(2) + b"\x93"), "named by an int")
    yield Hostile("global named by an array", state_dict(ARRAY + text("system") + b"\x93"), "named by an array")
    yield Hostile("global without a second line", state_dict(b"cos\nsystem"), "no line")
    yield Hostile("global with a line of 1 MiB", state_dict(b"c" + b"a" * 2**20 + b"\nb\n"), "no line")
    yield Hostile("global that is not UTF-8", state_dict(b"c\xff\xfe\nb\n"), "not valid UTF-8")


_OPCODES_OF_A_STATE_DICT = {
    "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "MEMOIZE", "BINPUT",
    "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip


def foreign_opcodes() -> Iterator[Hostile]:
    touch = text(_TOUCH)
    yield Hostile("INST os.system", state_dict(MARK + touch + b"ios\nsystem\n"), "the opcode INST", runs=True)
    yield Hostile("OBJ os.system", state_dict(MARK + a_global("os", "system") + touch + b"o"), "os.system", runs=True)
    yield Hostile("NEWOBJ tuple", state_dict(TUPLE + EMPTY_TUPLE + b"\x81"), "NEWOBJ")
    yield Hostile("NEWOBJ_EX tuple", state_dict(TUPLE + EMPTY_TUPLE + EMPTY_DICT + b"\x92"), "NEWOBJ_EX")
    elsewhere = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", *_OPCODES_OF_A_STATE_DICT}
    for opcode in pickletools.opcodes:
        if opcode.name not in elsewhere:
            data = state_dict(opcode.code.encode("latin-1"))
            yield Hostile(f"opcode {opcode.name}", data, f"the opcode {opcode.name} {NOT_A_PLACE}")
    for byte in (0x00, 0x01, 0x0A, 0x7F, 0x99, 0xC0, 0xFF):
        yield Hostile(f"no opcode 0x{byte:02x}", state_dict(bytes([byte])), f"the opcode 0x{byte:02x} {NOT_A_PLACE}")


def misused_symbols() -> Iterator[Hostile]:
    calls = {
        "ndarray of 4 TiB": call(NDARRAY, shape(2**40)),
        "ndarray of nothing": call(NDARRAY),
        "reconstruct a dtype": call(RECONSTRUCT, DTYPE, shape(0), content(b"b")),
        "reconstruct a tuple": call(RECONSTRUCT, TUPLE, shape(0), content(b"b")),
        "reconstruct with a huge shape": call(RECONSTRUCT, NDARRAY, shape(2**40), content(b"b")),
        "reconstruct with two sizes": call(RECONSTRUCT, NDARRAY, shape(0, 0), content(b"b")),
        "reconstruct with a list": call(RECONSTRUCT, NDARRAY, a_list(ARRAY), content(b"b")),
        "reconstruct without a type": call(RECONSTRUCT, NDARRAY, shape(0)),
        "reconstruct with a text type": call(RECONSTRUCT, NDARRAY, shape(0), text("O")),
        "dtype of a global": call(DTYPE, TUPLE, FALSE, TRUE),
        "dtype of a subarray": call(DTYPE, a_tuple(text("f4"), shape(2**30)), FALSE, TRUE),
        "dtype of fields": call(DTYPE, a_list(a_tuple(text("a"), text("O"))), FALSE, TRUE),
        "dtype of a dict": call(DTYPE, a_dict(names=EMPTY_LIST), FALSE, TRUE),
        "dtype of one argument": call(DTYPE, text("f4")),
        "dtype aligned": call(DTYPE, text("f4"), TRUE, TRUE),
        "dtype of a dtype": call(DTYPE, F4, FALSE, TRUE),
        "dtype with metadata": call(DTYPE, text("f4"), FALSE, TRUE, EMPTY_DICT),
        "encode in UTF-8": call(ENCODE, text("a"), text("utf-8")),
        "encode in rot13": call(ENCODE, text("a"), text("rot13")),
        "encode with zlib": call(ENCODE, text("a"), text("zlib_codec")),
        "encode without a codec": call(ENCODE, text("a")),
        "encode with an error handler": call(ENCODE, text("a"), text("latin1"), text("ignore")),
        "encode bytes": call(ENCODE, content(b"a"), text("latin1")),
        "encode an array": call(ENCODE, ARRAY, text("latin1")),
        "tuple of nothing": call(TUPLE),
        "tuple of text": call(TUPLE, text("abc")),
        "tuple of a list": call(TUPLE, a_list(ARRAY)),
        "tuple of three": call(TUPLE, a_tuple(text("a"), ARRAY, ARRAY)),
        "tuple of array and name": call(TUPLE, a_tuple(ARRAY, text("a"))),
        "bytes of 1 GB": call(a_global("__builtin__", "bytes"), integer(10**9)),
        "bytes of text": call(a_global("__builtin__", "bytes"), text("a"), text("utf-8")),
        "text called": call(text("os.system"), text(_TOUCH)),
        "None called": call(NONE),
        "an array called": call(ARRAY),
        "a dtype called": call(F4),
        "the result called": call(NEW_ARRAY, NONE),
        "an array of another code": call(RECONSTRUCT, NDARRAY, a_tuple(integer(0)), content(b"r")),
        "an array of a long code": call(RECONSTRUCT, NDARRAY, a_tuple(integer(0)), content(b"bb")),
    }
    for name, expression in calls.items():
        yield Hostile(name, state_dict(expression), NOT_AS_CALLED)
    yield Hostile("arguments in a list", state_dict(TUPLE + a_list(text("a")) + REDUCE), "expected a tuple")
    yield Hostile("arguments of None", state_dict(TUPLE + NONE + REDUCE), "expected a tuple")
    yield Hostile("arguments in a dict", state_dict(DTYPE + EMPTY_DICT + REDUCE), "expected a tuple")
    for text_name, characters in {"snowman": "\u2603", "emoji": "a" * 3000 + "\U0001f600"}.items():
        yield Hostile(f"{text_name} as bytes", state_dict(call(ENCODE, text(characters), text("latin1"))), "Latin-1")
    for name, length in {"short": 3, "long": 3000}.items():
        broken = b"X" + struct.pack("<I", length) + b"\xff" * length
        yield Hostile(f"{name} text that is not UTF-8", state_dict(call(ENCODE, broken, text("latin1"))), "UTF-8")
    surrogate = b"X\x03\x00\x00\x00\xed\xa0\x80"
    yield Hostile("lone surrogate in a key", proto(EMPTY_DICT + surrogate + ARRAY + b"s."), "UTF-8")


def foreign_dtypes() -> Iterator[Hostile]:
    codes = ["O", "O8", "V8", "S4", "U4", "M8", "m8", "c8", "c16", "f16", "i2", "u4", "u8", "f4,f4", ">f4", "<f4",
             "=f4", "2f4", "(9,)f4", "float32", "f", "", "F4", "f4 ", "f4\0", "a" * 1000]  # fmt: skip
    for code in codes:
        built = new_dtype(code) + dtype_state() + BUILD
        yield Hostile(f"dtype {code[:20]!r}", state_dict(NEW_ARRAY + array_state(dtype=built) + BUILD), "is none of f2")
    states = {
        "big-endian": dtype_state(order=">"),
        "native order": dtype_state(order="="),
        "no order": dtype_state(order="|"),
        "network order": dtype_state(order="!"),
        "long order": dtype_state(order="<" * 1000),
    }
    for name, state in states.items():
        yield Hostile(f"dtype state: {name}", state_dict(new_dtype() + state + BUILD), "not little-endian")
    yield Hostile("dtype state: order of a byte", state_dict(new_dtype("b1") + dtype_state() + BUILD), "not little")
    states = {
        "version 2": dtype_state(version=2),
        "version 4": dtype_state(version=4),
        "subarray": dtype_state(subarray=a_tuple(F4, shape(9))),
        "names": dtype_state(names=a_tuple(text("a"))),
        "fields": dtype_state(fields=a_dict(a=a_tuple(F4, integer(0)))),
        "itemsize": dtype_state(itemsize=2**40),
        "alignment": dtype_state(alignment=16),
        "object flags": dtype_state(flags=63),
        "metadata": a_tuple(integer(4), text("<"), NONE, NONE, NONE, integer(-1), integer(-1), integer(0), EMPTY_DICT),
        "empty": EMPTY_TUPLE,
        "order as bytes": a_tuple(integer(3), content(b"<"), NONE, NONE, NONE, integer(-1), integer(-1), integer(0)),
    }
    for name, state in states.items():
        yield Hostile(f"dtype state: {name}", state_dict(new_dtype() + state + BUILD), "is given a state")
    yield Hostile("dtype state: a dict", state_dict(new_dtype() + a_dict(names=NONE) + BUILD), "expected a tuple")


def foreign_arrays() -> Iterator[Hostile]:
    shapes = {
        "negative size": shape(-2),
        "two negative sizes": shape(-1, -2),
        "size -1": shape(-1),
        "smallest size": shape(-(2**63)),
        "33 sizes": shape(*[1] * 32, 2),
        "bool size": a_tuple(TRUE, integer(2)),
        "float size": a_tuple(b"G" + struct.pack(">d", 2.0)),
        "text size": a_tuple(text("2")),
        "None size": a_tuple(NONE),
        "nested size": a_tuple(shape(2)),
        "array as a size": a_tuple(ARRAY),
        "list": a_list(integer(2)),
        "int": integer(2),
        "None": NONE,
    }
    for name, sizes in shapes.items():
        yield Hostile(f"shape: {name}", state_dict(NEW_ARRAY + array_state(sizes=sizes) + BUILD), "is not a tuple of")
    for sizes in [(2**62, 4), (2**63 - 1,), (2**32, 2**32), (0, 2**62), (2**61, 0, 2), (2**31,) * 32]:
        expression = NEW_ARRAY + array_state(sizes=shape(*sizes), data=content(b"")) + BUILD
        yield Hostile(f"shape overflows: {sizes[:3]}", state_dict(expression), "larger than any memory")
    for sizes, size in [((2,), 7), ((2,), 9), ((2,), 0), ((2**40,), 8), ((), 8), ((0,), 4), ((2, 2), 8), ((3,), 8)]:
        expression = NEW_ARRAY + array_state(sizes=shape(*sizes), data=content(bytes(size))) + BUILD
        yield Hostile(f"{size} bytes for {sizes}", state_dict(expression), f"has {size} bytes; its shape")
    states = {
        "version 0": array_state(version=0),
        "version 2": array_state(version=2),
        "no version": a_tuple(shape(2), F4, FALSE, content(bytes(8))),
        "one value more": a_tuple(integer(1), shape(2), F4, FALSE, content(bytes(8)), NONE),
        "dtype None": array_state(dtype=NONE),
        "dtype text": array_state(dtype=text("f4")),
        "dtype global": array_state(dtype=DTYPE),
        "fortran int": array_state(fortran=integer(1)),
        "fortran text": array_state(fortran=text("F")),
        "content text": array_state(data=text("12345678")),
        "content long text": array_state(data=text("x" * 2000)),
        "content list": array_state(data=a_list(integer(1), integer(2))),
        "content None": array_state(data=NONE),
        "content array": array_state(data=ARRAY),
        "empty": EMPTY_TUPLE,
        "slots": a_tuple(NONE, a_dict(shape=integer(1))),
    }
    for name, state in states.items():
        yield Hostile(f"array state: {name}", state_dict(NEW_ARRAY + state + BUILD), "is given a state")
    yield Hostile("array state: a dict", state_dict(NEW_ARRAY + a_dict(data=NONE) + BUILD), "expected a tuple")
    yield Hostile("array built twice", state_dict(ARRAY + array_state() + BUILD), "an array is given a state")
    targets = {"dict": EMPTY_DICT, "list": EMPTY_LIST, "tuple": EMPTY_TUPLE, "None": NONE, "int": integer(1),
               "text": text("a"), "bytes": content(b"a"), "global": NDARRAY}  # fmt: skip
    for name, target in targets.items():
        yield Hostile(f"array state on {name}", state_dict(target + array_state() + BUILD), "is given a state")


def broken_stacks() -> Iterator[Hostile]:
    empty = "the stack is empty"
    for name, opcodes in {
        "BUILD": b"b", "REDUCE": b"R", "TUPLE1": b"\x85", "TUPLE2": b"N\x86", "TUPLE3": b"NN\x87", "APPEND": b"a",
        "SETITEM": b"s", "MEMOIZE": b"\x94", "BINPUT": b"q\x00", "LONG_BINPUT": b"r\x00\x00\x00\x00",
        "STACK_GLOBAL": b"\x93", "APPENDS": b"(e", "SETITEMS": b"(u", "half a SETITEM": b"}Ns",
    }.items():  # fmt: skip
        yield Hostile(f"{name} on an empty stack", proto(opcodes + b"."), empty)
    for name, opcodes in {"TUPLE1": b"N(\x85", "APPEND": b"](a", "MEMOIZE": b"N(\x94", "BUILD": b"N(b"}.items():
        yield Hostile(f"{name} across a mark", proto(opcodes + b"."), empty)
    for name, opcodes in {"TUPLE": b"t", "APPENDS": b"]e", "SETITEMS": b"}u", "a second TUPLE": b"(tt"}.items():
        yield Hostile(f"{name} without a mark", proto(opcodes + b"."), "none is set")
    for name, opcodes in {"nothing": b"", "two values": b"}}", "a mark": b"}(", "only a mark": b"("}.items():
        yield Hostile(f"STOP with {name}", proto(opcodes + b"."), "the pickle ends with")
    targets = {
        "list": EMPTY_LIST,
        "tuple": EMPTY_TUPLE,
        "None": NONE,
        "global": NDARRAY,
        "array": ARRAY,
        "text": text(""),
    }
    for name, target in targets.items():
        yield Hostile(f"items set in {name}", proto(target + text("a") + ARRAY + b"s."), "not in a dict")
    for name, target in {"dict": EMPTY_DICT, "tuple": EMPTY_TUPLE, "array": ARRAY, "global": NDARRAY}.items():
        yield Hostile(f"appended to {name}", state_dict(target + NONE + b"a"), "not to a list")
    keys = {"int": integer(1), "None": NONE, "bytes": content(b"a"), "tuple": shape(1), "list": EMPTY_LIST,
            "dict": EMPTY_DICT, "global": NDARRAY, "array": ARRAY, "long text": text("k" * 1025)}  # fmt: skip
    for name, key in keys.items():
        yield Hostile(f"key: {name}", proto(EMPTY_DICT + key + ARRAY + b"s."), "not a name")
    yield Hostile("key without a value", proto(EMPTY_DICT + MARK + text("a") + b"u."), "without a value")
    twice = proto(EMPTY_DICT + (text("a") + ARRAY + b"s") * 2 + b".")
    yield Hostile("key twice", twice, "'a' appears twice")
    for name, opcodes in {
        "BINGET of nothing": b"h\x00", "LONG_BINGET of nothing": b"j\xff\xff\xff\xff",
        "BINPUT ahead": b"Nq\x05", "LONG_BINPUT far ahead": b"Nr\xff\xff\xff\xff", "BINPUT again": b"Nq\x00q\x00",
        "BINGET past MEMOIZE": b"N\x94h\x01",
    }.items():  # fmt: skip
        yield Hostile(name, state_dict(opcodes), "memo entry")


def false_lengths() -> Iterator[Hostile]:
    huge = [2**31, 2**32 - 1]
    for name, code in {"BINUNICODE": b"X", "BINBYTES": b"B"}.items():
        for size in huge:
            yield Hostile(f"{name} of {size}", state_dict(code + struct.pack("<I", size) + b"a"), f"{size:,} bytes are")
    for size in [2**33, 2**63 - 1, 2**63, 2**64 - 1]:
        yield Hostile(f"BINBYTES8 of {size}", state_dict(b"\x8e" + struct.pack("<Q", size)), f"{size:,} bytes are")
        yield Hostile(f"FRAME of {size}", proto(b"\x95" + struct.pack("<Q", size) + b"}.", 4), f"{size:,} bytes are")
    one_more = proto(b"B" + struct.pack("<I", 3) + b"a.", 3)
    yield Hostile("BINBYTES one byte past the end", one_more, "3 bytes are announced, but only 2 are left")
    yield Hostile("SHORT_BINBYTES past the end", state_dict(b"C\xff"), "255 bytes are")
    yield Hostile("SHORT_BINUNICODE past the end", state_dict(b"\x8c\xff"), "255 bytes are")
    yield Hostile("LONG1 of 255 bytes", state_dict(b"\x8a\xff" + bytes(255)), "an int of 255 bytes")
    yield Hostile("LONG1 of 9 bytes", state_dict(b"\x8a\x09" + bytes(9)), "an int of 9 bytes")
    for name, opcodes in {"BININT": b"J\x00", "BININT2": b"M", "BINFLOAT": b"G\x00", "BINPUT": b"}q", "BINGET": b"}h",
                          "FRAME": b"\x95\x00", "BINBYTES8": b"\x8e\x00", "LONG1": b"\x8a\x08"}.items():  # fmt: skip
        yield Hostile(f"file ends in {name}", proto(opcodes, 4), "left in the file")
    body = EMPTY_DICT + text("a") + ARRAY + b"s"
    yield Hostile("file ends without STOP", proto(body), "only 0 are left in the file")
    yield Hostile("file ends in a tensor", state_dict(ARRAY)[:-20], "left in the file")
    yield Hostile("frame in a frame", proto(frame(EMPTY_DICT + frame(b".")), 4), "a frame begins inside another")
    yield Hostile("STOP inside a frame", proto(frame(body + b".N"), 4), "ends inside a frame")
    yield Hostile("frame ends in an opcode", proto(frame(body, 3) + b".", 4), "left in the frame")
    yield Hostile("frame ends in a payload", proto(frame(body, len(body) - 12) + b".", 4), "left in the frame")
    for name, rest in {"zeros": bytes(512), "a newline": b"\n", "a second pickle": state_dict(ARRAY)}.items():
        yield Hostile(f"{name} after the pickle", state_dict(ARRAY) + rest, f"{len(rest)} bytes follow it")
    for name, data in {"zip": b"PK\x03\x04" + bytes(60), "safetensors": struct.pack("<Q", 2) + b"{}",
                       "text": b"hello\n", "protocol 0": b"(dp0\n.", "protocol 1": b"\x80\x01}.",
                       "protocol 6": b"\x80\x06}.", "zeros": bytes(64), "HTML": b"<html>"}.items():  # fmt: skip
        yield Hostile(f"not a pickle: {name}", data, "does not begin as a pickle")
    yield Hostile("one byte", b"\x80", "only 1 are left")
    yield Hostile("two bytes", b"\x80\x04", "only 0 are left")


def bombs() -> Iterator[Hostile]:
    not_an_array = "not an array"
    yield Hostile("tuples nested deep", state_dict(NONE + b"\x85" * 100_000), not_an_array)
    yield Hostile("lists nested deep", state_dict(EMPTY_LIST * 50_000 + b"a" * 49_999), not_an_array)
    yield Hostile(
        "dicts nested deep", state_dict((EMPTY_DICT + text("a")) * 40_000 + NONE + b"s" * 40_000), not_an_array
    )
    levels = b"".join(MARK + (b"h" + bytes([i])) * 10 + b"tq" + bytes([i + 1]) for i in range(99))
    yield Hostile("billion laughs in tuples", state_dict(a_tuple(NONE + b"q\x00" + levels)), not_an_array)
    levels = b"".join(EMPTY_LIST + b"q" + bytes([i + 1]) + (b"h" + bytes([i]) + b"a") * 9 for i in range(99))
    yield Hostile("billion laughs in lists", state_dict(a_tuple(EMPTY_LIST + b"q\x00" + levels)), not_an_array)
    yield Hostile("list in itself", state_dict(EMPTY_LIST + b"q\x00h\x00a"), not_an_array)
    yield Hostile("list in itself often", state_dict(EMPTY_LIST + b"q\x00" + b"h\x00a" * 40_000), not_an_array)
    yield Hostile("dict in itself", proto(EMPTY_DICT + b"q\x00" + text("a") + b"h\x00s."), not_an_array)
    around = EMPTY_DICT + b"q\x00" + text("a") + EMPTY_DICT + text("b") + b"h\x00ss"
    yield Hostile("two dicts in each other", state_dict(around), not_an_array)

    for name, opcodes in {
        "NONE": b"N", "FALSE": b"\x89", "MARK": b"(", "EMPTY_TUPLE": b")", "EMPTY_LIST": b"]", "EMPTY_DICT": b"}",
        "SHORT_BINBYTES": b"C\x00", "MEMOIZE": b"N\x94", "TUPLE1": b"N\x85", "BININT": b"J\x12\x34\x56\x78",
        "SHORT_BINUNICODE": b"\x8c\x02ab", "BINFLOAT": b"G12345678", "FRAME": b"\x95" + bytes(8),
    }.items():  # fmt: skip
        yield Hostile(f"{name} without end", state_dict(opcodes * 200_000), "goes on after 131,072 opcodes")

    encode_again = ENCODE + b"q\x01" + text("latin1") + b"q\x02" + b"h\x01h\x00h\x02\x86R" * 20_000
    for length in (1_000, 2**20):
        encoded = state_dict(a_list(text("x" * length) + b"q\x00", encode_again))
        yield Hostile(f"{length:,} characters encoded often", encoded, not_an_array)

    many = MARK + b"".join(text(f"{i:x}") + NONE for i in range(40_000)) + b"u"
    yield Hostile("many wrong values", proto(EMPTY_DICT + many + b"."), "and 39,980 more")

    shared_list = EMPTY_LIST + MARK + b"h\x00" * 30_000 + b"eq\x01"
    split = a_dict(OriginShape=shape(2), slices=b"h\x01") + b"q\x02"
    many = MARK + b"".join(text(f"{i:x}") + b"h\x02" for i in range(20_000)) + b"u"
    tensors = text("a@@.0") + b"q\x00" + ARRAY + text("list") + shared_list + text("split") + split
    data = proto(EMPTY_DICT + MARK + tensors + text("UnpackBigParamInfor@@") + EMPTY_DICT + many + b"u.")
    yield Hostile("20,000 split tensors share one list of parts", data, "more")

    size = 2**20
    first = NEW_ARRAY + array_state(sizes=shape(size // 4), data=content(bytes(size)) + b"q\x00") + BUILD
    other = NEW_ARRAY + array_state(sizes=shape(size // 4), data=b"h\x00") + BUILD
    parts = {f"a@@.{i}": other if i else first for i in range(300)}
    split = a_dict(OriginShape=shape(300, size // 4), slices=a_list(*(text(name) for name in parts)))
    data = proto(a_dict(**parts, **{"UnpackBigParamInfor@@": a_dict(a=split)}) + b".")
    yield Hostile("300 parts of one MiB that are the same bytes", data, "do not fit together")


def foreign_results() -> Iterator[Hostile]:
    for name, value in {"list": EMPTY_LIST, "None": NONE, "int": integer(1), "array": ARRAY, "tuple": a_tuple(ARRAY),
                        "text": text("a"), "list of arrays": a_list(ARRAY), "global": NDARRAY}.items():  # fmt: skip
        yield Hostile(f"no dict: {name}", proto(value + b"."), "not a state dict")
    values = {
        "int": integer(1), "float": b"G" + bytes(8), "bool": TRUE, "None": NONE, "text": text("a"),
        "long text": text("a" * 2000), "bytes": content(b"a"), "list": a_list(ARRAY), "tuple": a_tuple(ARRAY),
        "dict": a_dict(weight=ARRAY), "global": TUPLE, "dtype": F4, "array without bytes": NEW_ARRAY,
        "name and array without bytes": call(TUPLE, a_tuple(text("a"), NEW_ARRAY)),
        "pair of arrays": a_tuple(ARRAY, ARRAY), "name, array and more": a_tuple(text("a"), ARRAY, NONE),
    }  # fmt: skip
    for name, value in values.items():
        yield Hostile(f"value: {name}", state_dict(value, "layer.weight"), "'layer.weight' holds")
    info = {"OriginShape": shape(2, 2), "slices": a_list(text("w@@.0"), text("w@@.1"))}
    parts = {"w@@.0": ARRAY, "w@@.1": ARRAY}
    integers = NEW_ARRAY + array_state(dtype=I4) + BUILD
    flat = NEW_ARRAY + array_state(sizes=shape(2, 1)) + BUILD
    empty = NEW_ARRAY + array_state(sizes=shape(0), data=content(b"")) + BUILD
    splits = {
        "a part is missing": ({"w@@.0": ARRAY}, info),
        "a part is integer": (parts | {"w@@.1": integers}, info),
        "a part has two axes": (parts | {"w@@.1": flat}, info),
        "a part is named otherwise": (
            parts | {"w@@.2": ARRAY},
            info | {"slices": a_list(text("w@@.0"), text("w@@.2"))},
        ),
        "a part is used twice": (parts, info | {"slices": a_list(text("w@@.0"), text("w@@.0"))}),
        "a part is no name": (parts, info | {"slices": a_list(text("w@@.0"), integer(1))}),
        "a part is another tensor": (parts | {"v": ARRAY}, info | {"slices": a_list(text("v"), text("w@@.1"))}),
        "no parts": (parts, info | {"slices": EMPTY_LIST}),
        "parts are text": (parts, info | {"slices": text("w@@.0")}),
        "empty parts": ({"w@@.0": empty, "w@@.1": empty}, info | {"OriginShape": shape(0)}),
        "shape is too large": (parts, info | {"OriginShape": shape(2, 3)}),
        "shape is too small": (parts, info | {"OriginShape": shape(3)}),
        "shape is negative": (parts, info | {"OriginShape": shape(-2, -2)}),
        "shape is inferred": (parts, info | {"OriginShape": shape(-1, 2)}),
        "shape is a list": (parts, info | {"OriginShape": a_list(integer(4))}),
        "shape has 33 sizes": (parts, info | {"OriginShape": shape(4, *[1] * 32)}),
        "shape is missing": (parts, {"slices": info["slices"]}),
        "slices are missing": (parts, {"OriginShape": info["OriginShape"]}),
        "the tensor is there already": (parts | {"w": ARRAY}, info),
    }
    for name, (tensors, one) in splits.items():
        table = a_dict(**tensors, **{"UnpackBigParamInfor@@": a_dict(w=a_dict(**one))})
        yield Hostile(f"split: {name}", proto(table + b"."), "the parts of the split tensor 'w' do not fit together")
    for name, value in {"None": NONE, "a list": a_list(text("w")), "an array": ARRAY, "text": text("w")}.items():
        table = a_dict(**parts, **{"UnpackBigParamInfor@@": value})
        yield Hostile(f"split table is {name}", proto(table + b"."), "not a dict")
    table = a_dict(**parts, **{"UnpackBigParamInfor@@": a_dict(w=NONE)})
    yield Hostile("split tensor is None", proto(table + b"."), "do not fit together")


CORPUS = list(
    itertools.chain(
        foreign_globals(),
        foreign_opcodes(),
        misused_symbols(),
        foreign_dtypes(),
        foreign_arrays(),
        broken_stacks(),
        false_lengths(),
        bombs(),
        foreign_results(),
    )
)
