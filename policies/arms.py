"""An arm as a candidate for one request: how many samples, what it is predicted to do, what it may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from policies.arm_spec import ONE_SAMPLE, STRATEGIES, TREE_SEARCH, ArmSpec
from policies.bounds import Load, Work
from policies.plan import ArmEstimate, Param

MIN_COMPLETION_TOKENS = 16  # a completion that may say less is not worth its prompt
THINK_PROMPT_TOKENS = 48  # asking for reasoning lengthens the prompt by about 30; tokenizers differ
HIGH_MARGIN = 1.25  # over the 95 % quantile, which is learned and may lag behind


@dataclass(frozen=True, slots=True)
class Size:
    """The request's part of every cost: tokens of its prompt, and the most a completion may have."""

    prompt_tokens: int
    max_tokens: int

    @property
    def floor_tokens(self) -> int:
        """The fewest completion tokens that a call is made for."""
        return min(MIN_COMPLETION_TOKENS, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An arm drawing `samples` samples (or choices). `estimate` is for that many; None: not predicted.

    `single` is the best that is predicted for one sample: the highest p, the longest reply. `price` is how
    many times its cost counts, above 1 where its tier has a queue.
    """

    name: str
    spec: ArmSpec
    samples: int
    estimate: ArmEstimate | None = None
    single: ArmEstimate | None = None
    price: float = 1.0

    @property
    def p(self) -> float:
        return self.estimate.p if self.estimate else 0.0

    @property
    def one_sample(self) -> bool:
        return self.spec.strategy in ONE_SAMPLE

    @property
    def plainness(self) -> int:
        """0 for the plainest strategy."""
        return STRATEGIES.index(self.spec.strategy)

    def params(self) -> Mapping[str, Param]:
        """The fields of a strategy's parameters, bounded by the samples."""
        spec = self.spec
        samples = 1 if self.one_sample else self.samples
        width = min(spec.width, samples)
        return {
            "max_samples": samples,
            "temperature": spec.temperature,
            "think": spec.think,
            "confidence": spec.confidence,
            "width": width,
            "max_steps": spec.max_steps,
            "step_tokens": spec.step_tokens,
            "scorer": spec.scorer,
            "weighted": spec.weighted,
            "rounds": samples - 1 if spec.strategy == "refine" else spec.rounds,
            "subtrees": math.gcd(width, spec.subtrees),
            "balance_temperature": spec.balance_temperature,
        }

    def resized(self, samples: int) -> Candidate:
        """The arm with other samples than its estimate is for; refinement has no more than its own rounds.

        Fewer samples cost at most their share of `tokens_high`: an arm that mostly stops early hardly gets
        cheaper. p falls with log(samples) to the best of one sample, since votes pay about logarithmically.
        More samples are charged in full and not credited with a higher p.
        """
        if self.spec.strategy == "refine":
            samples = min(samples, self.spec.replies)
        if samples == self.samples:
            return self
        estimate = self.estimate
        if estimate is not None:
            factor = samples / self.samples
            high, p = estimate.tokens_high * factor, estimate.p
            tokens = estimate.tokens * factor if factor > 1 else min(estimate.tokens, high)
            if self.single is not None and samples < self.samples:
                low = min(p, self.single.p)
                p = low + (p - low) * math.log(samples) / math.log(self.samples)
            estimate = ArmEstimate(p, tokens, high)
        return replace(self, samples=samples, estimate=estimate)

    # -- costs, in tokens processed and generated: what a budget is charged

    def value(self, cost_weight: float, size: Size) -> float:
        """p - lambda * cost (arXiv 2604.14853), the cost in thousands of charged tokens."""
        return self.p - cost_weight * self.weighed_tokens(size) / 1000.0

    def weighed_tokens(self, size: Size) -> float:
        """What the arm costs when arms are compared."""
        return self.charged_tokens(size) * self.price

    def charged_tokens(self, size: Size) -> float:
        """What is expected to be charged; without a prediction the hard bound tells arms apart."""
        return self.expected(size).total if self.estimate else float(self.hard_tokens(size))

    def expected(self, size: Size) -> Load:
        """Calls and tokens as predicted; the most, where nothing is."""
        if self.estimate is None:
            return self.work(size).most()
        reply = self.single.tokens if self.single else None
        return self.work(size).expected(self.estimate.tokens, None if self.one_sample else reply)

    def reply_tokens(self, size: Size) -> float:
        """Of one reply, as predicted; the fewest that one is made for, where nothing is."""
        known = self.estimate if self.one_sample or self.single is None else self.single
        tokens = float(size.floor_tokens) if known is None else known.tokens
        if known is self.estimate and known is not None:
            tokens /= self.samples
        return min(tokens, float(size.max_tokens))

    def prompt_tokens(self, size: Size) -> int:
        return size.prompt_tokens + (THINK_PROMPT_TOKENS if self.spec.think else 0)

    def least_tokens(self, size: Size) -> int:
        """Below this the arm cannot answer at all."""
        calls = self.samples if self.one_sample else 1
        return calls * (self.prompt_tokens(size) + size.floor_tokens)

    def hard_tokens(self, size: Size) -> int:
        """What the arm can spend at most (`policies.bounds`)."""
        return math.ceil(self.work(size).most().total)

    def reserve_tokens(self, size: Size) -> int:
        """What is held for the arm, and handed to it as its budget. Never above the hard bound.

        One sample: the hard bound, so that no reply is cut short. More: what the completions come to at their
        95 % quantile, with a margin; every prompt that goes with them; and one whole reply more, since only
        draws that fit whole are made, and a search keeps enough back to write one. A run that would need
        more than that, one in twenty, ends with the best it has, as it would at its deadline. Where nothing
        is predicted that could tell: the hard bound.
        """
        work, hard = self.work(size), self.hard_tokens(size)
        if self.one_sample:
            return hard
        if self.estimate is not None:
            high = HIGH_MARGIN * self.estimate.tokens_high
        elif self.single is not None:
            high = work.completions(HIGH_MARGIN * self.single.tokens_high)
        else:
            return hard
        spare = work.longest_reply
        if self.spec.strategy in TREE_SEARCH:
            spare += work.prompt_tokens
        return min(hard, math.ceil(work.expected(high, None).total) + spare)

    def fitted(self, size: Size, room: int, least: int = 1) -> Candidate | None:
        """The arm with as many samples as `room` tokens hold, None if fewer than `least`."""
        if self.one_sample:
            return self if self.reserve_tokens(size) <= room else None
        for samples in range(self.samples, least - 1, -1):
            smaller = self.resized(samples)
            if smaller.reserve_tokens(size) <= room:
                return smaller
        return None

    def work(self, size: Size) -> Work:
        return Work(self.spec, self.samples, self.prompt_tokens(size), size.max_tokens)
