"""A tokenizer in one file, `tokenizer.json`: all that transformers 5 saves of one besides its config."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

_END_OF_WORD = "</w>"


def convert_tokenizer_json(content: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, bytes] | None:
    """The contents of `vocab.json` and `merges.txt` that say the same, by role; None if it has a fault.

    Args:
        content: the file's object. Merges are pairs, or before tokenizers 0.20 texts with a space between two symbols.
        where: the file's name in `faults`.
        faults: takes what is wrong.
    """
    known = len(faults)
    model = content.get("model")
    if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE":
        faults.append(f"{where} has no `model` of type BPE, which CLIP's tokenizer is")
        return None
    if (ending := model.get("end_of_word_suffix")) != _END_OF_WORD:
        faults.append(f"{where}: `end_of_word_suffix` is {ending!r}; CLIP's tokenizer has {_END_OF_WORD!r}")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, Mapping):
        faults.append(f"{where} has no `vocab` that maps tokens to numbers")
    if not isinstance(merges, list) or not all(map(_is_pair, map(_pair, merges))):
        faults.append(f"{where}: `merges` must be a list of pairs of symbols")
    if len(faults) > known or not isinstance(vocabulary, Mapping) or not isinstance(merges, list):
        return None
    ids = {**vocabulary, **{token["content"]: token.get("id") for token in added_tokens(content)}}
    lines = ["#version: 0.2", *(" ".join(_pair(merge)) for merge in merges)]
    merges_text = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")  # refused as text that is not UTF-8
    return {"vocabulary": json.dumps(ids).encode(), "merges": merges_text}


def added_tokens(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tokens that are found in a text before it is split, with their flags and ids."""
    listed = content.get("added_tokens")
    items: Iterable[Any] = listed if isinstance(listed, list) else ()
    return [item for item in items if isinstance(item, Mapping) and isinstance(item.get("content"), str)]


def _pair(merge: Any) -> Any:
    return merge.split(" ") if isinstance(merge, str) else merge


def _is_pair(merge: Any) -> bool:
    """Two symbols that a line with a space between them can hold."""
    return (
        isinstance(merge, list)
        and len(merge) == 2
        and all(isinstance(symbol, str) and symbol and not {" ", "\n"} & set(symbol) for symbol in merge)
    )
