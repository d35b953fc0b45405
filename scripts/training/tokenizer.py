"""The tokenizer's files: byte-pair merges learned from the words of captions, in the form of CLIP's.

Byte-pair encoding: Sennrich et al. 2016 (arXiv:1508.07909), on bytes as in CLIP (Radford et al. 2021,
arXiv:2103.00020). Every word of the grammar becomes one token; any other text falls into smaller tokens, down to bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from benchmarks.drawings import words

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
MAX_LENGTH = 77
TRAINED_LENGTH = 40  # tokens that training looks at; the longest caption has fewer

CONFIG = {
    "add_prefix_space": False,
    "bos_token": START,
    "do_lower_case": True,
    "eos_token": END,
    "errors": "replace",
    "model_max_length": MAX_LENGTH,
    "pad_token": END,
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": END,
}


def byte_symbols() -> list[str]:
    """Return a printable character for each byte: printable Latin-1 first, the other bytes as U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(code) for code in (*printable, *(0x100 + i for i in range(256 - len(printable))))]


def learn_merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Merge the most frequent neighbours until every word is one token."""
    spelled = [[*word[:-1], word[-1] + WORD_END] for word in vocabulary]
    merges = []
    while pairs := Counter(pair for word in spelled for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for index, word in enumerate(spelled):
            merged: list[str] = []
            for symbol in word:
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            spelled[index] = merged
    return merges


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer's four files."""
    merges, symbols = learn_merges(words()), byte_symbols()
    ends = [symbol + WORD_END for symbol in symbols]
    tokens = list(dict.fromkeys([*symbols, *ends, *("".join(pair) for pair in merges), START, END]))
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    contents = {
        "vocab.json": {token: index for index, token in enumerate(tokens)},
        "tokenizer_config.json": CONFIG,
        "special_tokens_map.json": {key: CONFIG[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token")},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def open_tokenizer(work: Path) -> CLIPTokenizer:
    """Write the files if they are not there, and open them with transformers."""
    folder = work / "tokenizer"
    if not (folder / "special_tokens_map.json").exists():
        write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and the mask of texts: each (n, TRAINED_LENGTH), int64 and bool.

    Raises:
        ValueError: a text is longer.
    """
    made = tokenizer(texts, padding="max_length", max_length=TRAINED_LENGTH, truncation=False, return_tensors="np")
    if made["input_ids"].shape[1] != TRAINED_LENGTH:
        raise ValueError(f"a caption has {made['input_ids'].shape[1]} tokens; TRAINED_LENGTH is {TRAINED_LENGTH}")
    return made["input_ids"], made["attention_mask"].astype(bool)
