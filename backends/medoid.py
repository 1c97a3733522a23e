"""The text that agrees most with the others: what stands in for a majority where answers cannot be compared.

Minimum Bayes risk over samples (arXiv 2211.07634), of which a majority vote is the case "same or not".
The utility here is lexical, so it sees shared words and no meaning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice

# The comparison runs on the event loop: 40 texts of this length take some tens of milliseconds.
MAX_WORDS = 400

# Chinese and Japanese write without spaces, so each character there counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def words(text: str) -> frozenset[str]:
    """The first `MAX_WORDS` words, case folded; the n-th of the same word counts as a word of its own.

    So a set holds a bag of words, and two of them are compared at the speed of C.
    """
    seen: Counter[str] = Counter()
    bag = set()
    for match in islice(_WORD.finditer(text), MAX_WORDS):
        word = match.group().casefold()
        seen[word] += 1
        bag.add(f"{word} {seen[word]}")
    return frozenset(bag)


def overlap(first: frozenset[str], second: frozenset[str]) -> float:
    """F1 of two bags of words, in [0, 1] and symmetric: 2 |both| / (|first| + |second|).

    Two texts without a word agree on nothing: 0.
    """
    total = len(first) + len(second)
    return 2.0 * len(first & second) / total if total else 0.0


def medoid(texts: Sequence[str]) -> int:
    """Index of the text with the largest summed overlap with the others; ties go to the first.

    With two texts that is always a tie. Raises ValueError where there is no text.
    """
    if not texts:
        raise ValueError("there is no medoid of no texts")
    bags = [words(text) for text in texts]
    agreement = [0.0] * len(bags)
    for i, bag in enumerate(bags):
        for j in range(i + 1, len(bags)):
            shared = overlap(bag, bags[j])
            agreement[i] += shared
            agreement[j] += shared
    return max(range(len(bags)), key=lambda i: (agreement[i], -i))
