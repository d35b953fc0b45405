"""The files of a CLIP tokenizer: the vocabulary, the merges, and what its config says of lengths and special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kandinsky_export.checkpoints.tokenizer_json import added_tokens, convert_tokenizer_json
from kandinsky_runtime.prior.tokenizer import DEFAULTS, TOKEN_FLAGS

# Role in a manifest → name of the file.
FILES: Mapping[str, str] = {"vocabulary": "vocab.json", "merges": "merges.txt"}
_WHOLE = "tokenizer.json"  # both in one; transformers 5 saves nothing else
_MAP, _CONFIG = "special_tokens_map.json", "tokenizer_config.json"
_UNSET_LENGTH = 10**20  # and above: transformers' way to write that no length was set
_ADDED = "added_tokens_decoder"  # in the config of newer versions of transformers: tokens by id, with their flags


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer's files.

    Attributes:
        contents: by role, the files that a bundle takes over.
        read: every file that was read.
        config: `model_max_length` and the special tokens, CLIP's if the files do not name them. A token is a string,
            or an object with its `content` and flags, which say how it is found in a text.
        size: one more than the largest id.
    """

    contents: Mapping[str, bytes]
    read: tuple[Path, ...]
    config: Mapping[str, Any]
    size: int

    def write(self, folder: Path) -> None:
        """Write the vocabulary and the merges into `folder`."""
        for role, content in self.contents.items():
            (folder / FILES[role]).write_bytes(content)


def read_tokenizer(folder: Path, faults: list[str]) -> TokenizerFiles | None:
    """The tokenizer in `folder`, or None if a file is missing or unusable; `faults` takes every reason.

    Raises:
        OSError: a file is there and cannot be read.
    """
    known = len(faults)
    contents, read, added = _read_contents(folder, faults)
    vocabulary = {}
    if "vocabulary" in contents:
        vocabulary = _vocabulary(contents["vocabulary"], _where(read[0]), faults)
    if "merges" in contents:
        _check_merges(contents["merges"], _where(read[-1]), faults)
    there = {name: _read_object(folder / name, faults) for name in (_MAP, _CONFIG) if (folder / name).is_file()}
    config = {**DEFAULTS, **_given(there.get(_MAP, {}), {**added, **there.get(_CONFIG, {})})}
    faults += _config_faults(folder, config)
    if vocabulary:
        faults += [
            f"{folder.name}/{read[0].name} lacks {content!r}, the {key}"
            for key, token in config.items()
            if isinstance(content := _content(token), str) and content not in vocabulary
        ]
    if len(faults) > known:
        return None
    return TokenizerFiles(contents, (*read, *(folder / name for name in there)), config, 1 + max(vocabulary.values()))


def _read_contents(folder: Path, faults: list[str]) -> tuple[dict[str, bytes], list[Path], dict[str, Any]]:
    """By role, each file without a fault; what they were read from; and the added tokens that this lists."""
    paths = {role: folder / name for role, name in FILES.items()}
    if (folder / _WHOLE).is_file() and not all(path.is_file() for path in paths.values()):
        known = len(faults)
        whole = _read_object(folder / _WHOLE, faults)
        converted = convert_tokenizer_json(whole, _where(folder / _WHOLE), faults) if len(faults) == known else None
        tokens = {str(token.get("id")): token for token in added_tokens(whole)}
        return converted or {}, [folder / _WHOLE], {_ADDED: tokens}
    contents = {}
    for role, path in paths.items():
        try:
            contents[role] = path.read_bytes()
        except FileNotFoundError:
            faults.append(f"{_where(path)} is missing")
    return contents, list(paths.values()), {}


def _vocabulary(text: bytes, where: str, faults: list[str]) -> dict[str, int]:
    """Token → id; empty if it has a fault."""
    known = len(faults)
    content = _parsed(text, where, faults)
    ids = list(content.values())
    if len(faults) > known:
        return {}
    if not ids or not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31 for item in ids):
        faults.append(f"{where} must map tokens to whole numbers from 0 to {2**31 - 1}")
        return {}
    if len(set(ids)) < len(ids):
        faults.append(f"{where} gives several tokens the same id")
        return {}
    return content


def _check_merges(text: bytes, where: str, faults: list[str]) -> None:
    """Every line but the first, which is a comment, holds two symbols."""
    try:
        lines = text.decode().split("\n")[1:]
    except UnicodeDecodeError as error:
        faults.append(f"{where} is not UTF-8 text ({error})")
        return
    wrong = [number for number, line in enumerate(lines, start=2) if line and len(line.split(" ")) != 2]
    if wrong or not any(lines):
        place = f"line {wrong[0]} is not" if wrong else "it has no line of"
        faults.append(f"{where} cannot be used: {place} two symbols with a space between them")


def _given(tokens: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What the files say of the settings, as transformers takes it: from the map, then from the config.

    A config that lists the added tokens has the last word, and their flags are those of the list.
    """
    added = config.get(_ADDED)
    if isinstance(added, Mapping):
        listed = {_content(token): token for token in added.values()}
        given = {key: listed.get(_content(value), value) for key, value in config.items() if key in DEFAULTS}
    else:
        given = {key: value for key, value in {**config, **tokens}.items() if key in DEFAULTS}
    if _is_unset_length(given.get("model_max_length")):
        del given["model_max_length"]
    return {key: _without_type(value) for key, value in given.items()}


def _is_unset_length(length: Any) -> bool:
    return isinstance(length, (int, float)) and length >= _UNSET_LENGTH


def _without_type(token: Any) -> Any:
    """A token's object with its content and flags only; without flags its content, as with anything else."""
    if not isinstance(token, Mapping) or not any(flag in token for flag in TOKEN_FLAGS):
        return _content(token)
    return {key: token[key] for key in ("content", *TOKEN_FLAGS) if key in token}


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
    return _parsed(path.read_bytes(), _where(path), faults)


def _parsed(text: bytes, where: str, faults: list[str]) -> dict[str, Any]:
    """A JSON object; empty if it is none."""
    try:
        content = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        faults.append(f"{where} cannot be read ({error})")
        return {}
    if not isinstance(content, dict):
        faults.append(f"{where} is no JSON object")
        return {}
    return content


def _where(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
