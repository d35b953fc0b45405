"""What is syntax elsewhere is taken literally here, and there is one note for each kind of it."""

from __future__ import annotations

import pytest

from kandinsky_runtime.prior.pipeline import PriorPipeline
from kandinsky_runtime.prior.prompt_syntax import syntax_notes

WEIGHT = (
    "a prompt has weight syntax of other programs, {!r}: it is taken literally;"
    " --mix weighs whole prompts, in Python Mix"
)
LORA = (
    "a prompt has the name of a LoRA of other programs, {!r}: it is taken literally; k22-export bundle --lora"
    " FILE:SCALE merges one"
)
KEYWORD = (
    "a prompt has a keyword of other programs, {!r}: it is taken literally; --mix blends several prompts, in Python Mix"
)


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("a (red:1.5) cat", [(WEIGHT, "(red:1.5)")]),
        ("a (red hat : .5) cat", [(WEIGHT, "(red hat : .5)")]),
        ("(hat:-1), (cat:2)", [(WEIGHT, "(hat:-1)")]),
        ("a ((red)) cat", [(WEIGHT, "((red))")]),
        ("a [cat]", [(WEIGHT, "[cat]")]),
        ("a [[cat]]", [(WEIGHT, "[cat]")]),
        ("a [cat:dog:0.5]", [(WEIGHT, "[cat:dog:0.5]")]),
        ("a [cat|dog]", [(WEIGHT, "[cat|dog]")]),
        ("a red++ cat", [(WEIGHT, "d++")]),
        ("a (red hat)-- cat", [(WEIGHT, ")--")]),
        ("a cat <lora:fluffy:0.8>", [(LORA, "<lora:fluffy:0.8>")]),
        ("a cat <LoRA:fluffy>", [(LORA, "<LoRA:fluffy>")]),
        ("a cat <hypernet:x:1>", [(LORA, "<hypernet:x:1>")]),
        ("a cat BREAK a hat", [(KEYWORD, "BREAK")]),
        ("a cat AND a hat", [(KEYWORD, "AND")]),
        ("a (cat:2) BREAK <lora:x:1>", [(WEIGHT, "(cat:2)"), (LORA, "<lora:x:1>"), (KEYWORD, "BREAK")]),
        # words and signs of any text
        ("a cat (red) and a hat", []),
        ("a cat: red, 1.5 m tall (about 2:1 in size)", []),
        ("a poster of PRISON BREAKERS", []),
        ("PRISON BREAK AND MORE", []),
        ("a break and a hat", []),
        ("a cat [2024]", []),
        ("a cat -- and a hat", []),
        ("C++ code", [(WEIGHT, "C++")]),
        ("a <b> c", []),
        ("", []),
    ],
)
def test_notes(text: str, notes: list[tuple[str, str]]) -> None:
    assert list(syntax_notes([text])) == [note.format(example) for note, example in notes]


def test_each_kind_is_noted_once_for_all_texts() -> None:
    assert list(syntax_notes(["a hat", "a (red:2) hat", "(blue:3)"])) == [WEIGHT.format("(red:2)")]


def test_the_prior_reports_it(prior: PriorPipeline) -> None:
    output = prior("a (red:1.5) cat", "[ugly]", num_inference_steps=2, seed=1)
    assert WEIGHT.format("(red:1.5)") in output.notes
