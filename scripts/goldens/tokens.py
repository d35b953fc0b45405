"""Golden token ids: the output of transformers' CLIPTokenizer for 1,000 strings, with CLIP's real vocabulary.

    python scripts/goldens/tokens.py tests/golden             with torch, diffusers and transformers
    python scripts/goldens/tokens.py tests/golden BPE_FILE    also the vocabulary

The first command writes tokens.json.gz. The second also writes clip_merges.txt.xz, from which the tests make both files
of the tokenizer. BPE_FILE is CLIP's bpe_simple_vocab_16e6.txt.gz, as in the Python package open_clip_torch.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import random
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kandinsky_export.random_weights.vocabulary import END, START, WORD_END, byte_symbols

COUNT = 1000
SEED = 7
VOCABULARY_BYTES, MERGES_BYTES = 862_328, 524_619
"""Sizes of vocab.json and merges.txt as published with the prior."""

MERGES = 49152 - 256 - 2


def _flagged(content: str) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "exclamation_mark": {"pad_token": "!"},
    "normalized": {"bos_token": _flagged(START), "eos_token": _flagged(END), "unk_token": _flagged(END)},
    "normalized_exclamation_mark": {
        "bos_token": _flagged(START),
        "eos_token": _flagged(END),
        "unk_token": _flagged(END),
        "pad_token": "!",
    },
}
"""The tokenizer's settings in the forms of published checkpoints. The first is run on every string, the others on
strings with special tokens or exclamation marks."""

_STRINGS = json.loads(Path(__file__).with_name("strings.json").read_text())
WORDS, ALPHABETS = _STRINGS["words"].split(), _STRINGS["alphabets"]
TEXTS = (
    *_STRINGS["texts"],
    *(word * 100 for word in ("word ", "word", "x", "\U0001f600", "\u4e2d", "\u00e9", "1", "!")),
    *("hat, " * count for count in (37, 38, 39)),
    *("hat " * count for count in (74, 75, 76)),
    *("hat " * 74 + rest for rest in ("hats", f"hat {END}", f"{END} a b c")),
    " " * 300 + "hat",
)


def texts() -> list[str]:
    """The strings: written by hand, prompts of words, letters of one script or of several, and any Unicode."""
    generator = random.Random(SEED)
    found = dict.fromkeys(TEXTS)
    makers = _prompts(generator), _scripts(generator), _mixtures(generator), _anything(generator)
    while len(found) < COUNT:
        for maker in makers:
            found[next(maker)] = None
    return list(found)[:COUNT]


def _prompts(generator: random.Random) -> Iterator[str]:
    while True:
        words = generator.choices(WORDS, k=generator.choice((1, 3, 8, 20, 60, 120)))
        yield generator.choice((" ", ", ", "  ", "")).join(generator.choice((word, word.title())) for word in words)


def _scripts(generator: random.Random) -> Iterator[str]:
    while True:
        yield "".join(generator.choices(generator.choice(ALPHABETS), k=generator.choice((2, 10, 40, 90))))


def _mixtures(generator: random.Random) -> Iterator[str]:
    parts = (*WORDS, *filter(None, TEXTS), *ALPHABETS)
    while True:
        yield generator.choice(("", " ")).join(generator.choices(parts, k=generator.choice((2, 3, 5))))[:600]


def _anything(generator: random.Random) -> Iterator[str]:
    while True:
        points = (generator.randrange(generator.choice((0x250, 0x3000, 0x11_0000))) for _ in range(60))
        characters = (chr(point) for point in points if not 0xD800 <= point < 0xE000)
        yield "".join(letter for letter in characters if _in_old_unicode(letter))


def _in_old_unicode(letter: str) -> bool:
    """Whether a character dates from Unicode 3.2 or before; libraries may classify newer characters differently."""
    return unicodedata.ucd_3_2_0.category(letter) == unicodedata.category(letter) != "Cn"


def special(text: str) -> bool:
    """Whether the settings of `CONFIGS` change the ids of a string."""
    return "!" in text or "oftext" in text.lower()


def write_vocabulary(merges: str, folder: Path) -> None:
    """Write CLIP's vocab.json and merges.txt: tokens are bytes, bytes that end a word, and the results of merges."""
    symbols = byte_symbols()
    ends = (symbol + WORD_END for symbol in symbols)
    joined = (line.replace(" ", "") for line in merges.splitlines()[1:])
    ids = {token: number for number, token in enumerate([*symbols, *ends, *joined, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def read_merges(golden: Path) -> str:
    """The content of merges.txt, from the golden files."""
    return lzma.decompress((golden / "clip_merges.txt.xz").read_bytes()).decode()


def store_merges(bpe: Path, golden: Path) -> None:
    """Store merges.txt, which is the beginning of CLIP's BPE file."""
    lines = gzip.decompress(bpe.read_bytes()).decode().splitlines()
    merges = "\n".join(["#version: 0.2", *lines[1 : MERGES + 1]]) + "\n"
    (golden / "clip_merges.txt.xz").write_bytes(lzma.compress(merges.encode(), preset=9 | lzma.PRESET_EXTREME))


def run(golden: Path) -> None:
    """Tokenize the strings as in diffusers' prior pipeline."""
    import transformers

    strings = texts()
    record: dict[str, Any] = {"transformers": transformers.__version__, "texts": strings, "ids": {}}
    for name, config in CONFIGS.items():
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write_vocabulary(read_merges(golden), folder)
            sizes = [(folder / file).stat().st_size for file in ("vocab.json", "merges.txt")]
            if sizes != [VOCABULARY_BYTES, MERGES_BYTES]:
                raise SystemExit(
                    f"vocab.json and merges.txt have {sizes} bytes; expected {[VOCABULARY_BYTES, MERGES_BYTES]}: use"
                    " CLIP's BPE file"
                )
            tokenizer_config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
            tokens = {
                key: value if isinstance(value, str) else value | {"__type": "AddedToken"}
                for key, value in config.items()
            }
            (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config | tokens))
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        chosen = [text for text in strings if name == "plain" or special(text)]
        encoded = tokenizer(chosen, padding="max_length", max_length=77, truncation=True)
        record["ids"][name] = {
            "pad": tokenizer.pad_token_id,
            "rows": [row[: sum(mask)] for row, mask in zip(encoded.input_ids, encoded.attention_mask, strict=True)],
        }
    text = json.dumps(record, separators=(",", ":"))
    (golden / "tokens.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path)
    parser.add_argument("bpe", type=Path, nargs="?")
    args = parser.parse_args()
    if args.bpe:
        store_merges(args.bpe, args.golden)
    run(args.golden)


if __name__ == "__main__":
    main()
