"""The published Python API of TensorRT and the CUDA runtime, and the check that a call fits it.

`scripts/goldens/tensorrt_api.py` wrote the table that is read here.
"""

from __future__ import annotations

import enum
import functools
import inspect
import json
import re
from collections.abc import Callable
from typing import Any

from tests.golden import GOLDEN

TABLE = json.loads((GOLDEN / "tensorrt_api.json").read_text())
TENSORRT_VERSIONS = tuple(TABLE["tensorrt"])
CUDA_VERSIONS = tuple(TABLE["cuda"])


class NotInTheApi(AssertionError):
    """A call that the vendor's bindings would refuse."""


def enums(names: dict[str, list[str]]) -> dict[str, type[enum.Enum]]:
    """Enumerations with these members; `int` of a member is its position."""
    return {
        name: enum.IntEnum(name, {member: place for place, member in enumerate(members)})
        for name, members in names.items()
    }


@functools.cache
def signature(text: str) -> inspect.Signature:
    """The signature from a line of pybind11, such as "(self: Builder, flags: int = 0) -> INetworkDefinition"."""
    text = re.sub(r"<[^>]*>", "None", text)
    text = re.sub(r"\bnv\w+::", "", text)
    scope: dict[str, Any] = {}
    exec(f"from __future__ import annotations\ndef function{text}: ...", scope)
    return inspect.signature(scope["function"])


def check_call(name: str, signatures: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Fail unless one of the signatures accepts the arguments."""
    reasons = []
    for candidate in map(signature, signatures):
        try:
            bound = candidate.bind(*args, **kwargs)
        except TypeError as error:
            reasons.append(str(error))
            continue
        wrong = [
            f"{key} is a {type(value).__name__}, not {candidate.parameters[key].annotation}"
            for key, value in bound.arguments.items()
            if key != "self" and not _fits(value, str(candidate.parameters[key].annotation))
        ]
        if not wrong:
            return
        reasons += wrong
    raise NotInTheApi(f"{name}{args}: {'; '.join(reasons)}")


def _fits(value: Any, annotation: str) -> bool:
    """Whether the bindings would convert a value to this type; no plain value converts to a type outside the table."""
    known: dict[str, Callable[[Any], bool]] = {
        "str": lambda item: isinstance(item, str),
        "bool": lambda item: isinstance(item, bool),
        "int": lambda item: isinstance(item, int) and not isinstance(item, bool),
        "tuple": lambda item: isinstance(item, tuple),
        "list": lambda item: isinstance(item, list),
        "Dims": lambda item: isinstance(item, (tuple, list)) and all(isinstance(size, int) for size in item),
        "buffer": lambda item: isinstance(item, (bytes, bytearray, memoryview)),
    }
    known["typing.SupportsInt"] = known["int"]
    known["typing_extensions.Buffer"] = known["buffer"]
    if annotation in known:
        return known[annotation](value)
    names = {base.__name__ for base in type(value).__mro__}
    return annotation in names or (annotation not in KNOWN_TYPES and type(value).__module__ != "builtins")


KNOWN_TYPES = {
    name for version in TABLE["tensorrt"].values() for part in ("classes", "enums") for name in version[part]
}
