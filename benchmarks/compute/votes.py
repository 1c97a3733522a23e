"""Votes counted over every prefix of many draws at once.

The rules are the library's (`backends/stopping.py`, `backends/strategies/ranking.py`); only the counting is
done in matrices here, and the tests hold it against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from backends.stopping import Tally, stop_reason
from benchmarks.compute.table import NO_ANSWER, Floats, Ints

NEVER = 10**9  # a limit so far that no vote is settled before it
IMPOSSIBLE = 1.1  # a confidence that no vote reaches


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Of m draws of k samples, after each sample: all (m, k).

    `score` is of the sample that would be the answer; `leader_votes` and `second_votes` count votes.
    """

    score: Floats
    leader_votes: Ints
    second_votes: Ints


def count_prefixes(
    answers: Ints, scores: Floats, logprobs: Floats, weights: Floats | None = None
) -> Prefixes:
    """Who leads after each of k samples in m draws; all arguments (m, k).

    With `weights` the answer with the largest sum of them leads, else that with the most votes; ties go to
    the answer seen first. The likeliest of its samples is the answer, and the likeliest of all where no
    sample has an answer (the table holds no texts, so the medoid cannot be told).
    """
    m, k = answers.shape
    rows = np.arange(m)
    # columns in order of first appearance: argmax then gives ties to the answer seen first
    column_of = np.full((m, int(answers.max(initial=0)) + 1), NO_ANSWER)
    seen = np.zeros(m, dtype=np.int64)
    votes = np.zeros((m, column_of.shape[1] + 1), dtype=np.int64)
    support = np.zeros(votes.shape)
    likeliest, best = np.full(votes.shape, -np.inf), np.zeros(votes.shape)
    likeliest_of_all, best_of_all = logprobs[:, 0].copy(), scores[:, 0].copy()
    told = Prefixes(np.empty((m, k)), np.empty((m, k), np.int64), np.empty((m, k), np.int64))
    for i in range(k):
        better = logprobs[:, i] > likeliest_of_all
        likeliest_of_all[better], best_of_all[better] = logprobs[better, i], scores[better, i]
        row = rows[answers[:, i] != NO_ANSWER]
        answer = answers[row, i]
        fresh = column_of[row, answer] == NO_ANSWER
        column_of[row[fresh], answer[fresh]] = seen[row[fresh]]
        seen[row[fresh]] += 1
        column = column_of[row, answer]
        better = (votes[row, column] == 0) | (logprobs[row, i] > likeliest[row, column])
        at = row[better], column[better]
        likeliest[at], best[at] = logprobs[at[0], i], scores[at[0], i]
        votes[row, column] += 1
        if weights is not None:
            support[row, column] += weights[row, i]
        leader = votes.argmax(axis=1)
        told.leader_votes[:, i] = votes[rows, leader]
        others = votes.copy()
        others[rows, leader] = 0
        told.second_votes[:, i] = others.max(axis=1)
        if weights is not None:
            leader = np.where(support.max(axis=1) > 0, support.argmax(axis=1), leader)
        told.score[:, i] = np.where(seen > 0, best[rows, leader], best_of_all)
    return told


def stops(counted: Prefixes, limit: int, confidence: float, *, rule_limit: int | None = None) -> Ints:
    """How many of at most `limit` samples each draw takes until `stop_reason` says stop; (m,).

    `rule_limit` is what the lossless rule is told (NEVER switches it off), `limit` if left out.
    """
    told = limit if rule_limit is None else rule_limit
    return first_stop(settled(counted, limit, told, confidence), limit)


def settled(counted: Prefixes, limit: int, told: int, confidence: float) -> NDArray[np.bool_]:
    """Whether `stop_reason` stops after each of the first `limit` samples; (m, limit)."""
    first, second = counted.leader_votes[:, :limit], counted.second_votes[:, :limit]
    drawn = np.arange(1, first.shape[1] + 1)
    # few different counts occur: ask the library's rule once about each
    code = (drawn * (limit + 1) + first) * (limit + 1) + second
    kinds, which = np.unique(code, return_inverse=True)
    rest, seconds = np.divmod(kinds, limit + 1)
    totals, firsts = np.divmod(rest, limit + 1)
    cases = zip(firsts.tolist(), seconds.tolist(), totals.tolist(), strict=True)
    answers = np.array([_stops(*case, told, confidence) for case in cases], dtype=np.bool_)
    return answers[which].reshape(first.shape)


def first_stop(stop: NDArray[np.bool_], limit: int) -> Ints:
    """The number of samples at the first True of each row, `limit` without one; (m,)."""
    stop = stop[:, :limit].copy()
    stop[:, limit - 1 :] = True
    return np.asarray(stop.argmax(axis=1) + 1)


@cache
def _stops(first: int, second: int, total: int, limit: int, confidence: float) -> bool:
    votes = Tally("leader" if first else None, first, second, total)
    return stop_reason(votes, limit, confidence) is not None
