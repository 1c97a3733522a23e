"""How likely an answer is right, where the strategy that gave it cannot say."""

from __future__ import annotations

from collections.abc import Callable

from backends.task import TierResult
from classifier.confidence import SampleFacts
from policies.arm_spec import ONE_SAMPLE
from policies.plan import Step

Judge = Callable[[str, SampleFacts], float | None]
"""P(right) of the one sample that an arm drew, None where nobody knows (`Prediction.confidence`)."""


def confidence_in(step: Step, result: TierResult, judge: Judge | None) -> float | None:
    """The strategy's own confidence; for a single sample, which cannot vouch for itself, the judge's.

    Several choices are several answers, and a sample that the deadline cut is none that was ever learnt from:
    of those nothing is known.
    """
    alone = step.strategy in ONE_SAMPLE and len(result.texts) == 1 and result.stop_reason == "complete"
    if result.confidence is not None or judge is None or not alone:
        return result.confidence
    sample = result.samples[-1]  # what was drawn stands after what was carried in
    facts = SampleFacts(
        mean_logprob=sample.mean_logprob,
        completion_tokens=sample.completion_tokens,
        cut=sample.finish == "length",
        answered=sample.answer is not None,
    )
    return judge(step.arm, facts)
