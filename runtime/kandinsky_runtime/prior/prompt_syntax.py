"""Syntax of other programs in prompts: Kandinsky's text encoder takes every character literally, and a note says so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_LORA = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(
    r"\([^()]*[^()\s:]\s*:\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*\)"  # (red:1.5)
    r"|\(\([^()]+\)\)"  # ((red))
    r"|\[[^\[\]]*[^\W\d_][^\[\]]*\]"  # [cat], [cat:dog:0.5], [cat|dog]
    r"|(?:\w|\))(?:\+\+|--)(?![\w+-])"  # red++
)
_WORD = re.compile(r"(?<!\w)(?:BREAK|AND)(?!\w)")


def syntax_notes(texts: Sequence[str]) -> Iterator[str]:
    """A sentence for each kind of syntax in the texts, with its first example."""
    for kind, remedy, examples in (
        ("weight syntax", "--mix weighs whole prompts, in Python Mix", _first(_WEIGHT, texts)),
        ("the name of a LoRA", "k22-export bundle --lora FILE:SCALE merges one", _first(_LORA, texts)),
        ("a keyword", "--mix blends several prompts, in Python Mix", _first_word(texts)),
    ):
        if examples is not None:
            yield f"a prompt has {kind} of other programs, {examples!r}: it is taken literally; {remedy}"


def _first(pattern: re.Pattern[str], texts: Sequence[str]) -> str | None:
    return next((match[0][:60] for text in texts if (match := pattern.search(text))), None)


def _first_word(texts: Sequence[str]) -> str | None:
    """BREAK or AND; in a text without small letters, they are words like all others."""
    return _first(_WORD, [text for text in texts if any(letter.islower() for letter in text)])
