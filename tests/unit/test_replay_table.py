"""Exact replay on outcome tables, against outcomes worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.hardware import CPU, SMOLLM2_135M
from classifier.artifact import load
from classifier.confidence import Confidence
from classifier.errors import InvalidRow, TableError
from classifier.predictor import DEFAULT_ARTIFACT, Prediction
from classifier.rows import Row
from policies.loader import parse_policy
from policies.plan import Ask
from policies.schema import Policy
from router.holding import Tariff
from router.replay.beliefs import OUT_OF_FOLD, Beliefs, beliefs, folds
from router.replay.errors import NothingToReplay
from router.replay.recording import Recording, arms_named, read_recording, recording
from router.replay.table import PromptOutcome, TableReplay, replay_table
from tests.outcomes import sums

POLICY = """
version: 1
name: replayed
arms:
  direct/direct: {tier: direct, strategy: direct, temperature: 0}
  consistency/sc4: {tier: consistency, strategy: self_consistency, max_samples: 4, confidence: 0.9}
  search/beam: {tier: search, strategy: beam, max_samples: 4}
defaults: {quality_target: 0.8, default_effort: max, cost_weight: 0.02}
tenants:
  acme: {}
  frugal: {cost_weight: 100}
  bounded: {max_total_tokens: 60}
