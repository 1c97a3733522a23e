"""The share of its spend that a tenant's tier may take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.hardware import H200, SMOLLM2_135M
from backends.verifiers.base import VerifySpec
from policies.amounts import Amount
from policies.errors import PolicyFileError
from policies.ledger import Gauge
from policies.loader import parse_policy
from policies.memory_ledger import InMemoryLedger
from policies.schema import TenantPolicy
from policies.shares import share_scopes, spend_scopes, tenant_scope, tier_scope
from router import errors as told
from router.errors import TierUnavailable
from router.holding import Tariff
from tests.service import ACME, HARD, POLICY, TestService, request, start_service
from tests.tasks import says, until

STEERED = {"direct/direct": 0.1, "consistency/sc8": 0.2, "search/beam": 0.95}


def with_share(rule: str, budgets: str = "budgets: {day: 100000}") -> str:
    old = "budgets: {minute: 20000, day: 100000}"
    assert old in POLICY
    return POLICY.replace(old, f"tier_share: {rule}\n    {budgets}")


def tenant(rule: str, budgets: str = "budgets: {day: 100000}") -> TenantPolicy:
    return parse_policy(with_share(rule, budgets), "p").tenants["acme"]


# -- the rule


def used(tokens: int, reset_s: float = 3600.0) -> list[Gauge]:
    gpu = Gauge("tenant", "day", 9, 9, None, reset_s, "gpu_ms")
    return [Gauge("tenant", "day", tokens, 10**6, None, reset_s), gpu]


def test_the_share_is_of_the_windows_budget_in_every_unit_that_it_has() -> None:
    acme = tenant("{search: 0.2}", "budgets: {minute: 900, day: {tokens: 1000, gpu_seconds: 5, usd: 1}}")
    limits = {"tokens": 200, "gpu_ms": 1000, "micro_usd": 200_000}
    assert share_scopes(acme, "search") == [("tier:search", {"day": limits})]
    assert spend_scopes(acme) == []
    assert share_scopes(acme, "direct") == []


def test_without_a_budget_it_is_of_what_was_spent_so_far_and_never_below_the_floor() -> None:
    acme = tenant("{window: month, search: 0.25, floor_tokens: 1000}")
    assert spend_scopes(acme) == [("tenant", {"month": {}})]
    for spent, limit in ((0, 1000), (3000, 1000), (8000, 2000)):
        assert share_scopes(acme, "search", used(spent)) == [("tier:search", {"month": {"tokens": limit}})]


def test_what_was_spent_says_nothing_when_the_window_is_about_to_end() -> None:
    acme = tenant("{search: 0.25, floor_tokens: 10}", "budgets: {}")
    assert share_scopes(acme, "search", used(8000, 4.9)) == [("tier:search", {"day": {"tokens": 10}})]


def test_no_share_at_all_is_no_floor_either() -> None:
    acme = tenant("{search: 0.0}", "budgets: {}")
    assert share_scopes(acme, "search", used(8000)) == [("tier:search", {"day": {"tokens": 0}})]


def test_a_share_of_everything_is_no_cap() -> None:
    assert share_scopes(tenant("{search: 1.0, consistency: null}"), "search") == []


def test_tenants_of_one_organisation_have_shares_of_their_own() -> None:
    text = with_share("{search: 0.2}").replace("  acme:\n", "  acme:\n    organisation: group\n", 1)
    text = text.replace("tenants:\n", "organisations: {group: {budgets: {day: 200000}}}\ntenants:\n", 1)
    acme = parse_policy(text, "p").tenants["acme"]
    assert (tenant_scope(acme), tier_scope(acme, "search")) == ("tenant:acme", "tier:acme:search")


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ("{search: 1.01}", "tier_share.search"),
        ("{search: -0.1}", "tier_share.search"),
        ("{search: .nan}", "tier_share.search"),
        ("{search: true}", "tier_share.search"),
        ('{search: "0.2"}', "tier_share.search"),
        ("{gpu: 0.2}", "tier_share.gpu"),
        ("{window: year, search: 0.2}", "tier_share.window"),
        ("{floor_tokens: -1}", "tier_share.floor_tokens"),
        ("{floor_tokens: 9007199254740992}", "tier_share.floor_tokens"),
        ("0.2", "tier_share"),
    ],
)
def test_bad_shares_are_refused_with_line_and_field(rule: str, field: str) -> None:
    text = with_share(rule)
    with pytest.raises(PolicyFileError) as refused:
        parse_policy(text, "p.yaml")
    assert refused.value.field == f"tenants.acme.{field}"
    assert refused.value.line == text.splitlines().index(f"    tier_share: {rule}") + 1


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ("{requests_per_minute: 0}", "requests_per_minute"),
        ("{requests_per_minute: -5}", "requests_per_minute"),
        ("{tokens_per_minute: .nan}", "tokens_per_minute"),
        ("{tokens_per_minute: 9007199254740993}", "tokens_per_minute"),
        ("{concurrency: 1.5}", "concurrency"),
        ("{concurrency: .inf}", "concurrency"),
        ("{per_second: 5}", "per_second"),
    ],
)
def test_bad_limits_of_tenants_and_keys_are_refused_with_line_and_field(limits: str, field: str) -> None:
    of_tenant = POLICY.replace("    default_effort: high", f"    limits: {limits}\n    default_effort: high")
    of_key = POLICY.replace("keys: [{id: k1,", f"keys: [{{id: k1, limits: {limits},")
    for text, path in ((of_tenant, "limits"), (of_key, "keys.0.limits")):
        with pytest.raises(PolicyFileError) as refused:
            parse_policy(text, "p.yaml")
        assert refused.value.field == f"tenants.acme.{path}.{field}"
        assert limits in text.splitlines()[refused.value.line - 1]


# -- in the service


async def tier_gauge(service: TestService, window: str = "day", tier: str = "search") -> Gauge:
    gauges = await service.ledger.peek("acme", [(f"tier:{tier}", {window: {}})])
    return next(gauge for gauge in gauges if gauge.unit == "tokens")


async def closed(service: TestService) -> Gauge:
    """The tier's gauge once nothing is held any more."""
    gauge = await tier_gauge(service)
    for _ in range(2000):
        if gauge.held == 0:
            return gauge
        await asyncio.sleep(0.005)
        gauge = await tier_gauge(service)
    raise AssertionError("something is still held")


