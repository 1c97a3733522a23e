"""What arms may spend: numbers worked by hand, bounds that hold, and real runs that stay within them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.strategies import STRATEGIES as RUN
from backends.task import StrategyParams
from policies.arm_spec import READS, STRATEGIES, ArmSpec
from policies.arms import THINK_PROMPT_TOKENS, Candidate, Size
from policies.bounds import Work
from policies.loader import load_policy
from policies.plan import ArmEstimate
from tests.tasks import run_on, says, task

POLICY = load_policy(Path(__file__).parents[2] / "policies" / "default.yaml")
SIZE = Size(100, 256)
assert THINK_PROMPT_TOKENS == 48  # 148 below is the prompt of an arm that thinks
SINGLE = ArmEstimate(0.4, 80, 160)


def arm(name: str, estimate: ArmEstimate | None = None, single: ArmEstimate | None = None, **changes: Any):
    spec = ArmSpec.model_validate({**POLICY.arms[name].model_dump(), **changes})
    return Candidate(name, spec, spec.replies, estimate, single)


# -- the most


@pytest.mark.parametrize(
    ("name", "changes", "most"),
    [
        ("direct/direct", {}, 100 + 256),
        ("direct/cot", {}, 148 + 256),
        ("consistency/sc16", {}, 16 * 404),
        ("consistency/bon8", {}, 8 * 404),
        # Each of 8 replies is read with the question, 148 + 256, and 96 tokens around them.
        ("consistency/bon8", {"scorer": "p_true"}, 8 * 404 + 8 * 500),
        ("consistency/bon8", {"scorer": "reward"}, 8 * 404 + 8 * 500),
        # 7 pairs, twice each, with two replies in the prompt.
        ("consistency/bon8", {"scorer": "judge"}, 8 * 404 + 14 * (148 + 2 * 256 + 96)),
        ("consistency/sc16", {"weighted": True, "scorer": "p_true"}, 16 * 404 + 16 * 500),
        # A draft and three revisions, which read the version before them and 96 tokens of what is wrong.
        ("consistency/refine", {}, 404 + 3 * (148 + 256 + 96 + 256)),
        ("consistency/refine", {"rounds": 1}, 404 + 148 + 256 + 96 + 256),
        ("consistency/refine", {"scorer": "reward"}, 404 + 3 * 756 + 4 * 500),
        # Two steps of 48 by three children: 148 + 48, then 148 + 48 + 48; one whole reply of 96 at the end.
        ("search/beam", {"max_samples": 3, "max_steps": 2}, 3 * (196 + 244) + 148 + 96),
        ("search/rebase", {"max_samples": 3, "max_steps": 2}, 3 * (196 + 244) + 148 + 96),
        # Three replies of two steps at most, wherever they begin, and one for the end.
        ("search/mcts", {"max_samples": 3, "max_steps": 2}, 4 * (148 + 96)),
        ("search/mcts", {"scorer": "p_true"}, 9 * 404 + 8 * 500),
        # The same, and every partial reply is read to be scored: 148 + 48 + 96, then 148 + 96 + 96.
        (
            "search/beam",
            {"max_samples": 3, "max_steps": 2, "scorer": "p_true"},
            3 * (196 + 244) + 148 + 96 + 3 * (292 + 340),
        ),
        # 12 steps: paths of 0, 48, ... 240 tokens, and then of 256, since no reply is longer.
        ("search/beam", {}, 8 * (12 * (148 + 48) + 720 + 6 * 256) + 148 + 256),
    ],
)
def test_the_most_by_hand(name: str, changes: dict[str, Any], most: int) -> None:
    assert arm(name, **changes).hard_tokens(SIZE) == most


# -- what is expected to be charged


@pytest.mark.parametrize(
    ("name", "changes", "tokens", "charged"),
    [
        ("direct/cot", {}, 90, 148 + 90),
        # 240 tokens in replies of 80 are three calls, each with its prompt.
        ("consistency/sc4", {}, 240, 3 * 148 + 240),
        ("consistency/sc4", {}, 20, 148 + 20),  # never less than one call
        ("consistency/sc4", {}, 4000, 4 * 148 + 4000),  # nor more than its samples
        ("consistency/bon8", {}, 640, 8 * 148 + 640),
        ("consistency/bon8", {"scorer": "p_true"}, 640, 8 * 148 + 640 + 8 * (148 + 80 + 96)),
        # Two calls of 80: the second reads the first and 96 tokens more.
        ("consistency/refine", {}, 160, 2 * 148 + 160 + 80 + 96),
        # Four replies of 80; the later three begin after 40 tokens of others.
        ("search/mcts", {}, 320, 4 * 148 + 320 + 3 * 40),
        # 12 tokens a line: 288 are 24 calls, three levels of eight, which read 0, 12 and 24 tokens of path.
        ("search/beam", {}, 288, 8 * (3 * 148 + 0 + 12 + 24) + 288),
    ],
)
def test_what_will_be_charged_by_hand(
    name: str, changes: dict[str, Any], tokens: float, charged: float
) -> None:
    predicted = arm(name, ArmEstimate(0.5, tokens, 2 * tokens), SINGLE, **changes)
    assert predicted.charged_tokens(SIZE) == pytest.approx(charged)
    assert predicted.value(0.02, SIZE) == pytest.approx(0.5 - 0.02 * charged / 1000)


def test_a_search_is_as_dear_as_it_is_charged() -> None:
    """Equal completion tokens, and the search resubmits its prompt for every line of them."""
    vote = arm("consistency/sc16", ArmEstimate(0.5, 480, 960), SINGLE).charged_tokens(SIZE)
    search = arm("search/beam", ArmEstimate(0.5, 480, 960), SINGLE).charged_tokens(SIZE)
    assert vote == 6 * 148 + 480
    assert search == pytest.approx(40 * (148 + 12 * 4 / 2) + 480)
    assert search > 5 * vote


def test_what_was_measured_of_beam_is_about_what_it_is_expected_to_be_charged() -> None:
    """Means of twelve searches of SmolLM2-135M on llama.cpp, 8 children, at most 160 tokens a reply:

    65 tokens of prompt, 414 generated, 3,408 in all.
    """
    work = Work(POLICY.arms["search/beam"], 8, prompt_tokens=65, max_tokens=160)
    assert work.expected(414, None).total == pytest.approx(3408, rel=0.1)


# -- what is held


def test_a_search_holds_what_it_is_seen_to_need_and_not_what_it_could_spend() -> None:
    beam = arm("search/beam", ArmEstimate(0.5, 300, 600), SINGLE)
    # 1.25 x 600 tokens are 62.5 lines, 7.8 levels; one whole reply more.
    expected = 750 + 62.5 * (148 + 12 * (62.5 / 8 - 1) / 2)
    assert beam.reserve_tokens(SIZE) == -(-expected // 1) + 148 + 256
    assert beam.reserve_tokens(SIZE) < beam.hard_tokens(SIZE) / 2


def test_an_unpredicted_arm_holds_what_its_replies_come_to() -> None:
    """One sample's 160 tokens at most, with the margin 200; else the bound."""
    assert arm("consistency/bon8", None, SINGLE).reserve_tokens(SIZE) == 8 * (148 + 200) + 256
    refine = arm("consistency/refine", None, SINGLE)
    assert refine.reserve_tokens(Size(100, 512)) == 4 * (148 + 200) + 3 * (200 + 96) + 512
    # 200 tokens would be 17 lines; 12 is the most: 96 calls, which read 66 tokens of path on average.
    rebase = arm("search/rebase", None, SINGLE)
    assert rebase.reserve_tokens(SIZE) == 96 * 12 + 96 * (148 + 66) + 148 + 256
    for name in POLICY.arms:
        assert arm(name).reserve_tokens(SIZE) == arm(name).hard_tokens(SIZE)


