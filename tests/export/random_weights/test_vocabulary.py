"""The small vocabulary: every byte has a symbol, and what is learned can be applied."""

from __future__ import annotations

from itertools import pairwise

from kandinsky_export.random_weights.vocabulary import END, START, WORD_END, byte_symbols, small_vocabulary


def test_a_symbol_for_every_byte() -> None:
    symbols = byte_symbols()
    assert len(set(symbols)) == 256
    assert symbols[:3] == ("!", '"', "#")  # as in CLIP's vocabulary
    assert symbols[-1] == chr(0x143)  # the byte 0xAD, the last of those that cannot be printed
    assert all(symbol.isprintable() and not symbol.isspace() for symbol in symbols)


def test_the_order_of_the_tokens() -> None:
    tokens = small_vocabulary().tokens
    assert tokens[:256] == byte_symbols()
    assert tokens[256:512] == tuple(symbol + WORD_END for symbol in byte_symbols())
    assert tokens[-2:] == (START, END)  # the end has the largest id, by which the published text encoder finds it
    assert len(set(tokens)) == len(tokens)


def test_every_merge_joins_tokens_to_a_token() -> None:
    """In the order in which the merges are applied: a part is known before it is used."""
    vocabulary = small_vocabulary()
    known = set(vocabulary.tokens[:512])
    for left, right in vocabulary.merges:
        assert {left, right} <= known
        assert not left.endswith(WORD_END)
        known.add(left + right)
    assert known | {START, END} == set(vocabulary.tokens)
    assert len(vocabulary.merges) == len(set(vocabulary.merges)) > 300


def test_merges_shorten_common_words() -> None:
    merges = {pair: rank for rank, pair in enumerate(small_vocabulary().merges)}
    symbols = [*"lookin", "g" + WORD_END]
    while ranked := [pair for pair in pairwise(symbols) if pair in merges]:
        best = min(ranked, key=merges.__getitem__)
        at = next(i for i in range(len(symbols)) if tuple(symbols[i : i + 2]) == best)
        symbols[at : at + 2] = ["".join(best)]
    assert symbols == ["looking" + WORD_END]
