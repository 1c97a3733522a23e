"""Words, word pairs and character triples, hashed into a fixed width: no vocabulary to store or to poison."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from classifier.features.tokens import is_number

_WORD_BITS, _PAIR_BITS, _CHAR_BITS = 13, 12, 12
WORD_BUCKETS = 2**_WORD_BITS
PAIRS_END = WORD_BUCKETS + 2**_PAIR_BITS
WIDTH = PAIRS_END + 2**_CHAR_BITS
# Where each block begins and ends, and the length of its vector.
_EDGES = (0, WORD_BUCKETS, PAIRS_END, WIDTH)
_LENGTHS = (1.0, 0.7, 0.5)

# Odd 32-bit constants (golden ratio, murmur3's mixers): multiply-shift hashing, top bits kept.
_P1, _P2, _P3 = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_BETWEEN = "\x00"


def lexical(
    spoken: Sequence[Sequence[str]], sentences: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(buckets, values) of the non-zero columns, ascending: log(1+tf), each block scaled to its length.

    Words come first, in [0, WORD_BUCKETS). A number stands for its count of digits, so the model learns
    sizes and not the numbers it saw. Pairs and triples stay within a sentence (`spoken`: the tokens of each),
    so the order of sentences does not count. The hash is crc32 and integer arithmetic: the same in every
    process.
    """
    words = _word_hashes(list(chain.from_iterable(spoken)))
    pairs = (words[:-1] * _P1 + words[1:] * _P2)[_inside(spoken)]
    hashed = [
        _buckets(words, _WORD_BITS, _EDGES[0]),
        _buckets(pairs, _PAIR_BITS, _EDGES[1]),
        _buckets(_char_hashes(sentences), _CHAR_BITS, _EDGES[2]),
    ]
    counts = np.bincount(np.concatenate(hashed), minlength=WIDTH)
    at = np.flatnonzero(counts != 0)  # far quicker on booleans
    values = np.log1p(counts[at].astype(np.float64))
    edges = np.searchsorted(at, _EDGES)
    for start, end, length in zip(edges[:-1], edges[1:], _LENGTHS, strict=True):
        block = values[start:end]
        if block.size:
            block *= length / np.sqrt(block @ block)
    return at, values


def _buckets(hashes: NDArray[np.uint32], bits: int, offset: int) -> NDArray[np.intp]:
    return ((hashes * _P3) >> np.uint32(32 - bits)).astype(np.intp) + offset


def _word_hashes(tokens: Sequence[str]) -> NDArray[np.uint32]:
    """Each token's; what comes twice is hashed once."""
    crc = zlib.crc32
    hashes = {token: crc(_form(token).encode("utf-8", "replace")) for token in dict.fromkeys(tokens)}
    return np.fromiter(map(hashes.__getitem__, tokens), dtype=np.uint32, count=len(tokens))


def _form(token: str) -> str:
    return f"#{min(len(token), 9)}" if is_number(token) else token.lower()


def _inside(spoken: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Which pairs of neighbouring tokens lie within one sentence."""
    ends = np.cumsum([len(sentence) for sentence in spoken], dtype=np.intp)
    inside = np.ones(max(int(ends[-1]) - 1, 0) if ends.size else 0, dtype=np.bool_)
    inside[ends[(ends > 0) & (ends <= inside.size)] - 1] = False
    return inside


def _char_hashes(sentences: Sequence[str]) -> NDArray[np.uint32]:
    told = _BETWEEN.join([f" {sentence} " for sentence in sentences]).lower()
    codes = np.frombuffer(bytearray(told, "utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes[(codes > ord("0")) & (codes <= ord("9"))] = ord("0")
    between = codes == ord(_BETWEEN)
    inside = ~(between[:-2] | between[1:-1] | between[2:])
    hashes = codes[:-2] * _P1 + codes[1:-1] * _P2 + codes[2:]
    return np.asarray(hashes[inside])
