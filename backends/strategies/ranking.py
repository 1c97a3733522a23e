"""Which of several samples is the answer: scores as weights, summed over equal answers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from backends.errors import BudgetTooSmall, EngineError, StrategyUnsupported
from backends.medoid import medoid
from backends.strategies.base import Run
from backends.task import Sample
from backends.verifiers.scorers import SCORERS


@dataclass(frozen=True, slots=True)
class Election:
    """`chosen` indexes the samples; `weights` are theirs, empty where nothing had to be weighed.

    `short` says why the arm's scorer could not be asked ("budget", "deadline", "engine_error"); the weights
    are then those of log-probability.
    """

    chosen: int
    weights: tuple[float, ...] = ()
    short: str | None = None


async def require_scorer(run: Run) -> None:
    """Raises StrategyUnsupported, with nothing spent, where the arm's scorer cannot work."""
    scorer = SCORERS.get(run.params.scorer)
    if scorer is None:
        raise StrategyUnsupported(f"no scorer {run.params.scorer!r}; there are {', '.join(SCORERS)}")
    await scorer(run, ())  # asked about no reply, it only looks whether the engine has what it needs


async def elect(run: Run, samples: Sequence[Sample], *, temperature: float | None = None) -> Election:
    """The best sample of the answer with the largest summed weight; scores only where samples disagree.

    `temperature` makes softmax(weight / temperature) of the weights, as CISC does (arXiv 2502.06233).
    Without a single answer to compare, the sample with the largest weight; if none can be weighed, the
    medoid. Never raises for a budget, a deadline or an engine: see `Election.short`.
    """
    able = eligible(samples)
    voters = [i for i in able if samples[i].answer is not None] or able
    if not disagree([samples[i] for i in voters]):
        return Election(likeliest(samples, voters))
    scores, short = await _scores(run, [samples[i] for i in voters])
    name = "logprob" if short else run.params.scorer
    known = weights(name, scores)
    if temperature is not None:
        pairs = zip(known, scores, strict=True)
        known = [0.0 if score is None else exp(weight / temperature) for weight, score in pairs]
    if not any(known):  # no score tells them apart: one voice each
        known = [1.0] * len(voters)
    weighed = [0.0] * len(samples)
    for i, weight in zip(voters, known, strict=True):
        weighed[i] = weight
    return Election(heaviest(samples, voters, weighed), tuple(weighed), short)


def eligible(samples: Sequence[Sample]) -> list[int]:
    """Indices of the samples that passed the caller's check, else of those that did not fail it, else all."""
    passed = [i for i, s in enumerate(samples) if s.verified]
    unfailed = [i for i, s in enumerate(samples) if s.verified is not False]
    return passed or unfailed or list(range(len(samples)))


def disagree(samples: Sequence[Sample]) -> bool:
    """Whether there is anything to choose: two answers, or two texts where none has an answer."""
    answers = {s.answer for s in samples if s.answer is not None}
    return len(answers) > 1 if answers else len({s.text for s in samples}) > 1


def weights(scorer: str, scores: Sequence[float | None]) -> list[float]:
    """Scores as weights in [0, 1]; 0 where there is none.

    A log-probability counts as exp of it, a score in [0, 1] as it is. Scores on any other scale count by
    rank, best 1, worst 1/n: their sum would mean nothing (Borda, as arXiv 2502.18581 for self-certainty).
    """
    known = [score for score in scores if score is not None]
    if scorer == "logprob":
        return [0.0 if score is None else exp(min(score, 0.0)) for score in scores]
    if all(0.0 <= score <= 1.0 for score in known):
        return [0.0 if score is None else score for score in scores]
    return [0.0 if s is None else sum(other <= s for other in known) / len(known) for s in scores]


def likeliest(samples: Sequence[Sample], among: Sequence[int]) -> int:
    """The sample with the highest mean log-probability; ties, and engines that tell none, give the first."""
    return max(among, key=lambda i: (_likelihood(samples[i]), -i))


def most_central(samples: Sequence[Sample], among: Sequence[int]) -> int:
    """The medoid of three texts or more; of fewer, where that is a tie, the likelier."""
    if len(among) < 3:
        return likeliest(samples, among)
    return among[medoid([samples[i].text for i in among])]


def heaviest(samples: Sequence[Sample], voters: Sequence[int], weighed: Sequence[float]) -> int:
    support: dict[str, float] = defaultdict(float)
    for i in voters:
        if (answer := samples[i].answer) is not None:
            support[answer] += weighed[i]
    if not support:
        if len({weighed[i] for i in voters}) == 1:
            return most_central(samples, voters)
        return max(voters, key=lambda i: (weighed[i], -i))
    leader = max(support, key=lambda answer: support[answer])
    supporters = [i for i in voters if samples[i].answer == leader]
    return max(supporters, key=lambda i: (weighed[i], _likelihood(samples[i]), -i))


async def _scores(run: Run, samples: Sequence[Sample]) -> tuple[list[float | None], str | None]:
    """The arm's scores, or log-probabilities and why it had to be those."""
    short = "engine_error"
    try:
        async with asyncio.timeout_at(run.deadline):
            return await SCORERS[run.params.scorer](run, samples), None
    except TimeoutError:
        short = "deadline"
    except BudgetTooSmall:
        short = "budget"
    except EngineError:
        pass
    return [sample.mean_logprob for sample in samples], short


def _likelihood(sample: Sample) -> float:
    return sample.mean_logprob if sample.mean_logprob is not None else float("-inf")