async def test_the_tier_is_charged_what_its_rungs_spent() -> None:
    service = await start_service(p=STEERED, policy=with_share("{search: 0.9}"))
    reply = await service.pipeline.complete(ACME, request())
    assert reply.receipt.tier == "search"
    assert (await closed(service)).used == reply.receipt.charged_tokens


async def test_a_climb_charges_the_tier_its_own_rung_only() -> None:
    p = {"direct/direct": 0.9, "consistency/sc8": 0.97}
    policy = with_share("{consistency: 0.9}").replace("quality_target: 0.8", "cost_weight: 0.0")
    service = await start_service(p=p, policy=policy)
    reply = await service.pipeline.complete(ACME, request(verify=VerifySpec("regex", pattern="never")))
    assert reply.receipt.arms_tried == ("direct/direct", "consistency/sc8")
    for _ in range(2000):
        gauge = await tier_gauge(service, tier="consistency")
        if gauge.held == 0:
            break
        await asyncio.sleep(0.005)
    assert 0 < gauge.used < reply.receipt.charged_tokens


async def test_where_the_share_is_spent_another_tier_answers_and_the_receipt_says_so() -> None:
    service = await start_service(p=STEERED, policy=with_share("{search: 0.0}"))
    reply = await service.pipeline.complete(ACME, request())
    assert reply.receipt.tier != "search"
    assert not reply.receipt.degraded
    assert any(r.startswith("search may spend 0% of the day, which is less") for r in reply.receipt.reasons)
    with pytest.raises(told.RequestExceedsBudget) as refused:
        await service.pipeline.complete(ACME, request(model="search"))
    assert (refused.value.status, refused.value.param, refused.value.retry_after_s) == (429, "model", None)
    assert "the tier search may spend 0% of the day" in refused.value.message


