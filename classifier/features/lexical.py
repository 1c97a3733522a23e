"""Words, word pairs and character triples, hashed into a fixed width: no vocabulary to store or to poison."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from classifier.features.text import is_number

_WORD_BITS, _PAIR_BITS, _CHAR_BITS = 13, 12, 12
WORD_BUCKETS = 2**_WORD_BITS
PAIRS_END = WORD_BUCKETS + 2**_PAIR_BITS
WIDTH = PAIRS_END + 2**_CHAR_BITS
# Where each block begins and ends, and the length of its vector.
_EDGES = (0, WORD_BUCKETS, PAIRS_END, WIDTH)
_LENGTHS = (1.0, 0.7, 0.5)

# Odd 32-bit constants (golden ratio, murmur3's mixers): multiply-shift hashing, top bits kept.
_P1, _P2, _P3 = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_DIGITS_TO_ZERO = str.maketrans("123456789", "000000000")


def lexical(tokens: Sequence[str], text: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(buckets, values) of the non-zero columns, ascending: log(1+tf), each block scaled to its length.

    Words come first, in [0, WORD_BUCKETS). A number stands for its count of digits, so the model learns
    sizes and not the numbers it saw. The hash is crc32 and integer arithmetic: the same in every process.
    """
    words = _word_hashes(tokens)
    pairs = words[:-1] * _P1 + words[1:] * _P2
    hashed = [
        _buckets(words, _WORD_BITS, _EDGES[0]),
        _buckets(pairs, _PAIR_BITS, _EDGES[1]),
        _buckets(_char_hashes(text), _CHAR_BITS, _EDGES[2]),
    ]
    counts = np.bincount(np.concatenate(hashed), minlength=WIDTH)
    at = np.flatnonzero(counts)
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
    crc = zlib.crc32
    return np.array([crc(_form(token).encode("utf-8", "replace")) for token in tokens], dtype=np.uint32)


def _form(token: str) -> str:
    return f"#{min(len(token), 9)}" if is_number(token) else token.lower()


def _char_hashes(text: str) -> NDArray[np.uint32]:
    plain = f" {' '.join(text.lower().translate(_DIGITS_TO_ZERO).split())} "
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return codes[:-2] * _P1 + codes[1:-1] * _P2 + codes[2:]
