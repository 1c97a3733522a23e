"""Arms that differ only in how many samples they draw: their probabilities must not fall as samples grow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# "consistency/sc16", "maj@8", "best_of_4", "n=32": a word for samples and then a count. A bare number
# ("gpt-4", "llama-70") says nothing about samples.
_SAMPLES = re.compile(
    r"^(?:|.*[^a-z0-9])(?:sc|bon|best[-_]?of|maj|majority|vote|votes|n|k|x|pass|samples)[-_=@]?(?P<n>[0-9]{1,6})$",
    re.IGNORECASE,
)


def ladders_from_names(arms: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Indices of arms that share a name up to their sample count, ascending in it; two or more a ladder."""
    families: dict[str, list[tuple[int, int]]] = {}
    for index, arm in enumerate(arms):
        match = _SAMPLES.match(arm)
        if match:
            families.setdefault(arm[: match.start("n")], []).append((int(match["n"]), index))
    return tuple(tuple(i for _, i in sorted(rungs)) for rungs in families.values() if len(rungs) > 1)


def contradicted(ladder: Sequence[int], scores: Matrix) -> bool:
    """Whether the (n, arms) scores fall along the ladder by more than two standard errors (paired)."""
    for low, high in pairwise(ladder):
        difference = scores[:, high] - scores[:, low]
        difference = difference[~np.isnan(difference)]
        if difference.size > 1:
            error = float(difference.std(ddof=1)) / np.sqrt(difference.size)
            if difference.mean() < -2.0 * error and difference.mean() < 0.0:
                return True
    return False


def raise_monotone(p: Matrix, ladders: Sequence[Sequence[int]]) -> Matrix:
    """(n, arms) with each ladder replaced by its least-squares non-decreasing fit (min-max form)."""
    if not ladders:
        return p
    fitted = p.copy()
    for ladder in ladders:
        columns = p[:, list(ladder)]
        size = len(ladder)
        sums = np.concatenate([np.zeros((len(p), 1)), np.cumsum(columns, axis=1)], axis=1)
        for i in range(size):
            # max over starts j <= i of the min over ends k >= i of the mean of j..k
            means = [
                np.min([(sums[:, k + 1] - sums[:, j]) / (k + 1 - j) for k in range(i, size)], axis=0)
                for j in range(i + 1)
            ]
            fitted[:, ladder[i]] = np.max(means, axis=0)
    return fitted