async def test_who_pins_a_tier_whose_share_is_spent_is_told_when_it_fits_again() -> None:
    service = await start_service(p=STEERED, policy=with_share("{search: 0.9}"))
    held = (await service.pipeline.explain(ACME, request()))["plan"].start.budget_tokens
    scopes = [("tier:search", {"day": {"tokens": 90_000}})]
    await service.ledger.reserve("acme:others", "acme", scopes, Amount(90_000 - held + 1), 60)
    reply = await service.pipeline.complete(ACME, request())
    assert (reply.receipt.tier != "search", reply.receipt.degraded) == (True, False)
    said = next(
        r for r in reply.receipt.reasons if r.startswith("search has spent its share of the day (90%")
    )
    assert "so other tiers answer" in said
    with pytest.raises(told.QuotaExhausted) as refused:
        await service.pipeline.complete(ACME, request(model="search"))
    assert (refused.value.status, refused.value.param) == (429, "model")
    assert 0 < (refused.value.retry_after_s or 0) <= 86_400
    assert "the tier search has spent its share of the day (90%); ask for auto" in refused.value.message


async def test_a_rung_without_room_is_left_out_and_the_answer_so_far_is_given() -> None:
    policy = with_share("{consistency: 0.0}").replace("quality_target: 0.8", "cost_weight: 0.0")
    service = await start_service(p={"direct/direct": 0.9, "consistency/sc8": 0.97}, policy=policy)
    reply = await service.pipeline.complete(ACME, request(verify=VerifySpec("regex", pattern="never")))
    assert (reply.receipt.arms_tried, reply.receipt.degraded) == (("direct/direct",), False)
    assert any("so consistency/sc8 is left out" in reason for reason in reply.receipt.reasons)


async def test_who_leaves_in_the_middle_is_charged_all_that_was_held() -> None:
    engine = says(" word" * 1000, delay_s=0.002)
    service = await start_service(engine, p=STEERED, policy=with_share("{search: 0.9}"))
    work = asyncio.create_task(service.pipeline.complete(ACME, request()))
    await until(lambda: engine.calls and engine.calls[0].completion_tokens > 3)
    held = (await tier_gauge(service)).held
    assert held > 0
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    gauge = await tier_gauge(service)
    assert gauge.used + gauge.held == held  # until the hold expires, and then as used


async def test_a_replica_that_dies_is_charged_all_that_was_held_once_the_hold_expires() -> None:
    now = [1_956_528_000.0]
    ledger = InMemoryLedger(lambda: now[0])
    engine = says(" word" * 1000, delay_s=0.002)
    service = await start_service(engine, p=STEERED, policy=with_share("{search: 0.9}"), ledger=ledger)
    work = asyncio.create_task(service.pipeline.complete(ACME, request()))
    await until(lambda: engine.calls)
    held = (await tier_gauge(service)).held
    now[0] += 3600
    gauge = await tier_gauge(service)
    assert (gauge.used, gauge.held) == (held, 0)
    await work  # it lived after all: the difference is given back
    await until(lambda: not service.pipeline._background._tasks)
    assert (await tier_gauge(service)).used < held


async def test_a_tier_that_is_lost_is_charged_all_that_was_held() -> None:
    service = await start_service(p=STEERED, policy=with_share("{search: 0.9}"))
    held: list[int] = []

    class Lost:
        names = ("direct", "consistency", "search")

        async def run(self, tier: str, task: Any) -> Any:
            held.append((await tier_gauge(service)).held)
            raise TierUnavailable("gone")

        async def healthy(self, tier: str) -> bool:
            return False

    object.__setattr__(service.pipeline._parts, "tiers", Lost())
    with pytest.raises(told.TierUnavailable):
        await service.pipeline.complete(ACME, request())
    gauge = await tier_gauge(service)
    assert gauge.used + gauge.held == held[0] > 0


