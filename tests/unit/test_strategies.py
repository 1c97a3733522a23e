"""Each strategy on the fake engine: what it answers, when it stops, and that it never exceeds its budget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BudgetTooSmall
from backends.strategies import STRATEGIES
from backends.verifiers.base import VerifySpec
from tests.tasks import carried, run_on, says, task


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    budget=st.integers(1, 600),
    samples=st.integers(1, 12),
    max_tokens=st.integers(1, 80),
    seed=st.integers(0, 50),
    check=st.booleans(),
    weighted=st.booleans(),
    scorer=st.sampled_from(["logprob", "check", "arithmetic", "p_true", "judge"]),
    evidence=st.lists(st.sampled_from(["7", "8", "9", None]), max_size=3),
)
async def test_no_strategy_ever_exceeds_its_budget(
    name: str,
    budget: int,
    samples: int,
    max_tokens: int,
    seed: int,
    check: bool,
    weighted: bool,
    scorer: str,
    evidence: list[str | None],
) -> None:
    engine = says("Let me see.\nFive and two.\nAnswer: 7", "Hm.\nAnswer: 8", "Answer: 9 or so")
    what = task(
        budget_tokens=budget,
        max_samples=samples,
        max_tokens=max_tokens,
        seed=seed,
        strategy=name,
        temperature=0.9,
        scorer=scorer,
        weighted=weighted,
        verify=VerifySpec("number", maximum=8) if check else None,
        evidence=tuple(carried(a, verified=a in ("7", "8") if check else None) for a in evidence),
    )
    run = await run_on(engine, what)
    try:
        result = await STRATEGIES[name](run)
    except BudgetTooSmall as short:
        assert run.spend.total == 0
        assert short.needed_tokens > short.budget_tokens
    else:
        assert result.sample.text is not None
        assert result.samples[: len(evidence)] == what.evidence
        assert result.confidence is None or 0.0 <= result.confidence <= 1.0
    assert run.spend.total <= budget
    assert run.spend.total == sum(c.prompt_tokens + c.completion_tokens for c in engine.calls)
    assert engine.active == 0
