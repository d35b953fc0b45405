"""How an option is declared: one place for its default, text, check and spelling.

The module loads nothing but the standard library, so that `--help` stays quick.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from kandinsky_runtime.checks import boolean

Options = TypeVar("Options")
Check = Callable[[str, Any], Any]
"""(name, value) → the value to use; raises UsageError."""


@dataclass(frozen=True)
class Declaration:
    """The declaration of an option, other than its type and default.

    Attributes:
        text: the documentation, in Python and on the command line.
        check: the check of a value; None is never checked, it means the default.
        spelling: the flag on the command line; empty for an option that only Python has.
        group: the group of `--help` that lists the flag: "prompt", "files" or "sampling".
        metavar: the value's name in `--help`.
        parse: text of the command line → value.
        choices: the only values.
        python: documentation for Python alone, after `text`.
        turned_off: documentation of a flag that turns a truth value off.
    """

    text: str
    check: Check | None = None
    spelling: str = ""
    group: str = "sampling"
    metavar: str | None = None
    parse: Callable[[str], Any] = str
    choices: tuple[str, ...] | None = None
    python: str = ""
    turned_off: str = ""


def option(default: Any, text: str, **declared: Any) -> Any:
    """Declare an option; keyword arguments are those of `Declaration`."""
    return field(default=default, metadata={"declaration": Declaration(text, **declared)})


def declarations(options: type[Any]) -> dict[str, tuple[Field[Any], Declaration]]:
    """The options of a task by name."""
    return {item.name: (item, item.metadata["declaration"]) for item in fields(options)}


def from_text(options: type[Any], name: str, value: Any) -> Any:
    """An option's value from its text; another value stays as it is, and a truth value is checked.

    Raises:
        ValueError: the text is no such value.
    """
    item, declared = declarations(options)[name]
    if isinstance(item.default, bool):
        return boolean(value)
    return declared.parse(value) if isinstance(value, str) else value


def check_values(options: Any) -> None:
    """Check every value of a frozen object of declared options, and put what its check returns in its place.

    Raises:
        UsageError: a value is invalid.
    """
    for name, (item, declared) in declarations(type(options)).items():
        value = getattr(options, name)
        if declared.check is not None and not (value is None and item.default is None):
            object.__setattr__(options, name, declared.check(name, value))


def documented(options: type[Options]) -> type[Options]:
    """Append every option's text to the class's documentation."""
    lines = [
        f"        {name}: {declared.text}{declared.python and f'; {declared.python}'}"
        for name, (_, declared) in declarations(options).items()
    ]
    options.__doc__ = inspect.cleandoc(options.__doc__ or "") + "\n\n    Options:\n" + "\n".join(lines) + "\n"
    return options


def call_signature(options: type[Any], more: Mapping[str, Any], by_position: str | None = None) -> inspect.Signature:
    """The signature of a pipeline's call, for `help` and editors.

    Args:
        options: the task's, all by keyword.
        more: further keywords with their defaults.
        by_position: the one option that may also be given by position; None for any inputs by position.
    """
    kinds = inspect.Parameter
    defaults = {name: item.default for name, (item, _) in declarations(options).items()} | dict(more)
    first = kinds("inputs", kinds.VAR_POSITIONAL)
    if by_position is not None:
        first = kinds(by_position, kinds.POSITIONAL_OR_KEYWORD, default=defaults.pop(by_position))
    keywords = [kinds(name, kinds.KEYWORD_ONLY, default=default) for name, default in defaults.items()]
    return inspect.Signature([kinds("self", kinds.POSITIONAL_OR_KEYWORD), first, *keywords])
