"""An arm as a candidate for one request: how many samples, what it is predicted to do, what it may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from policies.plan import ArmEstimate
from policies.schema import ONE_SAMPLE, TREE_SEARCH, ArmSpec

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
    """An arm drawing `samples` samples (or choices). `estimate` is for that many; None: not predicted."""

    name: str
    spec: ArmSpec
    samples: int
    estimate: ArmEstimate | None = None

    @property
    def p(self) -> float:
        return self.estimate.p if self.estimate else 0.0

    @property
    def tokens(self) -> float:
        """Expected completion tokens; without a prediction only the samples tell arms apart."""
        return self.estimate.tokens if self.estimate else float(self.samples)

    @property
    def one_sample(self) -> bool:
        return self.spec.strategy in ONE_SAMPLE

    @property
    def strategy_name(self) -> str:
        """What a caller calls it: `direct` that thinks first is `cot`."""
        return "cot" if self.spec.strategy == "direct" and self.spec.think else self.spec.strategy

    def value(self, cost_weight: float) -> float:
        """p - lambda * cost (arXiv 2604.14853). Prompts are left out: every arm computes them once."""
        return self.p - cost_weight * self.tokens / 1000.0

    def params(self) -> Mapping[str, int | float | bool]:
        """The fields of a strategy's parameters."""
        samples = 1 if self.one_sample else self.samples
        return {
            "max_samples": samples,
            "temperature": self.spec.temperature,
            "think": self.spec.think,
            "confidence": self.spec.confidence,
            "width": min(self.spec.width, samples),
            "max_steps": self.spec.max_steps,
            "step_tokens": self.spec.step_tokens,
        }

    def resized(self, samples: int, p_one: float | None) -> Candidate:
        """The arm with other samples than its estimate is for.

        Fewer samples cost at most their share of `tokens_high`: an arm that mostly stops early hardly gets
        cheaper. p falls with log(samples) to `p_one`, the best of the one-sample arms, since votes pay about
        logarithmically. More samples are charged in full and not credited with a higher p.
        """
        if samples == self.samples:
            return self
        estimate = self.estimate
        if estimate is not None:
            factor = samples / self.samples
            high, p = estimate.tokens_high * factor, estimate.p
            tokens = estimate.tokens * factor if factor > 1 else min(estimate.tokens, high)
            if p_one is not None and samples < self.samples:
                low = min(p, p_one)
                p = low + (p - low) * math.log(samples) / math.log(self.samples)
            estimate = ArmEstimate(p, tokens, high)
        return Candidate(self.name, self.spec, samples, estimate)

    # -- bounds, in tokens processed and generated

    def prompt_tokens(self, size: Size) -> int:
        return size.prompt_tokens + (THINK_PROMPT_TOKENS if self.spec.think else 0)

    def least_tokens(self, size: Size) -> int:
        """Below this the arm cannot answer at all."""
        calls = self.samples if self.one_sample else 1
        return calls * (self.prompt_tokens(size) + size.floor_tokens)

    def hard_tokens(self, size: Size) -> int:
        """What the arm can spend at most.

        Samples: n * (prompt + max_tokens). Tree search resubmits prompt and path for each of n children of
        each of s steps of t tokens: n * (s * prompt + t * s(s+1)/2).
        """
        if self.spec.strategy in TREE_SEARCH:
            return self._tree_prompts(size) + self.samples * self._steps(size) * self.spec.step_tokens
        return self.samples * (self.prompt_tokens(size) + size.max_tokens)

    def reserve_tokens(self, size: Size) -> int:
        """What is held for the arm, and handed to it as its budget.

        One sample: the hard bound. More: all prompts, what the completions come to with a margin, and one
        whole completion more, since a strategy draws only samples that fit whole. Never above the hard bound.
        """
        hard = self.hard_tokens(size)
        if self.one_sample or self.estimate is None:
            return hard
        if self.spec.strategy in TREE_SEARCH:
            prompts = self._tree_prompts(size)
        else:
            prompts = self.samples * self.prompt_tokens(size)
        expected = math.ceil(HIGH_MARGIN * self.estimate.tokens_high)
        return min(hard, prompts + expected + size.max_tokens)

    def fitted(self, size: Size, room: int, p_one: float | None, least: int = 1) -> Candidate | None:
        """The arm with as many samples as `room` tokens hold, None if fewer than `least`."""
        if self.one_sample:
            return self if self.reserve_tokens(size) <= room else None
        for samples in range(self.samples, least - 1, -1):
            smaller = self.resized(samples, p_one)
            if smaller.reserve_tokens(size) <= room:
                return smaller
        return None

    def _steps(self, size: Size) -> int:
        return min(self.spec.max_steps, -(-size.max_tokens // self.spec.step_tokens))

    def _tree_prompts(self, size: Size) -> int:
        steps = self._steps(size)
        paths = self.spec.step_tokens * steps * (steps - 1) // 2
        return self.samples * (steps * self.prompt_tokens(size) + paths)
