"""The files of a CLIP tokenizer: the vocabulary, the merges, and what its config says of lengths and special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Role in a manifest → name of the file.
FILES: Mapping[str, str] = {"vocabulary": "vocab.json", "merges": "merges.txt"}
_MAP, _CONFIG = "special_tokens_map.json", "tokenizer_config.json"
_ADDED = "added_tokens_decoder"  # in the config of newer versions of transformers: tokens by id, with their flags
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word")
_DEFAULTS: Mapping[str, Any] = {
    "model_max_length": 77,
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer's files.

    Attributes:
        paths: by role, the files that a bundle takes over.
        read: every file that was read.
        config: `model_max_length` and the special tokens, CLIP's if the files do not name them. A token is a string,
            or an object with its `content` and flags, which say how it is found in a text.
        size: one more than the largest id.
    """

    paths: Mapping[str, Path]
    read: tuple[Path, ...]
    config: Mapping[str, Any]
    size: int


def read_tokenizer(folder: Path, faults: list[str]) -> TokenizerFiles | None:
    """The tokenizer in `folder`, or None if a file is missing or unusable; `faults` takes every reason.

    Raises:
        OSError: a file is there and cannot be read.
    """
    known = len(faults)
    paths = {role: folder / name for role, name in FILES.items()}
    vocabulary = _read_vocabulary(paths["vocabulary"], faults)
    _check_merges(paths["merges"], faults)
    there = {name: _read_object(folder / name, faults) for name in (_MAP, _CONFIG) if (folder / name).is_file()}
    config = {**_DEFAULTS, **_given(there.get(_MAP, {}), there.get(_CONFIG, {}))}
    faults += _config_faults(folder, config)
    if vocabulary:
        faults += [
            f"{folder.name}/{FILES['vocabulary']} lacks {content!r}, the {key}"
            for key, token in config.items()
            if isinstance(content := _content(token), str) and content not in vocabulary
        ]
    if len(faults) > known:
        return None
    return TokenizerFiles(
        paths, (*paths.values(), *(folder / name for name in there)), config, 1 + max(vocabulary.values())
    )


def _read_vocabulary(path: Path, faults: list[str]) -> dict[str, int]:
    """Token → id; empty if it has a fault."""
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


def _given(tokens: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What the files say of the settings, as transformers takes it: from the map, then from the config.

    A config that lists the added tokens has the last word, and their flags are those of the list.
    """
    added = config.get(_ADDED)
    if isinstance(added, Mapping):
        listed = {_content(token): token for token in added.values()}
        given = {key: listed.get(_content(value), value) for key, value in config.items() if key in _DEFAULTS}
    else:
        given = {key: value for key, value in {**config, **tokens}.items() if key in _DEFAULTS}
    return {key: _without_type(value) for key, value in given.items()}


def _without_type(token: Any) -> Any:
    """A token's object with its content and flags only; without flags its content, as with anything else."""
    if not isinstance(token, Mapping) or not any(flag in token for flag in _FLAGS):
        return _content(token)
    return {key: token[key] for key in ("content", *_FLAGS) if key in token}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def _config_faults(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if key != "model_max_length" and not isinstance(_content(value), str):
            yield f"{folder.name}: `{key}` is {value!r}; expected a text"
    length = config["model_max_length"]
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        yield f"{folder.name}: `model_max_length` is {length!r}; expected a whole number of 2 or more"


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
