"""A model as judge of pairs: a knockout among answers, each pair shown in both orders (arXiv 2411.19477)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backends.engines.base import Message, Sampling
from backends.errors import BudgetTooSmall
from backends.verifiers.asking import Question, ask

if TYPE_CHECKING:
    from backends.strategies.base import Call, Run
    from backends.task import Sample

ASKED = """

Two answers were proposed.

Answer A:
{first}

Answer B:
{second}

Which answer is better? Reply with only "A" or "B"."""
COMPARISONS = 2  # a pair's: once in each order, so that a judge who prefers a position says nothing
MAX_VERDICT_TOKENS = 3
_VERDICT = re.compile(r"\b([AB])\b")


@dataclass(slots=True)
class Candidate:
    """One answer: the text that stands for it, and how its comparisons went; an unclear one counts half."""

    text: str
    won: float = 0.0
    compared: int = 0

    @property
    def share(self) -> float:
        return self.won / self.compared if self.compared else 0.5


async def judge(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """The share of its comparisons that a reply's answer won, in [0, 1].

    Replies with the same answer (or, without one, the same text) are one candidate, shown by the first of
    them. The winner of a pair goes on; after a tie, the one with the larger share so far, then the earlier
    one. None for all where there are not two candidates. Where the budget ends between rounds, the shares so
    far are the scores; BudgetTooSmall where it does not cover the first. Raises EngineError.
    """
    candidates: dict[str, Candidate] = {}
    for reply in replies:
        if reply.text.strip():
            candidates.setdefault(_key(reply), Candidate(reply.text))
    standing = list(candidates.values())
    if len(standing) < 2:
        return [None] * len(replies)
    first = True
    while len(standing) > 1:
        try:
            standing = await _round(run, standing)
        except BudgetTooSmall:
            if first:
                raise
            break
        first = False
    known = {key: candidate.share for key, candidate in candidates.items()}
    return [known.get(_key(reply)) for reply in replies]


async def _round(run: Run, standing: list[Candidate]) -> list[Candidate]:
    """One round of the knockout, all pairs side by side; the last of an odd number goes on by itself."""
    pairs = list(zip(standing[::2], standing[1::2], strict=False))
    asked: list[Question] = []
    for one, other in pairs:
        asked += [_question(run, one.text, other.text), _question(run, other.text, one.text)]
    calls = await ask(run, asked, Sampling(max_tokens=MAX_VERDICT_TOKENS))
    winners = []
    for i, (one, other) in enumerate(pairs):
        forward, backward = (_first_won(call) for call in calls[2 * i : 2 * i + 2])
        points = forward + 1.0 - backward
        one.won, other.won = one.won + points, other.won + COMPARISONS - points
        one.compared, other.compared = one.compared + COMPARISONS, other.compared + COMPARISONS
        ahead = points > 1.0 or (points == 1.0 and one.share >= other.share)
        winners.append(one if ahead else other)
    return winners + standing[2 * len(pairs) :]


def _question(run: Run, first: str, second: str) -> Question:
    """The caller's conversation with the two answers after its last question."""
    turns = run.task.messages
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    asked = ASKED.format(first=first.strip(), second=second.strip())
    if last is None:
        return (*turns, Message("user", asked.strip()))
    return (*turns[:last], replace(turns[last], content=turns[last].content + asked))


def _first_won(call: Call | None) -> float:
    """1 for A, 0 for B, a half for no verdict."""
    found = _VERDICT.findall(call.text) if call is not None else []
    return 0.5 if not found else float(found[0] == "A")


def _key(reply: Sample) -> str:
    return f"answer {reply.answer}" if reply.answer is not None else f"text {reply.text}"
