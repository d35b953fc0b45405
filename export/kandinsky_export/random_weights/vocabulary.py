"""A small vocabulary of CLIP's kind, learned here from a few words, for checkpoints with random weights.

Byte-pair encoding: Sennrich et al. 2016 (arXiv:1508.07909), on bytes as in CLIP (Radford et al. 2021,
arXiv:2103.00020). The tokens are, in this order: a symbol for each byte, the same at the end of a word, one for each
merge, and the two special ones; so the end of a text has the largest id, as in the published vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

_MERGES = 320
_WORDS = """
a an the of in on at and with without under over near by for from to is are it its this that these his her their one
two three red green blue yellow orange purple black white grey gold silver dark light bright old young new small large
big tiny cat cats dog dogs bird horse hat hats man woman child girl boy king queen robot car house street city town
village river lake sea ocean beach mountain mountains forest tree trees flower flowers garden field sky cloud clouds sun
sunset sunrise moon star stars night day morning evening winter summer spring autumn rain snow fire water wind stone
wood glass metal paper window door table chair bed book lamp cup bread apple fruit wearing standing sitting running
holding looking walking sleeping flying painting photo photograph picture portrait landscape drawing sketch watercolor
oil canvas digital art artist style detailed realistic beautiful colorful quality high low resolution best worst bad
blurry sharp focus camera lens cinematic lighting background foreground close up full body face eyes hand hands
"""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids, and the merges in the order in which they are applied."""

    tokens: tuple[str, ...]
    merges: tuple[Pair, ...]

    def ids(self) -> dict[str, int]:
        """The content of `vocab.json`."""
        return {token: index for index, token in enumerate(self.tokens)}

    def merges_text(self) -> str:
        """The content of `merges.txt`, whose first line is not read."""
        return "\n".join(["#version: 0.2", *(" ".join(pair) for pair in self.merges)]) + "\n"


def small_vocabulary() -> Vocabulary:
    """The vocabulary that `k22-export checkpoint --prior` writes by default."""
    symbols = byte_symbols()
    merges = tuple(_learn_merges(_WORDS.split(), _MERGES))
    ends = [symbol + WORD_END for symbol in symbols]
    tokens = dict.fromkeys([*symbols, *ends, *("".join(pair) for pair in merges), START, END])
    return Vocabulary(tuple(tokens), merges)


def byte_symbols() -> tuple[str, ...]:
    """A printable character for each of the 256 bytes, in the order of CLIP's first tokens.

    Printable Latin-1 characters stand for themselves and come first; the other bytes follow in turn as U+0100 and on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return tuple(map(chr, printable + [0x100 + i for i in range(256 - len(printable))]))


def _learn_merges(words: Sequence[str], count: int) -> Iterator[Pair]:
    """The most frequent pair of neighbouring symbols, `count` times; of equally frequent ones the first in order."""
    spelled = [[*word[:-1], word[-1] + WORD_END] for word in words]
    for _ in range(count):
        pairs = Counter(pair for word in spelled for pair in pairwise(word))
        if not pairs:
            return
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        yield best
        spelled = [_merged(word, best) for word in spelled]


def _merged(word: Sequence[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
