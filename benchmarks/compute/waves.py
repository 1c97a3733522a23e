"""What the service's waves of 1, 1, 2, 4, ... samples cost where a settled vote cuts the last one short."""

from __future__ import annotations

import numpy as np

from benchmarks.compute.table import Floats, Ints


def wave_ends(limit: int) -> list[int]:
    """Samples drawn after each wave of 1, 1, 2, 4, ...: 1, 2, 4, 8, ..., limit."""
    ends = [1]
    while ends[-1] < limit:
        ends.append(min(2 * ends[-1], limit))
    return ends


def tokens_in_waves(tokens: Floats, counts: Ints) -> Floats:
    """Tokens generated where the wave of the last counted sample is cut when that is done; (draws,).

    All of a wave run at one speed, so when the longest counted one of it is done, each other has generated
    as many tokens or has ended. `tokens` are (draws, limit).
    """
    spent, begun = np.zeros(len(tokens)), 0
    for end in wave_ends(tokens.shape[1]):
        wave = tokens[:, begun:end]
        mine = np.arange(begun, end) < counts[:, None]
        last = np.where(mine, wave, 0.0).max(axis=1)
        cut = np.minimum(wave, last[:, None]).sum(axis=1)
        spent += np.where(counts >= end, wave.sum(axis=1), np.where(counts > begun, cut, 0.0))
        begun = end
    return spent


def launched_in_waves(counts: Ints, limit: int) -> Ints:
    """Samples begun, each with its prompt, where `counts` of at most `limit` were counted; (draws,)."""
    ends = np.array(wave_ends(limit))
    return np.asarray(ends[np.searchsorted(ends, counts)])
