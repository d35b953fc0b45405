"""The tokenizer: the ids of transformers' CLIPTokenizer for 1,000 strings, truncation, and invalid files."""

from __future__ import annotations

import builtins
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.errors import BundleError, EngineUnavailable, InputError
from kandinsky_runtime.prior.tokenizer import DEFAULTS, Tokenizer
from scripts.goldens import tokens as golden
from tests.golden import GOLDEN

START, END = 49406, 49407


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CLIP's real vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("clip")
    golden.write_vocabulary(golden.read_merges(GOLDEN), folder)
    return folder


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(gzip.decompress((GOLDEN / "tokens.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def clip(vocabulary: Path) -> Tokenizer:
    return load(vocabulary)


def load(folder: Path, config: Mapping[str, Any] | None = None) -> Tokenizer:
    return Tokenizer.from_files(folder / "vocab.json", folder / "merges.txt", config or {})


def small(folder: Path, vocab: Any = None, merges: str = "#version: 0.2\na b</w>\n") -> Path:
    """A folder with a vocabulary of a few tokens."""
    tokens = ["a", "b", "a</w>", "b</w>", "ab</w>", golden.START, golden.END]
    ids = {token: number for number, token in enumerate(tokens)} if vocab is None else vocab
    (folder / "vocab.json").write_text(ids if isinstance(ids, str) else json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    return folder


def test_vocabulary_has_the_published_sizes(vocabulary: Path) -> None:
    assert (vocabulary / "vocab.json").stat().st_size == golden.VOCABULARY_BYTES
    assert (vocabulary / "merges.txt").stat().st_size == golden.MERGES_BYTES


@pytest.mark.parametrize("config", golden.CONFIGS)
def test_ids_equal_those_of_transformers(config: str, vocabulary: Path, record: dict[str, Any]) -> None:
    rows, pad = record["ids"][config]["rows"], record["ids"][config]["pad"]
    texts = [text for text in record["texts"] if config == "plain" or golden.special(text)]
    assert len(record["texts"]) == golden.COUNT
    tokens = load(vocabulary, golden.CONFIGS[config]).encode(texts)
    whole = tokens.padded(77)
    assert whole.ids.shape == (len(texts), 77)
    for text, ids, mask, row in zip(texts, whole.ids, whole.mask, rows, strict=True):
        assert ids.tolist() == row + [pad] * (77 - len(row)), repr(text)
        assert mask.sum() == len(row)


def test_the_settings_change_the_golden_ids(record: dict[str, Any]) -> None:
    lengths = {name: sum(map(len, entry["rows"])) for name, entry in record["ids"].items()}
    assert lengths["normalized"] < lengths["exclamation_mark"]
    assert record["ids"]["exclamation_mark"]["pad"] == 0


def test_shapes_and_dtypes(clip: Tokenizer) -> None:
    tokens = clip.encode(["a hat", ""])
    assert tokens.ids.dtype == np.int64
    assert tokens.mask.dtype == np.float32
    assert tokens.ids.tolist() == [[START, 320, 3801, END], [START, END, END, END]]
    assert tokens.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert tokens.dropped == (None, None)


def test_a_prompt_has_the_same_tokens_alone_and_in_a_batch(clip: Tokenizer, record: dict[str, Any]) -> None:
    texts = record["texts"][:100]
    batch = clip.encode(texts).padded(77)
    alone = [clip.encode([text]).padded(77) for text in texts]
    np.testing.assert_array_equal(batch.ids, np.concatenate([tokens.ids for tokens in alone]))
    np.testing.assert_array_equal(batch.mask, np.concatenate([tokens.mask for tokens in alone]))
    assert batch.dropped == tuple(tokens.dropped[0] for tokens in alone)


def test_the_longest_prompt_that_fits_is_not_truncated(clip: Tokenizer) -> None:
    tokens = clip.encode(["hat " * 75])
    assert tokens.ids.tolist() == [[START, *[3801] * 75, END]]
    assert tokens.dropped == (None,)


def test_truncation_reports_the_dropped_part(clip: Tokenizer) -> None:
    tokens = clip.encode(["short", "hat " * 75 + "Çelik, 1920 ŞAPKA"])
    assert tokens.ids[1].tolist() == [START, *[3801] * 75, END]
    assert tokens.dropped == (None, "Çelik, 1920 ŞAPKA")


def test_the_dropped_part_is_the_end_of_the_prompt(clip: Tokenizer, record: dict[str, Any]) -> None:
    """The rest of a prompt that was cut after a space has the same tokens, but for a few of a split letter."""
    cut = [text for text in record["texts"] if clip.encode([text]).dropped[0]]
    assert len(cut) > 50
    same = 0
    for text in cut:
        tokens = clip.encode([text])
        dropped = tokens.dropped[0]
        assert dropped
        assert text.endswith(dropped)
        rest = text.removesuffix(dropped)
        if rest[-1:].isspace():
            ids = clip.encode([rest]).ids[0, :-1]
            assert tokens.ids[0, : len(ids)].tolist() == ids.tolist(), repr(text)
            assert len(ids) >= 76 - 3
            same += len(ids) == 76
    assert same > 20


def test_a_very_long_prompt_is_truncated(clip: Tokenizer) -> None:
    tokens = clip.encode(["hat " * 10_000])
    assert tokens.ids.shape == (1, 77)
    assert tokens.dropped == ("hat " * (10_000 - 75),)


def test_shorter_models_truncate_earlier(vocabulary: Path) -> None:
    tokens = load(vocabulary, {"model_max_length": 4}).encode(["a red hat"])
    assert tokens.ids.tolist() == [[START, 320, 736, END]]
    assert tokens.dropped == ("hat",)


def test_padding_to_less_is_refused(clip: Tokenizer) -> None:
    with pytest.raises(InputError, match="have 4 tokens; expected at most 3"):
        clip.encode(["a hat"]).padded(3)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("a hat", "expected a list of texts"),
        ([], "expected a list of texts"),
        (None, "expected a list of texts"),
        (["a", 3], "prompt 2 is 3, int; expected a text"),
        ([b"a"], "prompt 1 is b'a', bytes"),
        (["fine", "a \ud83d b"], "prompt 2 has half a surrogate pair.*at character 3"),
        (["\udc00"], "prompt 1 has half a surrogate pair"),
    ],
)
def test_invalid_prompts_are_refused(clip: Tokenizer, prompts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clip.encode(prompts)


def test_a_small_vocabulary_by_hand(tmp_path: Path) -> None:
    tokens = load(small(tmp_path)).encode(["ab", "ba", "AB b"])
    assert tokens.ids.tolist() == [[5, 4, 6, 6], [5, 1, 2, 6], [5, 4, 3, 6]]


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\r\na b</w>\r\n")
    assert load(tmp_path).encode(["ab"]).ids.tolist() == [[5, 4, 6]]


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        load(tmp_path)
    assert len(caught.value.faults) == 2
    assert "vocab.json is missing: export the bundle again with --prior" in str(caught.value)
    assert "merges.txt is missing" in str(caught.value)


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ("{", "vocab.json is not JSON"),
        ("[" * 100_000, "vocab.json is not JSON"),
        ("[]", "does not map each token to a different whole number"),
        ("{}", "does not map each token to a different whole number"),
        ({"a": "0"}, "does not map each token to a different whole number"),
        ({"a": 0, "b": True}, "does not map each token to a different whole number"),
        ({"a": 0, "b": 0}, "does not map each token to a different whole number"),
        ({"a": 0, "b": 1 << 31}, "does not map each token to a different whole number"),
        ({"a": 0, "b": -1}, "does not map each token to a different whole number"),
        ({"a": 0, "b": 1, "ab</w>": 2, "b</w>": 3, golden.START: 4}, r"lacks '<\|endoftext\|>', the `eos_token`"),
        ({"a": 0, "b": 1, golden.START: 2, golden.END: 3}, r"joins 1 pairs .* such as 'a' and 'b</w>'"),
    ],
)
def test_invalid_vocabularies_are_refused(tmp_path: Path, vocab: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load(small(tmp_path, vocab))


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ("a b</w> c\n", "line 1: 'a b</w> c' is not two tokens"),
        ("#version: 0.2\nab\n", "line 2: 'ab' is not two tokens"),
        ("a b</w>\n\na b</w>\n", "line 2: '' is not two tokens"),
        ("a \n", "line 1: 'a ' is not two tokens"),
    ],
)
def test_invalid_merges_are_refused(tmp_path: Path, merges: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load(small(tmp_path, merges=merges))


def test_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "vocab.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "merges.txt").unlink()
    (tmp_path / "merges.txt").mkdir()
    with pytest.raises(BundleError) as caught:
        load(tmp_path)
    assert [fault.partition(" (")[0] for fault in caught.value.faults] == [
        "vocab.json cannot be read",
        "merges.txt cannot be read",
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_max_length": 1}, "`model_max_length` is 1; expected a whole number of at least 2"),
        ({"model_max_length": 77.0}, "`model_max_length` is 77.0"),
        ({"model_max_length": True}, "`model_max_length` is True"),
        ({"bos_token": None}, "`bos_token` is None; expected a text"),
        ({"pad_token": ""}, "`pad_token` is ''; expected a text"),
        ({"pad_token": {"content": "a", "loud": True}}, "`pad_token` is .*loud.*; expected a text"),
        ({"pad_token": {"normalized": True}}, "`pad_token` is .*; expected a text"),
        ({"pad_token": "[PAD]"}, r"lacks '\[PAD\]', the `pad_token`"),
        ({"do_lower_case": False}, "`do_lower_case` is unknown"),
    ],
)
def test_invalid_settings_are_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load(small(tmp_path), config)


def test_the_defaults_are_clips(clip: Tokenizer, vocabulary: Path) -> None:
    assert clip.max_length == DEFAULTS["model_max_length"] == 77
    assert load(vocabulary, dict(DEFAULTS)).encode(["a"]).ids.tolist() == clip.encode(["a"]).ids.tolist()


def test_a_missing_library_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_tokenizers(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "tokenizers":
            raise ImportError("No module named 'tokenizers'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tokenizers)
    with pytest.raises(EngineUnavailable, match=r"pip install 'kandinsky22-deploy\[prompt\]'"):
        load(small(tmp_path))
