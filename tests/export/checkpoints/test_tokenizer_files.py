"""A tokenizer's files: read as libraries write them, and every fault reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kandinsky_export.checkpoints.tokenizer_files import read_tokenizer
from kandinsky_export.random_weights.vocabulary import small_vocabulary

CLIP = {"bos_token": "<|startoftext|>"} | dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer without configs."""
    place = tmp_path / "tokenizer"
    place.mkdir()
    (place / "vocab.json").write_text(json.dumps(small_vocabulary().ids()), encoding="utf-8")
    (place / "merges.txt").write_text(small_vocabulary().merges_text(), encoding="utf-8")
    return place


def test_clips_settings_where_no_config_says_otherwise(folder: Path) -> None:
    faults: list[str] = []
    tokenizer = read_tokenizer(folder, faults)
    assert tokenizer is not None
    assert not faults
    assert tokenizer.config == {"model_max_length": 77, **CLIP}
    assert tokenizer.size == len(small_vocabulary().tokens)
    assert tokenizer.paths == {"vocabulary": folder / "vocab.json", "merges": folder / "merges.txt"}
    assert tokenizer.read == tuple(tokenizer.paths.values())


def configured(folder: Path, tokens: dict[str, Any], config: dict[str, Any]) -> Mapping[str, Any]:
    """What is read of a map of special tokens and a config."""
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = read_tokenizer(folder, [])
    assert tokenizer is not None
    assert {path.name for path in tokenizer.read} >= {"special_tokens_map.json", "tokenizer_config.json"}
    return tokenizer.config


def test_the_map_goes_before_the_config(folder: Path) -> None:
    config = {"unk_token": "#", "pad_token": "#", "model_max_length": 16, "other": 1}
    got = configured(folder, {"pad_token": {"content": "!"}}, config)
    assert got == {"model_max_length": 16, **CLIP, "pad_token": "!", "unk_token": "#"}


def test_flags_are_kept(folder: Path) -> None:
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    tokens = {"bos_token": {"content": CLIP["bos_token"], **flags}}
    config = {"eos_token": {"__type": "AddedToken", "content": CLIP["eos_token"], **flags}}
    got = configured(folder, tokens, config)
    assert got["bos_token"] == {"content": CLIP["bos_token"], **flags}
    assert got["eos_token"] == {"content": CLIP["eos_token"], **flags}
    assert got["unk_token"] == CLIP["unk_token"]


def test_a_list_of_added_tokens_has_the_last_word(folder: Path) -> None:
    added = {"7": {"content": CLIP["bos_token"], "normalized": True, "special": True}}
    config = {"bos_token": CLIP["bos_token"], "pad_token": "!", "added_tokens_decoder": added}
    got = configured(folder, {"pad_token": "#", "bos_token": CLIP["bos_token"]}, config)
    assert got["bos_token"] == {"content": CLIP["bos_token"], "normalized": True}
    assert got["pad_token"] == "!"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("vocab.json", None, "tokenizer/vocab.json is missing"),
        ("merges.txt", None, "tokenizer/merges.txt is missing"),
        ("vocab.json", b"{", "tokenizer/vocab.json cannot be read"),
        ("vocab.json", b"\xff", "tokenizer/vocab.json cannot be read"),
        ("vocab.json", b"[]", "tokenizer/vocab.json is no JSON object"),
        ("vocab.json", b"{}", "must map tokens to whole numbers of 0 or more"),
        ("vocab.json", b'{"a": "b"}', "must map tokens to whole numbers of 0 or more"),
        ("vocab.json", b'{"a": -1}', "must map tokens to whole numbers of 0 or more"),
        ("vocab.json", b'{"a": 1, "b": 1}', "gives several tokens the same id"),
        ("vocab.json", b'{"a": 1}', "tokenizer/vocab.json lacks '<|startoftext|>', the bos_token"),
        ("merges.txt", b"", "it has no line of two symbols with a space between them"),
        ("merges.txt", b"#version\na b\nc\n", "line 3 is not two symbols with a space between them"),
        ("merges.txt", b"#version\n\xff \xfe\n", "is not UTF-8 text"),
        ("tokenizer_config.json", b"nonsense", "tokenizer/tokenizer_config.json cannot be read"),
        ("tokenizer_config.json", b'{"bos_token": 1}', "`bos_token` is 1; expected a text"),
        ("tokenizer_config.json", b'{"model_max_length": 1}', "`model_max_length` is 1; expected a whole number of 2"),
        ("tokenizer_config.json", b'{"eos_token": "nowhere"}', "lacks 'nowhere', the eos_token"),
    ],
)
def test_faults(name: str, content: bytes | None, fault: str, folder: Path) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    faults: list[str] = []
    assert read_tokenizer(folder, faults) is None
    assert any(fault in said for said in faults), faults


def test_all_faults_at_once(tmp_path: Path) -> None:
    faults = ["from elsewhere"]
    assert read_tokenizer(tmp_path / "tokenizer", faults) is None
    assert faults == ["from elsewhere", "tokenizer/vocab.json is missing", "tokenizer/merges.txt is missing"]