async def test_a_refused_budget_gives_the_share_back() -> None:
    policy = with_share("{search: 0.9}", "on_low_budget: deny\n    budgets: {minute: 300, day: 100000}")
    service = await start_service(p=STEERED, policy=policy)
    with pytest.raises(told.RouterError):
        await service.pipeline.complete(ACME, request())
    assert (await closed(service)).used == 0


async def test_a_new_day_has_a_whole_share_again() -> None:
    now = [1_956_528_000.0 + 86_400 - 10]  # ten seconds before midnight
    ledger = InMemoryLedger(lambda: now[0])
    probe = await start_service(p=STEERED, policy=with_share("{search: 0.9}"))
    held = (await probe.pipeline.explain(ACME, request()))["plan"].start.budget_tokens
    policy = with_share("{search: 0.05}", f"budgets: {{day: {20 * (held + 1)}}}")  # one run fits, no second
    service = await start_service(p=STEERED, policy=policy, ledger=ledger)
    tiers = []
    for _ in range(40):
        tiers.append((await service.pipeline.complete(ACME, request())).receipt.tier)
        await until(lambda: not service.pipeline._background._tasks)
        if tiers[-1] != "search":
            break
    assert tiers[0] == "search"
    assert tiers[-1] != "search"
    now[0] += 20
    assert (await service.pipeline.complete(ACME, request())).receipt.tier == "search"


async def test_at_a_months_end_too() -> None:
    now = [1_956_528_000.0 + 31 * 86_400 - 60]  # a minute before February
    ledger = InMemoryLedger(lambda: now[0])
    scopes = [("tier:search", {"month": {"tokens": 100}})]
    await ledger.reserve("acme:a", "acme", scopes, Amount(100), 30)
    await ledger.settle("acme:a", Amount(100))
    now[0] += 61
    assert await ledger.reserve("acme:b", "acme", scopes, Amount(100), 30) == 0


async def test_explain_says_it_too() -> None:
    service = await start_service(p=STEERED, policy=with_share("{search: 0.0}"))
    said = await service.pipeline.explain(ACME, request())
    assert any("search may spend 0% of the day" in reason for reason in said["plan"].reasons)
    assert said["plan"].start.tier != "search"
    assert (await tier_gauge(service)).held == 0


async def test_tenants_without_shares_ask_for_nothing_more() -> None:
    service = await start_service(p=HARD)
    calls: list[str] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(service.ledger, name)

    object.__setattr__(service.pipeline._parts, "ledger", Watched())
    await service.pipeline.complete(ACME, request())
    assert calls == ["reserve", "settle"]


async def test_a_share_holds_in_money_and_gpu_time_too() -> None:
    """A fifth of a day's money for search: what a run may cost is held, and what it cost is charged."""
    budgets = "budgets: {day: {tokens: 1000000, usd: %s}}"
    tariffs = {tier: Tariff(SMOLLM2_135M, H200) for tier in ("direct", "consistency", "search")}
    rich = await start_service(p=STEERED, policy=with_share("{search: 0.2}", budgets % 100), tariffs=tariffs)
    assert (await rich.pipeline.complete(ACME, request())).receipt.tier == "search"
    poor = await start_service(p=STEERED, policy=with_share("{search: 0.001}", budgets % 1), tariffs=tariffs)
    poor_reply = await poor.pipeline.complete(ACME, request())
    assert poor_reply.receipt.tier != "search"
    await until(lambda: not rich.pipeline._background._tasks)
    gauges = await rich.ledger.peek("acme", [("tier:search", {"day": {}}), ("tenant", {"day": {}})])
    numbers = {(g.scope, g.unit): (g.used, g.held) for g in gauges}
    assert numbers["tier:search", "micro_usd"] == numbers["tenant", "micro_usd"]
    assert numbers["tier:search", "tokens"] == numbers["tenant", "tokens"]
    assert numbers["tier:search", "tokens"][1] == 0
