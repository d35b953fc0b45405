"""The files of a CLIP tokenizer: the vocabulary, the merges, and what its config says of lengths and special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Role in a manifest → name of the file.
FILES: Mapping[str, str] = {"vocabulary": "vocab.json", "merges": "merges.txt"}
_CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")  # the later one wins
_DEFAULTS: Mapping[str, Any] = {
    "model_max_length": 77,
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer's files.

    Attributes:
        paths: by role, the files that a bundle takes over.
        read: every file that was read.
        config: `model_max_length` and the special tokens as strings, CLIP's where the files do not name them.
        size: one more than the largest id.
    """

    paths: Mapping[str, Path]
    read: tuple[Path, ...]
    config: Mapping[str, Any]
    size: int


def read_tokenizer(folder: Path, faults: list[str]) -> Tokenizer | None:
    """The tokenizer in `folder`, or None where a file is missing or of no use; `faults` takes every reason.

    Raises:
        OSError: a file is there and cannot be read.
    """
    known = len(faults)
    paths = {role: folder / name for role, name in FILES.items()}
    vocabulary = _read_vocabulary(paths["vocabulary"], faults)
    _check_merges(paths["merges"], faults)
    there = [path for name in _CONFIGS if (path := folder / name).is_file()]
    given: dict[str, Any] = {}
    for path in there:
        given |= {key: value for key, value in _read_object(path, faults).items() if key in _DEFAULTS}
    config = _plain_config(folder, {**_DEFAULTS, **given}, faults)
    if vocabulary:
        faults += [
            f"{folder.name}/{FILES['vocabulary']} lacks {token!r}, the {key}"
            for key, token in config.items()
            if isinstance(token, str) and token not in vocabulary
        ]
    if len(faults) > known:
        return None
    return Tokenizer(paths, (*paths.values(), *there), config, 1 + max(vocabulary.values()))


def _read_vocabulary(path: Path, faults: list[str]) -> dict[str, int]:
    """Token → id; empty where it has a fault."""
    known = len(faults)
    content = _read_object(path, faults)
    ids = list(content.values())
    if len(faults) > known:
        return {}
    if not ids or not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
        faults.append(f"{_where(path)} must map tokens to whole numbers of 0 or more")
        return {}
    if len(set(ids)) < len(ids):
        faults.append(f"{_where(path)} gives several tokens the same id")
        return {}
    return content


def _check_merges(path: Path, faults: list[str]) -> None:
    """Every line but the first, which is a comment, holds two symbols."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[1:]
    except FileNotFoundError:
        faults.append(f"{_where(path)} is missing")
        return
    except UnicodeDecodeError as error:
        faults.append(f"{_where(path)} is not UTF-8 text ({error})")
        return
    wrong = [number for number, line in enumerate(lines, start=2) if line and len(line.split(" ")) != 2]
    if wrong or not any(lines):
        where = f"line {wrong[0]} is not" if wrong else "it has no line of"
        faults.append(f"{_where(path)} cannot be used: {where} two symbols with a space between them")


def _plain_config(folder: Path, config: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """The config with each special token as a string; transformers may describe one by an object."""
    plain = {
        key: value.get("content") if isinstance(value, dict) and key != "model_max_length" else value
        for key, value in config.items()
    }
    faults += [
        f"{folder.name}: `{key}` is {config[key]!r}; expected a text"
        for key, value in plain.items()
        if key != "model_max_length" and not isinstance(value, str)
    ]
    length = plain["model_max_length"]
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        faults.append(f"{folder.name}: `model_max_length` is {length!r}; expected a whole number of 2 or more")
    return plain


def _read_object(path: Path, faults: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(f"{_where(path)} is missing")
        return {}
    except (ValueError, RecursionError) as error:
        faults.append(f"{_where(path)} cannot be read ({error})")
        return {}
    if not isinstance(content, dict):
        faults.append(f"{_where(path)} is no JSON object")
        return {}
    return content


def _where(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
