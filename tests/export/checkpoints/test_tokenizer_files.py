"""A tokenizer's files: read as libraries write them, and every fault reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kandinsky_export.checkpoints.tokenizer_files import read_tokenizer
from kandinsky_export.random_weights.vocabulary import small_vocabulary
from kandinsky_runtime.prior.tokenizer import Tokenizer
from tests.golden import GOLDEN

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
    assert tokenizer.read == (folder / "vocab.json", folder / "merges.txt")
    written = folder.parent / "written"
    written.mkdir()
    tokenizer.write(written)
    for path in tokenizer.read:
        assert (written / path.name).read_bytes() == path.read_bytes()


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
        ("vocab.json", b"{}", "must map tokens to whole numbers from 0 to 2147483647"),
        ("vocab.json", b'{"a": "b"}', "must map tokens to whole numbers from 0 to 2147483647"),
        ("vocab.json", b'{"a": 2147483648}', "must map tokens to whole numbers from 0 to 2147483647"),
        ("vocab.json", b'{"a": -1}', "must map tokens to whole numbers from 0 to 2147483647"),
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


class TestTokenizerJson:
    """What transformers 5 saves; `scripts/goldens/tokenizer_json.py` saved the golden folder with it."""

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        return Path(shutil.copytree(GOLDEN / "tokenizer_json", tmp_path / "tokenizer"))

    def change(self, folder: Path, **model: Any) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"] |= model
        (folder / "tokenizer.json").write_text(json.dumps(content))

    def test_the_vocabulary_and_the_merges_are_those_it_was_made_from(self, saved: Path, tmp_path: Path) -> None:
        tokenizer = read_tokenizer(saved, [])
        assert tokenizer is not None
        assert tokenizer.read == (saved / "tokenizer.json", saved / "tokenizer_config.json")
        tokenizer.write(tmp_path)
        assert json.loads((tmp_path / "vocab.json").read_text()) == small_vocabulary().ids()
        assert (tmp_path / "merges.txt").read_text() == small_vocabulary().merges_text()
        assert tokenizer.config["model_max_length"] == 77  # 10^30 in the file: not set

    def test_tokens_are_those_of_transformers(self, saved: Path, tmp_path: Path) -> None:
        tokenizer = read_tokenizer(saved, [])
        assert tokenizer is not None
        tokenizer.write(tmp_path)
        mine = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt", tokenizer.config)
        for text, ids in json.loads((saved / "tokens.json").read_text()).items():
            assert mine.encode([text]).ids[0].tolist() == ids, text

    def test_merges_as_texts(self, saved: Path) -> None:
        """As tokenizers wrote them before 0.20."""
        pairs = read_tokenizer(saved, [])
        self.change(saved, merges=[" ".join(pair) for pair in small_vocabulary().merges])
        texts = read_tokenizer(saved, [])
        assert pairs is not None
        assert texts is not None
        assert texts.contents == pairs.contents

    def test_files_of_their_own_go_first(self, saved: Path) -> None:
        (saved / "vocab.json").write_text(json.dumps(small_vocabulary().ids()))
        assert read_tokenizer(saved, []) is not None  # one alone does not count
        (saved / "merges.txt").write_text("#version\nnonsense\n")
        faults: list[str] = []
        assert read_tokenizer(saved, faults) is None
        assert faults == ["tokenizer/merges.txt cannot be used: line 2 is not two symbols with a space between them"]

    @pytest.mark.parametrize(
        ("model", "fault"),
        [
            ({"type": "Unigram"}, "has no `model` of type BPE"),
            ({"end_of_word_suffix": ""}, "`end_of_word_suffix` is ''; CLIP's tokenizer has '</w>'"),
            ({"vocab": [["a", 1.0]]}, "has no `vocab` that maps tokens to numbers"),
            ({"vocab": {"a": "b"}}, "must map tokens to whole numbers"),
            ({"merges": None}, "`merges` must be a list of pairs of symbols"),
            ({"merges": ["a b c"]}, "`merges` must be a list of pairs of symbols"),
            ({"merges": [["a", "b c"]]}, "`merges` must be a list of pairs of symbols"),
            ({"merges": [["a", 1]]}, "`merges` must be a list of pairs of symbols"),
            ({"merges": [["a", "\ud800"]]}, "is not UTF-8 text"),
            ({"merges": []}, "it has no line of two symbols"),
        ],
    )
    def test_faults(self, model: dict[str, Any], fault: str, saved: Path) -> None:
        self.change(saved, **model)
        faults: list[str] = []
        assert read_tokenizer(saved, faults) is None
        assert any(fault in said and said.startswith("tokenizer/tokenizer.json") for said in faults), faults

    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"model": 1, "added_tokens": {}}', b"[" * 100_000])
    def test_nonsense(self, content: bytes, saved: Path) -> None:
        (saved / "tokenizer.json").write_bytes(content)
        faults: list[str] = []
        assert read_tokenizer(saved, faults) is None
        assert len(faults) == 1