sizes = st.builds(Size, st.integers(1, 4000), st.integers(1, 4096))
lengths = st.floats(1.0, 20_000.0)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(POLICY.arms)),
    size=sizes,
    tokens=lengths,
    factor=st.floats(1.0, 4.0),
    single=st.none() | st.builds(lambda t, f: ArmEstimate(0.5, t, t * f), lengths, st.floats(1.0, 4.0)),
    samples=st.integers(1, 40),
)
def test_bounds_are_in_order(
    name: str, size: Size, tokens: float, factor: float, single: ArmEstimate | None, samples: int
) -> None:
    whole = arm(name, ArmEstimate(0.5, tokens, tokens * factor), single)
    resized = whole if whole.one_sample else whole.resized(samples)
    held, hard = resized.reserve_tokens(size), resized.hard_tokens(size)
    assert resized.least_tokens(size) <= held <= hard
    # Whatever is predicted, the hold covers the 95 % quantile with its prompts, or everything.
    assert resized.estimate is not None
    work = Work(resized.spec, resized.samples, resized.prompt_tokens(size), size.max_tokens)
    assert held == hard or held >= work.expected(resized.estimate.tokens_high, None).total
    if not resized.one_sample and resized.samples > 1:
        fewer = resized.resized(resized.samples - 1)
        assert fewer.hard_tokens(size) < hard
        assert fewer.reserve_tokens(size) <= held


# -- real runs

TEXTS = (
    "First I add.\nThen I carry.\nThe answer is 7.",
    "Let me think about it for a while and write one very long line without any end to it, " * 3,
    "The answer is 8.",
    "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\nn\nThe answer is 9.",
)
SPECS = {
    "self_consistency": {"max_samples": 6},
    "best_of_n": {"max_samples": 6},
    "refine": {"rounds": 2},
    "beam": {"max_samples": 5, "width": 2, "max_steps": 4, "step_tokens": 12},
    "rebase": {"max_samples": 5, "max_steps": 4, "step_tokens": 12},
    "mcts": {"max_samples": 5, "max_steps": 4, "step_tokens": 12},
}


@pytest.mark.parametrize("scorer", ["logprob", "p_true", "judge", "arithmetic"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(4))
async def test_no_run_spends_more_than_its_bound(strategy: str, scorer: str, seed: int) -> None:
    wanted: dict[str, Any] = {"tier": "search", "strategy": strategy, **SPECS.get(strategy, {})}
    if scorer != "logprob" and "scorer" in READS[strategy]:
        wanted |= {"scorer": scorer} | ({"weighted": True} if strategy == "self_consistency" else {})
    elif scorer != "logprob":
        pytest.skip(f"{strategy} scores nothing")
    if strategy == "refine" and scorer in ("p_true", "judge"):
        pytest.skip("refine takes no opinion of the model's own")
    spec = ArmSpec.model_validate(wanted)
    params = Candidate("search/x", spec, spec.replies).params()
    engine = says(*TEXTS)
    asked = task("What is 3 + 4?", strategy=strategy, seed=seed, max_tokens=40, **dict(params))
    assert asked.params == StrategyParams(**dict(params))
    run = await run_on(engine, dataclasses.replace(asked, budget_tokens=1_000_000))
    await RUN[strategy](run)
    prompt = await engine.count_prompt_tokens(run.messages(think=spec.think))
    assert 0 < run.spend.total <= Work(spec, spec.replies, prompt, 40).most().total
