"""Replay of decision logs whose truth is known: what it estimates, and when it refuses to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.schema import Policy
from router.decisions.record import Decision
from router.replay.errors import NothingToReplay
from router.replay.log import LogReplay, replay_log
from router.replay.study import LogStudy, study_log
from tests.replaying import BEGAN_MS, CHEAP, DEAR, DEARER, LIVE, decisions, policy, rung, truth

pytestmark = pytest.mark.unit

LOG = decisions(1_500, seed=1)


def replayed(log: Sequence[Decision], under: Policy, tenant: str | None = None) -> LogReplay:
    return replay_log(lambda: log, under, tenant=tenant)


def study(log: Sequence[Decision], under: Policy, **more: Any) -> LogStudy:
    return study_log(replayed(log, under), resamples=200, **more)


# -- what it estimates


@pytest.mark.parametrize("estimator", ["ips", "snips", "dr"])
@pytest.mark.parametrize("measure", ["accuracy", "tokens"])
def test_intervals_cover_a_policy_that_was_never_live(measure: str, estimator: str) -> None:
    logs = [decisions(400, seed) for seed in range(30)]
    hits = [
        getattr(study(log, DEARER, measures=(measure,)).figures[measure], estimator).covers(
            truth(1.0)[measure]
        )
        for log in logs
    ]
    assert np.mean(hits) >= 0.8


def test_it_is_told_apart_from_the_log() -> None:
    found = study(LOG, DEARER)
    assert found.supported
    accuracy, tokens = found.figures["accuracy"], found.figures["tokens"]
    assert accuracy.logged.value < 0.6
    assert accuracy.dr.value == pytest.approx(0.8, abs=0.06)
    assert accuracy.difference.low > 0.1
    assert tokens.difference.low > 50
    assert found.figures["consistency"].dr.value == pytest.approx(0.5, abs=0.05)


def test_the_live_policy_itself_is_what_the_log_says() -> None:
    found = study(LOG, LIVE)
    accuracy = found.figures["accuracy"]
    assert found.weights.effective == pytest.approx(1_500)
    assert accuracy.ips.value == accuracy.snips.value == pytest.approx(accuracy.logged.value)
    assert accuracy.difference.covers(0.0)


def test_what_nobody_wrote_down_is_not_estimated() -> None:
    assert "cost_usd" not in study(LOG, DEARER).figures
    priced = [replace(d, cost_usd=d.tokens * 1e-6) for d in LOG]
    found = study(priced, DEARER).figures
    assert found["cost_usd"].snips.value == pytest.approx(found["tokens"].snips.value * 1e-6)


def test_clipping_is_said() -> None:
    found = study(LOG, DEARER, clip=2.0)
    assert any("clipped at 2" in note for note in found.notes)
    assert found.weights.largest == 2.0


# -- when it refuses to


def test_a_log_without_exploration_says_nothing_of_another_policy() -> None:
    found = study(decisions(500, live=policy(target=0.1)), DEARER)
    assert not found.supported
    assert "no exploration" in found.verdict
    assert DEAR in found.verdict
    assert all(np.isnan(f.dr.value) and f.why_not for f in found.figures.values())
    assert not np.isnan(found.figures["tokens"].logged.value)


def test_even_if_they_differ_on_few() -> None:
    """A hundredth of the requests is as unknown as all of them where nothing was ever drawn."""
    same = policy(target=0.1)
    log = decisions(1_000, live=same)
    odd = [replace(d, starts={CHEAP: 1.0}) for d in decisions(8, live=DEARER)]
    odd = [replace(d, plan=(CHEAP,), rungs=(rung(CHEAP, same),)) for d in odd]
    assert study(log, same).supported
    hard = [d for d in log if d.arms[CHEAP].p < 0.5]
    mostly = [d for d in log if d.arms[CHEAP].p > 0.5] + hard[:4]
    assert not study(mostly, DEARER).supported


def test_one_may_insist() -> None:
    found = study(decisions(500, live=policy(target=0.1)), DEARER, insist=True)
    assert not found.supported
    assert found.figures["tokens"].dr.value > 100


def test_a_log_that_is_too_short_says_so() -> None:
    found = study(decisions(60), DEARER)
    assert not found.supported
    assert "at least 30 are needed" in found.verdict


def test_a_log_without_propensities_says_so() -> None:
    found = study([replace(d, starts={}) for d in LOG], DEARER)
    assert not found.supported
    assert "no propensities" in found.verdict


def test_an_arm_with_other_parameters_is_another_arm() -> None:
    other = policy(samples=8)
    found = study(LOG, other)
    assert not found.supported
    assert DEAR in found.verdict
    assert "parameters were others" in found.verdict
    (support,) = (each for each in replayed(LOG, other).support if each.arm == DEAR)
    assert support.other_spec
    assert support.lacking == support.wanted > 0


def test_a_predicted_arm_that_was_never_drawn_is_named() -> None:
    mine = policy(target=0.6)
    cheap_only = policy(target=0.1, rate=0.1, more="tiers: [direct]")
    found = study(decisions(500, live=cheap_only), mine)
    assert not found.supported
    assert DEAR in found.verdict


def test_an_arm_that_the_log_never_heard_of_is_named() -> None:
    more = policy(target=0.6, arms="  search/beam: {tier: search, strategy: beam, max_samples: 4, width: 2}")
    found = replayed(LOG, more)
    assert found.unknown_arms == ("search/beam",)
    assert "never had search/beam" in study_log(found, resamples=50).verdict
    assert replayed(LOG, DEARER).unknown_arms == ()


def test_without_rewards_costs_are_told_and_accuracy_is_not() -> None:
    found = study(decisions(1_000, told=0.0), DEARER)
    assert found.supported
    assert found.figures["accuracy"].why_not
    assert np.isnan(found.figures["accuracy"].dr.value)
    assert found.figures["tokens"].dr.value > 100
    assert any("accuracy is unknown" in note for note in found.notes)


def test_few_rewards_are_too_few_for_the_accuracy() -> None:
    found = study(decisions(1_000, told=0.1), DEARER)
    assert found.supported
    assert "known rewards are worth" in found.figures["accuracy"].why_not


def test_a_check_counts_as_a_reward_and_confidence_does_not() -> None:
    checked = [replace(d, score=None, verified=d.score == 1.0) for d in LOG]
    assert study(checked, DEARER).figures["accuracy"] == study(LOG, DEARER).figures["accuracy"]
    believed = [replace(d, score=None, confidence=0.99) for d in LOG]
    assert study(believed, DEARER).figures["accuracy"].why_not


def test_propensities_that_do_not_fit_are_noticed() -> None:
    wrong = [replace(d, starts={CHEAP: 0.2, DEAR: 0.8}) for d in LOG]
    assert any("should average 1" in note for note in study(wrong, DEARER).notes)
    assert not any("should average 1" in note for note in study(LOG, DEARER).notes)


def test_ladders_that_go_on_otherwise_are_counted_and_too_many_refused() -> None:
    unsure = [
        replace(d, rungs=(replace(d.rungs[0], confidence=0.6),), plan=d.plan[:1], policy_version="older")
        for d in LOG
    ]
    found = study(unsure, policy(target=0.1, more="escalate_below: {direct: 0.9}"))
    assert found.weights.mended > 0.4  # easy requests have nothing worth climbing to
    assert not found.supported
    assert "escalate_below" in found.verdict
    assert study(unsure, policy(target=0.1, more="escalate_below: {direct: 0.5}")).weights.mended == 0.0


# -- what is left out


def test_hits_refusals_and_strangers_are_counted_and_left_out() -> None:
    odd = [
        replace(LOG[0], decision_id="hit", cache="hit", starts={}, plan=(), rungs=()),
        replace(LOG[1], decision_id="limited", arms={}, starts={}, plan=(), rungs=(), outcome="refused"),
        replace(LOG[2], decision_id="stranger", tenant="nobody"),
    ]
    found = replayed([*LOG, *odd], DEARER)
    assert len(found.rows) == len(LOG)
    assert (found.counts.read, found.counts.from_cache, found.counts.unplanned) == (1_503, 1, 1)
    assert found.counts.unknown_tenants == {"nobody": 1}
    assert (
        study_log(found, resamples=50).figures["tokens"]
        == study_log(replayed(LOG, DEARER), resamples=50).figures["tokens"]
    )


def test_nothing_to_replay_is_one_sentence() -> None:
    with pytest.raises(NothingToReplay, match="no decisions"):
        replayed([], LIVE)
    with pytest.raises(NothingToReplay, match="none of the log's tenants"):
        replayed([replace(LOG[0], tenant="nobody")], LIVE)
    with pytest.raises(NothingToReplay, match="no tenant 'other'"):
        replayed(LOG, LIVE, tenant="other")
    with pytest.raises(NothingToReplay, match="cache alone"):
        replayed([replace(LOG[0], cache="hit")], LIVE)
    with pytest.raises(NothingToReplay, match="what was asked"):
        replayed([replace(LOG[0], arms={})], LIVE)
    with pytest.raises(NothingToReplay, match="no time of this century"):
        replayed([replace(LOG[0], at_ms=10**15)], LIVE)


# -- budgets, on the log's own clock


def refused(log: Sequence[Decision], under: Policy) -> list[bool]:
    return replayed(log, under).rows.refused.tolist()


def test_a_smaller_budget_refuses_when_it_is_spent_and_not_before() -> None:
    log = decisions(300, every_ms=100)  # half a minute: one window
    none = refused(log, policy(target=0.1))
    some = refused(log, policy(target=0.1, more="budgets: {day: 4000}, on_low_budget: deny"))
    assert not any(none)
    assert not any(some[:40])
    assert all(some[-100:])
    found = study(log, policy(target=0.1, rate=0.0, more="budgets: {day: 4000}, on_low_budget: deny"))
    assert found.rates["refusals"].planned.value == pytest.approx(np.mean(some))
    assert found.rates["refusals"].logged.value == 0.0
    spent = found.figures["charged_tokens"].snips
    # what the last hold did not fit into stays
    assert 2_500 / 300 <= spent.value <= 4_000 / 300


def test_a_window_begins_anew() -> None:
    log = decisions(240, every_ms=500)
    minute_edge_ms = 60_000 - BEGAN_MS % 60_000
    limited = refused(log, policy(target=0.1, more="budgets: {minute: 2000}, on_low_budget: deny"))
    edge = -(-minute_edge_ms // 500)  # the first decision of the next minute
    assert not limited[0]
    assert limited[edge - 1]
    assert not limited[edge]


def test_all_refused_needs_no_estimate() -> None:
    found = study(LOG, policy(target=0.1, more="budgets: {day: 1}, on_low_budget: deny"))
    assert found.supported
    assert "would refuse every request" in found.verdict
    assert found.rates["refusals"].planned.value == 1.0


def test_a_shuffled_log_is_noticed() -> None:
    found = study([*LOG[50:], *LOG[:50]], DEARER)
    assert any("come before older ones" in note for note in found.notes)
    assert not any("come before older ones" in note for note in study(LOG, DEARER).notes)


def test_a_propensity_next_to_nothing_is_none() -> None:
    """Its weight would be beyond all numbers: nothing is believed of such starts, and nothing breaks."""
    tiny = [replace(d, starts={CHEAP: 1.0 - 1e-300, DEAR: 1e-300}) for d in LOG]
    found = study(tiny, DEARER, insist=True)
    assert not found.supported
    assert DEAR in found.verdict
    assert found.weights.largest <= 1.0
    assert np.isfinite(found.figures["tokens"].dr.value)


def test_a_question_that_no_service_takes_is_left_out() -> None:
    odd = [replace(LOG[0], ask={"prompt_tokens": 10, "deadline_s": 1e-300})]
    odd += [replace(LOG[0], ask={"prompt_tokens": 10, "effort": "herculean"}), replace(LOG[0], ask={})]
    assert replayed([*LOG, *odd], DEARER).counts.unplanned == 3


def test_a_pinned_tier_that_there_is_not_is_a_refusal() -> None:
    odd = replace(LOG[0], ask={"prompt_tokens": 10, "tier": "unknown"})
    assert replayed([*LOG, odd], DEARER).counts.refusals == {"UnknownTier": 1}
