"""The vote classes of one run: which answers are one answer in different spellings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from backends.answers.latex import looks_like_latex
from backends.answers.number import canonical_number

Same = Callable[[str, str], Awaitable[bool]]

MAX_CLASSES = 8  # an answer is compared with this many others; beyond it a vote is hopeless anyway
MAX_COMPARISONS = 64  # a run's; each costs a few milliseconds, at worst seconds


class AnswerClasses:
    """Maps each answer to the first one seen that means the same.

    `same` is asked only where two canonical forms differ and one of them is a formula and the other a formula
    or a number. Without `same`, every form is a class of its own.
    """

    def __init__(self, same: Same | None, known: Iterable[str | None] = ()) -> None:
        self._same = same
        self._first: dict[str, str] = {answer: answer for answer in known if answer is not None}
        self._comparisons = 0

    async def learn(self, answer: str | None) -> None:
        """Place an answer. What takes long here is the waiting for another process."""
        if answer is None or answer in self._first or self._same is None:
            return
        for known in list(dict.fromkeys(self._first.values()))[:MAX_CLASSES]:
            if self._comparisons < MAX_COMPARISONS and _comparable(answer, known):
                self._comparisons += 1
                if await self._same(answer, known):
                    self._first[answer] = known
                    return
        self._first[answer] = answer

    def first(self, answer: str | None) -> str | None:
        """The class of an answer by the spelling seen first; the answer itself where it was never placed."""
        return None if answer is None else self._first.get(answer, answer)


def _comparable(left: str, right: str) -> bool:
    formulas = looks_like_latex(left), looks_like_latex(right)
    numbers = canonical_number(left) is not None, canonical_number(right) is not None
    return all(formulas) or (formulas[0] and numbers[1]) or (numbers[0] and formulas[1])
