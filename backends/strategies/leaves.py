"""The vote of a tree search's whole replies: which answer leads, by how much, and whether that can change."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from backends.strategies.ranking import eligible, heaviest, weights
from backends.task import Sample


@dataclass(frozen=True, slots=True)
class Votes:
    """Whole replies in launch order, those carried in first, and their scores on the arm's `scorer`.

    A vote without a score has the average weight of those with one; one that failed the caller's check has
    none.
    """

    scorer: str
    samples: tuple[Sample, ...]
    scores: tuple[float | None, ...]

    def weights(self) -> list[float]:
        """In [0, 1], see `ranking.weights`; 0 for a reply that failed the caller's check."""
        known = weights(self.scorer, self.scores)
        told = [weight for weight, score in zip(known, self.scores, strict=True) if score is not None]
        usual = sum(told) / len(told) if any(told) else 1.0
        weighed = [usual if s is None else w for w, s in zip(known, self.scores, strict=True)]
        return [0.0 if s.verified is False else w for w, s in zip(weighed, self.samples, strict=True)]

    def leader(self) -> int | None:
        """The best vote of the answer with the largest summed weight; None without a vote."""
        return heaviest(self.samples, eligible(self.samples), self.weights()) if self.samples else None

    def share(self, index: int) -> float | None:
        """The part of all weight that stands for the answer of vote `index`; not calibrated.

        None where there is no second vote to compare it with.
        """
        answer, weighed = self.samples[index].answer, self.weights()
        voters = [i for i in eligible(self.samples) if weighed[i] > 0]
        if answer is None or index not in voters or len(voters) < 2:
            return None
        agreeing = sum(weighed[i] for i in voters if self.samples[i].answer == answer)
        return agreeing / sum(weighed[i] for i in voters)

    def settled(self, more: int) -> bool:
        """Whether `more` votes, each of weight 1 at most, can no longer change the leading answer.

        False where scores count by rank: later ones would change the weights of these.
        """
        if self.scorer != "logprob" and any(s is not None and not 0.0 <= s <= 1.0 for s in self.scores):
            return False
        sure: dict[str, float] = defaultdict(float)
        possible: dict[str, float] = defaultdict(float)
        for sample, score, weight in zip(
            self.samples, self.scores, weights(self.scorer, self.scores), strict=True
        ):
            if sample.answer is not None and sample.verified is not False:
                sure[sample.answer] += weight  # without a score its weight may come to anything in [0, 1]
                possible[sample.answer] += 1.0 if score is None else weight
        leader = max(sure, key=lambda answer: sure[answer], default=None)
        others = [weight for answer, weight in possible.items() if answer != leader]
        return leader is not None and sure[leader] > max(others, default=0.0) + more
