"""What is compared: an engine and its options, and the options of sampling, written as `engine=openvino,steps=50`.

The module loads nothing but the standard library and the declarations of options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kandinsky_runtime.decoder.declarations import declarations
from kandinsky_runtime.decoder.options import DecoderOptions
from kandinsky_runtime.errors import Kandinsky22Error, UsageError


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


# Key of a specification → the argument of a pipeline's `load`, and its parser.
_LOADING: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "engine": ("engine", str),
    "precision": ("precision", str),
    "device": ("device", str),
    "threads": ("threads", int),
    "tiles": ("tiles", _flag),
    "low_memory": ("low_memory", _flag),
}
# Key → the option of a run, whose declaration has the parser.
_SAMPLING: Mapping[str, str] = {
    "scheduler": "scheduler",
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "guidance_interval": "guidance_interval",
    "prior_steps": "prior_num_inference_steps",
    "prior_guidance_scale": "prior_guidance_scale",
}
KEYS = (*_LOADING, *_SAMPLING)


@dataclass(frozen=True)
class Setting:
    """One way to run a bundle.

    Attributes:
        text: the specification as it was written, the setting's name in tables.
        loading: arguments of a pipeline's `load`.
        sampling: options of a run.
    """

    text: str
    loading: Mapping[str, Any]
    sampling: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Read a specification: KEY=VALUE, separated by commas. What is left out has its default.

        Raises:
            UsageError: an unknown key, a key that is given twice, or a value that cannot be read.
        """
        parsers = {key: (field, parse) for key, (field, parse) in _LOADING.items()}
        declared = declarations(DecoderOptions)
        parsers |= {key: (field, declared[field][1].parse) for key, field in _SAMPLING.items()}
        loading: dict[str, Any] = {}
        sampling: dict[str, Any] = {}
        for item in filter(None, map(str.strip, text.split(","))):
            key, equals, value = (part.strip() for part in item.partition("="))
            if key not in parsers:
                raise UsageError(f"{text!r} has the unknown key {key!r}; the keys are {', '.join(KEYS)}")
            if not equals or not value:
                raise UsageError(f"{text!r} gives {key} no value; write {key}=VALUE")
            field, parse = parsers[key]
            into = loading if key in _LOADING else sampling
            if field in into:
                raise UsageError(f"{text!r} gives {key} twice; give it once")
            try:
                into[field] = parse(value)
            except ValueError as error:
                raise UsageError(f"{text!r} gives {key} the value {value!r}, which cannot be used ({error})") from None
        if not loading and not sampling:
            raise UsageError(f"{text!r} says nothing; write KEY=VALUE with the keys {', '.join(KEYS)}")
        return cls(text.strip(), loading, sampling)

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Put the setting's name before the text of an error within the `with` statement."""
        try:
            yield
        except Kandinsky22Error as error:
            error.args = (f"{self.text}: {error}",)
            raise