"""

P = {"direct/direct": 0.5, "consistency/sc4": 0.9, "search/beam": 0.2}
TABLE = Path("benchmarks/data/smollm2_135m.jsonl")


def sample(answer: str | None, tokens: int, score: float, logprob: float | None = -0.5) -> dict[str, Any]:
    return {
        "answer": answer,
        "score": score,
        "completion_tokens": tokens,
        "mean_logprob": logprob,
        "finish": "stop",
    }


def row(arm: str, score: float, tokens: int, samples: Sequence[Any] = (), **more: Any) -> Row:
    fields = {"prompt_id": "q1", "prompt": "What is 3 + 4?", "arm": arm, "score": score}
    told = {"prompt_tokens": 10, "completion_tokens": tokens, "samples": list(samples)}
    return Row(1, {**fields, **told, **more})


DIRECT = row("direct/direct", 0.0, 5, [sample("8", 5, 0.0)])
# 7, 9, 7, 7: after the sample of direct (8) the vote 8 7 9 7 ends at four samples, 7 leads with two votes
VOTES = row(
    "consistency/sc4",
    1.0,
    60,
    [sample("7", 20, 1.0), sample("9", 10, 0.0), sample("7", 20, 1.0), sample("7", 10, 1.0)],
)
BEAM = row("search/beam", 1.0, 200, charged_tokens=900)


def believed(p: Mapping[str, float], count: int = 1, judge: float | None = None) -> Beliefs:
    """Every prompt is predicted alike; `judge`: what every single sample of direct is said to be worth."""
    judges = {}
    if judge is not None:
        weight = float(np.log(judge / (1.0 - judge)))
        judges = {"direct/direct": Confidence((weight, 0.0, 0.0, 0.0, 0.0, 0.0))}
    tokens = {arm: 20.0 * 4**rank for rank, arm in enumerate(p)}
    told = Prediction(
        p=dict(p),
        tokens=tokens,
        tokens_high={arm: 2 * n for arm, n in tokens.items()},
        difficulty=0.5,
        ood=0.0,
        version="told",
        confidences=judges,
    )
    return Beliefs(np.arange(count), (told,) * count, "as the test says")


def policy(text: str = POLICY) -> Policy:
    return parse_policy(text, "test")


def replay(
    rows: Sequence[Row],
    p: Mapping[str, float] = P,
    judge: float | None = None,
    tenant: str = "acme",
    ask: Ask | None = None,
) -> PromptOutcome:
    found = recording(rows, policy())
    return replay_table(
        policy(), found, believed(p, judge=judge), tenant=policy().tenants[tenant], ask=ask
    ).outcomes[0]


# -- by hand


def test_a_confident_single_sample_ends_the_plan() -> None:
    found = replay([DIRECT, VOTES], {"direct/direct": 0.85, "consistency/sc4": 0.9}, judge=0.95)
    assert found.arms_tried == ("direct/direct",)
    assert (found.score, found.completion_tokens, found.charged_tokens) == (0.0, 5, 15)


def test_evidence_travels_up_and_is_the_first_vote() -> None:
    found = replay([DIRECT, VOTES], {"direct/direct": 0.8, "consistency/sc4": 0.97}, judge=0.2)
    assert found.arms_tried == ("direct/direct", "consistency/sc4")
    # direct's sample is the first of four: three of the pool are drawn
    assert found.completion_tokens == 5 + 20 + 10 + 20
    assert found.charged_tokens == found.completion_tokens + 4 * 10
    assert found.score == 1.0


def test_a_vote_stops_when_it_is_settled() -> None:
    alike = [sample("7", 10, 1.0) for _ in range(4)]
    found = replay([DIRECT, row("consistency/sc4", 1.0, 40, alike)])
    assert found.arms_tried == ("consistency/sc4",)
    assert found.completion_tokens == 30  # three votes of four cannot be overtaken
    assert found.charged_tokens == 60


def test_the_answer_that_wins_the_vote_has_the_score_of_its_own_sample() -> None:
    wrong = [sample("9", 10, 0.0), sample("9", 10, 0.0), sample("7", 10, 1.0), sample("9", 10, 0.0)]
    assert replay([DIRECT, row("consistency/sc4", 1.0, 40, wrong)]).score == 0.0


def test_an_arm_without_samples_stands_as_recorded() -> None:
    found = replay([row("direct/direct", 1.0, 7), VOTES], {"direct/direct": 0.8, "consistency/sc4": 0.97})
    assert found.planned == ("direct/direct", "consistency/sc4")
    assert found.arms_tried == ("direct/direct",)
    assert (found.score, found.completion_tokens, found.charged_tokens) == (1.0, 7, 17)
    assert found.stood


def test_charged_tokens_are_those_of_the_table_where_it_tells() -> None:
    found = replay([DIRECT, BEAM], {"direct/direct": 0.1, "search/beam": 0.9})
    assert found.arms_tried == ("search/beam",)
    assert (found.score, found.completion_tokens, found.charged_tokens) == (1.0, 200, 900)
    assert found.stood


def test_the_tenant_decides() -> None:
    unsure = {"direct/direct": 0.5, "consistency/sc4": 0.7}
    assert replay([DIRECT, VOTES], unsure).arms_tried == ("consistency/sc4",)
    assert replay([DIRECT, VOTES], unsure, tenant="frugal").arms_tried == ("direct/direct",)


def test_a_refusal_scores_nothing_and_costs_nothing() -> None:
    found = replay([DIRECT, VOTES], tenant="bounded")
    assert found.refusal == "RequestTooLarge"
    assert (found.score, found.charged_tokens, found.arms_tried) == (0.0, 0, ())


def test_what_the_request_asks_for_counts() -> None:
    found = replay([DIRECT, VOTES], ask=Ask(prompt_tokens=0, tier="direct"))
    assert found.arms_tried == ("direct/direct",)


def test_a_reply_that_is_cut_shorter_than_recorded_is_wrong() -> None:
    long = row("direct/direct", 1.0, 500, [sample("7", 500, 1.0)])
    asked = Ask(prompt_tokens=0, tier="direct", max_completion_tokens=64)
    found = replay([long, VOTES], ask=asked)
    assert (found.score, found.completion_tokens) == (0.0, 64)


def test_a_pool_that_is_too_small_is_said() -> None:
    two = [sample("7", 10, 1.0), sample("9", 10, 0.0)]
    found = replay([DIRECT, row("consistency/sc4", 1.0, 20, two)])
    assert found.ran_dry
    assert found.completion_tokens == 20


def test_votes_of_a_smaller_arm_are_drawn_from_the_larger_ones_samples() -> None:
    text = POLICY.replace(
        "  search/beam",
        "  consistency/sc8: {tier: consistency, strategy: self_consistency, max_samples: 8}\n"
        "  consistency/hot: {tier: consistency, strategy: self_consistency, max_samples: 2, temperature: 1}\n"
        "  search/beam",
    )
    pool = [sample(str(n), 10, 0.0) for n in range(8)]
    rows = [
        row("consistency/sc4", 0.0, 40),
        row("consistency/sc8", 0.0, 80, pool),
        row("consistency/hot", 0.0, 20),
    ]
    cells = recording(rows, policy(text)).cells[0]
    assert len(cells["consistency/sc4"].pool) == 8
    assert cells["consistency/hot"].pool == ()  # drawn at another temperature


def test_money_is_what_the_tariffs_say() -> None:
    found = recording([DIRECT, VOTES], policy())
    tenant = policy().tenants["acme"]
    tariffs = dict.fromkeys(("direct", "consistency", "search"), Tariff(SMOLLM2_135M, CPU))
    told = replay_table(policy(), found, believed(P), tenant=tenant, tariffs=tariffs).outcomes[0]
    assert told.gpu_seconds > 0
    assert replay_table(policy(), found, believed(P), tenant=tenant).outcomes[0].gpu_seconds == 0


def test_figures_are_sums_over_prompts() -> None:
    outcomes = (
        PromptOutcome(0, 1.0, 10, 20, ("direct/direct",)),
        PromptOutcome(1, 0.0, 30, 40, ("direct/direct", "consistency/sc4"), degraded=True),
        PromptOutcome(2, 0.0, 0, 0, (), refusal="NoArm"),
    )
    found = TableReplay(outcomes)
    assert found.scores.tolist() == [1.0, 0.0, 0.0]
    assert found.completion_tokens.sum() == 40
    assert found.charged_tokens.sum() == 60
    assert found.answered_by() == {"direct/direct": 1, "consistency/sc4": 1}
    assert found.share_of(lambda o: o.refusal is not None) == pytest.approx(1 / 3)


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.sampled_from(["1", "2", "3", None]), min_size=4, max_size=4),
    tokens=st.lists(st.integers(1, 50), min_size=4, max_size=4),
)
def test_a_vote_never_costs_more_than_its_samples_nor_less_than_one(
    answers: list[str | None], tokens: list[int]
) -> None:
    pool = [sample(a, n, float(a == "1")) for a, n in zip(answers, tokens, strict=True)]
    found = replay([DIRECT, row("consistency/sc4", 0.0, sum(tokens), pool)])
    assert tokens[0] <= found.completion_tokens <= sum(tokens)
    assert found.charged_tokens <= sum(tokens) + 40
    assert found.score in (0.0, 1.0)
    assert found.score == 0.0 or "1" in answers


# -- the recorded table


@pytest.fixture(scope="module")
def shipped() -> Recording:
    return read_recording(TABLE, policy_of_package())


def policy_of_package() -> Policy:
    return parse_policy(Path("policies/default.yaml").read_text(), "default")


def test_one_arm_alone_is_replayed_as_it_was_recorded(shipped: Recording) -> None:
    whole = policy_of_package()
    only = "direct/direct"
    column = shipped.table.arms.index(only)
    count = len(shipped.table.items)
    found = replay_table(whole, shipped, believed({only: 0.5}, count), tenant=whole.tenants["demo"])
    assert np.array_equal(found.scores, shipped.table.scores[:, column])
    assert np.array_equal(found.completion_tokens, shipped.table.tokens[:, column])


def test_full_votes_score_as_recorded(shipped: Recording) -> None:
    """The vote that was recorded is the one that is drawn again; its waves begin some samples more."""
    whole = policy_of_package()
    only = "consistency/sc16"
    column = shipped.table.arms.index(only)
    count = len(shipped.table.items)
    found = replay_table(
        whole,
        shipped,
        believed({only: 0.5}, count),
        tenant=whole.tenants["demo"],
        ask=Ask(prompt_tokens=0, effort="max", max_completion_tokens=128),
    )
    assert np.mean(found.scores == shipped.table.scores[:, column]) > 0.97
    recorded = shipped.table.tokens[:, column]
    assert np.all(found.completion_tokens[found.scores == 1.0] > 0)
    assert 0.8 * recorded.mean() < found.completion_tokens.mean() < 1.4 * recorded.mean()


def test_the_shipped_classifier_has_seen_the_shipped_table(shipped: Recording) -> None:
    small = Recording(
        shipped.table.subset(range(0, 620, 5)),
        tuple(shipped.cells[i] for i in range(0, 620, 5)),
        shipped.left_out,
        shipped.unknown,
    )
    calls: list[int] = []
    found = beliefs(small.table, load(DEFAULT_ARTIFACT), done=lambda: calls.append(1))
    assert len(calls) == folds(small.table)
    assert {told.version for told in found.predictions} == {OUT_OF_FOLD}
    assert len(found.predictions) == len(small.table.items)
    whole = policy_of_package()
    told = replay_table(whole, small, found, tenant=whole.tenants["demo"])
    best = small.table.scores.mean(axis=0).max()
    assert 0.1 < told.scores.mean() < best + 0.2
    assert told.completion_tokens.mean() < small.table.tokens.mean(axis=0).max()


def test_an_artifact_that_has_not_seen_the_prompts_predicts_itself() -> None:
    artifact = load(DEFAULT_ARTIFACT)
    table = sums(45, truth={"direct/direct": (0.9, 0.5, 0.1), "consistency/sc4": (0.9, 0.6, 0.2)})
    found = beliefs(table, artifact)
    assert {told.version for told in found.predictions} == {artifact.version}


# -- what cannot be replayed


def test_foreign_arms_are_one_sentence() -> None:
    with pytest.raises(NothingToReplay, match=r"none is in both; say which is which with --arm") as caught:
        recording([row("6b", 1.0, 5)], policy())
    assert "\n" not in str(caught.value)


def test_foreign_arms_can_be_named(tmp_path: Path) -> None:
    lines = [
        {"prompt_id": f"q{i}", "prompt": "1 + 1?", "arm": arm, "score": 1.0, "completion_tokens": 9}
        for i in range(3)
        for arm in ("small", "large")
    ]
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(json.dumps(line) for line in lines))
    names = arms_named(["direct/direct=small", "consistency/sc4=large"])
    found = read_recording(table, policy(), names)
    assert found.table.arms == ("consistency/sc4", "direct/direct")
    assert found.unknown == ("search/beam",)
    with pytest.raises(NothingToReplay, match="POLICY_ARM=TABLE_ARM"):
        arms_named(["direct/direct"])


def test_a_small_table_without_a_classifier_is_refused() -> None:
    with pytest.raises(NothingToReplay, match="record 40 or more"):
        beliefs(sums(9), None)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ("many", "must be a list"),
        ([1], "must hold objects"),
        ([{**sample("7", 5, 1.0), "answer": 7}], "an answer must be a string"),
        ([sample("7", 5, 2.0)], "score must lie in"),
        ([{**sample("7", 5, 1.0), "completion_tokens": "5"}], "completion_tokens must be a number"),
        ([{**sample("7", 5, 1.0), "mean_logprob": float("nan")}], "mean_logprob must lie in"),
    ],
)
def test_broken_samples_name_row_and_column(samples: Any, said: str) -> None:
    broken = Row(7, {**row("direct/direct", 1.0, 5)._row, "samples": samples})
    with pytest.raises(InvalidRow, match=said) as caught:
        recording([broken], policy())
    assert caught.value.row == 7 or "row" in str(caught.value)


def test_samples_that_tell_too_little_leave_the_arm_as_recorded() -> None:
    bare = row("direct/direct", 1.0, 5, [{"answer": "7"}])
    assert recording([bare], policy()).cells[0]["direct/direct"].pool == ()


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    torn = tmp_path / "t.jsonl.gz"
    torn.write_bytes(b"\x1f\x8b\x08\x00torn")
    with pytest.raises(TableError, match="cannot be read"):
        read_recording(torn, policy())
