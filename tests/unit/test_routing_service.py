"""The service's place beside everyone else, on a table whose outcomes are known by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.routing.reachable import reachable
from benchmarks.routing.service import (
    ONE_ARM,
    PLACED,
    PRICES,
    RATES,
    REACHABLE,
    ROUNDS,
    SERVICE,
    family_rates,
    predictions,
    service,
    steps,
)
from classifier.evaluation.splits import KNN, ROUTER, TFIDF, Beliefs, HeldOut
from classifier.evaluation.standing import MIX, ORACLE
from classifier.rows import Row
from policies.loader import parse_policy
from policies.schema import Policy
from router.replay.recording import Recording, recording
from tests.outcomes import sums

POLICY = """
version: 1
name: served
arms:
  direct/direct: {tier: direct, strategy: direct, temperature: 0}
  consistency/sc4: {tier: consistency, strategy: self_consistency, max_samples: 4, confidence: 0.9}
defaults: {quality_target: 0.8, cost_weight: 0.02}
tenants:
  demo: {}
"""
PROMPTS = 24


def sample(right: bool, tokens: int) -> dict[str, Any]:
    answer = "7" if right else "8"
    return {
        "answer": answer,
        "score": float(right),
        "completion_tokens": tokens,
        "mean_logprob": -0.5,
        "finish": "stop",
    }


def rows() -> list[Row]:
    """The cheap arm is right on even prompts, the vote on all: three of its four samples are right."""
    found = []
    for i in range(PROMPTS):
        direct = [sample(i % 2 == 0, 10)]
        votes = [sample(right, 50) for right in (True, True, False, True)]
        for arm, score, tokens, samples in (
            ("direct/direct", float(i % 2 == 0), 10, direct),
            ("consistency/sc4", 1.0, 200, votes),
        ):
            fields = {
                "prompt_id": f"q{i}",
                "prompt": f"What is {i} + 3?",
                "arm": arm,
                "score": score,
                "prompt_tokens": 10,
                "completion_tokens": tokens,
                "charged_tokens": tokens + 10 * len(samples),
                "samples": samples,
            }
            found.append(Row.parse(1, json.dumps(fields)))
    return found


@pytest.fixture(scope="module")
def policy() -> Policy:
    return parse_policy(POLICY, "test")


@pytest.fixture(scope="module")
def recorded(policy: Policy) -> Recording:
    return recording(rows(), policy)


@pytest.fixture(scope="module")
def held(recorded: Recording) -> HeldOut:
    """Three splits of two parts; the router knows all, kNN nothing, TF-IDF the contrary of the truth."""
    table = recorded.table
    at = np.concatenate([np.random.default_rng(r).permutation(PROMPTS) for r in range(3)])
    p = np.clip(table.scores[at], 0.05, 0.95)
    tokens = table.tokens[at]
    beliefs = {
        ROUTER: Beliefs(p, tokens),
        KNN: Beliefs(np.tile(p.mean(axis=0), (at.size, 1)), tokens),
        TFIDF: Beliefs(1.0 - p, tokens),
    }
    halves = np.arange(at.size) // (PROMPTS // 2)
    return HeldOut("items", at, halves, np.arange(at.size) // PROMPTS, beliefs)


def test_who_knows_all_pays_for_the_vote_only_where_it_helps(
    policy: Policy, recorded: Recording, held: HeldOut
) -> None:
    ticks: list[None] = []
    field, climbed = service(policy, recorded, held, 0, lambda: ticks.append(None))
    assert len(ticks) == steps(held) == len(PLACED) * len(PRICES) * ROUNDS
    assert field.prompts == PROMPTS
    assert field.best == "consistency/sc4"
    found = {s.name: s for s in field.standings}
    assert {MIX, ORACLE, REACHABLE, RATES, ONE_ARM, *PLACED.values()} == set(found)
    mine = found[SERVICE]
    # half of the prompts at 20 tokens and half with the vote: less than all with the vote
    assert mine.tokens_at_best.value is not None
    assert mine.tokens_at_best.value < 0.7
    assert (mine.gain.value or 0.0) > (found[PLACED[KNN]].gain.value or 0.0)
    assert (mine.gain.value or 0.0) > (found[PLACED[TFIDF]].gain.value or 0.0)
    assert set(field.ahead) == set(found) - {SERVICE, ORACLE}
    assert 0.0 <= climbed < 1.0


def test_where_only_tokens_matter_the_cheapest_arm_answers(
    policy: Policy, recorded: Recording, held: HeldOut
) -> None:
    field, _ = service(policy, recorded, held, 0)
    curve = next(s.curve for s in field.standings if s.name == SERVICE)
    assert (curve.tokens[0], curve.accuracy[0]) == pytest.approx((20.0, 0.5))


def test_every_prompt_is_predicted_as_it_was_held_out(recorded: Recording, held: HeldOut) -> None:
    mine = np.flatnonzero(held.round == 1)
    found = predictions(recorded.table, held, mine, TFIDF, 0)
    assert found.at.tolist() == held.at[mine].tolist()
    for row, told in zip(mine, found.predictions, strict=True):
        assert tuple(told.p) == recorded.table.arms
        assert list(told.p.values()) == held.beliefs[TFIDF].p[row].tolist()
        assert list(told.tokens.values()) == held.beliefs[TFIDF].tokens[row].tolist()
        assert all(told.tokens_high[arm] >= told.tokens[arm] for arm in told.p)
        assert set(told.confidences) == {"direct/direct"}


def test_what_is_drawn_by_chance_is_averaged_and_the_rest_is_as_recorded(
    policy: Policy, recorded: Recording
) -> None:
    found = reachable(policy, recorded)
    direct, vote = (recorded.table.arms.index(arm) for arm in ("direct/direct", "consistency/sc4"))
    assert found.p[:, direct].tolist() == recorded.table.scores[:, direct].tolist()
    assert found.tokens[:, direct].tolist() == recorded.table.tokens[:, direct].tolist()
    # one of four samples is wrong: it never has the vote, in whatever order they come
    np.testing.assert_allclose(found.p[:, vote], 1.0)
    assert (found.tokens[:, vote] <= 200.0).all()


def test_a_vote_that_could_go_either_way_is_worth_about_half(policy: Policy) -> None:
    even = [sample(right, 50) for right in (True, False)] * 2
    tables = [
        Row.parse(
            1,
            json.dumps(
                {
                    "prompt_id": "q",
                    "prompt": "?",
                    "arm": arm,
                    "score": 1.0,
                    "completion_tokens": 200,
                    "samples": samples,
                }
            ),
        )
        for arm, samples in (("direct/direct", [sample(True, 10)]), ("consistency/sc4", even))
    ]
    found = recording(tables, policy)
    vote = found.table.arms.index("consistency/sc4")
    assert reachable(policy, found).p[0, vote] == pytest.approx(0.5, abs=0.15)


def test_a_family_is_known_by_its_other_prompts() -> None:
    table = sums(9, families=3)
    found = family_rates(table)
    names = np.array([item.family for item in table.items])
    for row, name in enumerate(names):
        others = [i for i, other in enumerate(names) if other == name and i != row]
        np.testing.assert_allclose(found.p[row], table.scores[others].mean(axis=0))
        np.testing.assert_allclose(found.tokens[row], table.tokens[others].mean(axis=0))
    alone = sums(3, families=1).subset([0, 2])
    np.testing.assert_allclose(family_rates(alone).p[0], alone.scores[1])
