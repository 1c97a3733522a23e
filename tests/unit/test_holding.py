"""Holds in GPU time and money: never less than what a run within its tokens is settled for."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.cost import cost, most_gpu_seconds
from backends.engines.config import FakeFailure
from backends.hardware import CPU, HARDWARE, LLAMA3_70B, MODEL_SHAPES, SMOLLM2_135M, Hardware, ModelShape
from backends.task import Spend
from policies.amounts import Amount
from policies.errors import PriceUnknown
from policies.ledger import Scopes
from policies.memory_ledger import InMemoryLedger
from router.config import AppConfig, TierConfig
from router.errors import QuotaExhausted, TierNotAllowed
from router.holding import Holding, Tariff, tariffs
from router.profiles import fake_config
from tests.service import ACME, EASY, HARD, POLICY, TestService, request, start_service
from tests.tasks import says

SHEETS = st.sampled_from(sorted(HARDWARE.values(), key=lambda sheet: sheet.name))
SHAPES = st.sampled_from(sorted(MODEL_SHAPES.values(), key=lambda shape: shape.name))


@st.composite
def spends(draw: st.DrawFn) -> Spend:
    """Calls with a prompt token each at least, cached or not, and any completions."""
    calls = draw(st.integers(1, 60))
    prompt = calls + draw(st.integers(0, 60_000))
    cached = draw(st.integers(0, prompt))
    kept, lost, scored = (draw(st.integers(0, 20_000)) for _ in range(3))
    return Spend(prompt - cached, cached, kept, lost, scored, calls)


@given(spend=spends(), spare=st.integers(0, 5000), batch=st.floats(1, 64), sheet=SHEETS, shape=SHAPES)
def test_no_run_within_its_tokens_takes_longer_than_was_held(
    spend: Spend, spare: int, batch: float, sheet: Hardware, shape: ModelShape
) -> None:
    bill = cost(spend, shape, sheet, batch=batch)
    tokens = spend.total + spare
    loose = most_gpu_seconds(tokens, shape, sheet)
    close = most_gpu_seconds(
        tokens, shape, sheet, calls=spend.calls, completion_tokens=spend.completion + spare
    )
    slack = 1 + 1e-9  # of floats that are added up in another order
    assert bill.gpu_seconds <= close * slack
    assert close <= loose * slack


@given(tokens=st.integers(0, 10**6), more=st.integers(0, 10**6), sheet=SHEETS, shape=SHAPES)
def test_more_tokens_hold_no_less(tokens: int, more: int, sheet: Hardware, shape: ModelShape) -> None:
    assert most_gpu_seconds(tokens, shape, sheet) <= most_gpu_seconds(tokens + more, shape, sheet)
    bounds = {"calls": 3, "completion_tokens": 512}
    assert most_gpu_seconds(tokens, shape, sheet, **bounds) <= most_gpu_seconds(
        tokens + more, shape, sheet, **bounds
    )


# -- the service


def limited(day: str, **defaults: str) -> str:
    more = "".join(f"\n    {name}: {value}" for name, value in defaults.items())
    return POLICY.replace("budgets: {minute: 20000, day: 100000}", f"budgets: {{day: {day}}}{more}")


async def spent(service: TestService) -> dict[str, tuple[int, int]]:
    tenant = service.policy.tenants["acme"]
    found = await service.ledger.peek(tenant.account, tenant.scopes())
    return {g.unit: (g.used, g.held) for g in found if g.window == "day"}


async def test_the_ledger_is_the_receipt_in_every_unit() -> None:
    service = await start_service(p=HARD, policy=limited("{tokens: 100000, gpu_seconds: 1000, usd: 1}"))
    receipt = (await service.pipeline.complete(ACME, request())).receipt
    assert receipt.gpu_seconds > 0
    assert await spent(service) == {
        "tokens": (receipt.charged_tokens, 0),
        "gpu_ms": (math.ceil(receipt.gpu_seconds * 1000), 0),
        "micro_usd": (math.ceil(receipt.cost_usd * 1e6), 0),
    }


@pytest.mark.parametrize("p", [EASY, HARD])
async def test_what_is_held_covers_what_is_settled(p: dict[str, float]) -> None:
    service = await start_service(p=p, policy=limited("{gpu_seconds: 100000, usd: 1000}"))
    held: list[Amount] = []
    settled: list[Amount] = []
    ledger = service.ledger
    reserve, extend, settle = ledger.reserve, ledger.extend, ledger.settle

    async def reserving(*args: Any) -> int | None:
        held.append(args[3])
        return await reserve(*args)

    async def extending(lease_id: str, extra: Amount, **named: Any) -> int | None:
        held.append(extra)
        return await extend(lease_id, extra, **named)

    async def settling(lease_id: str, used: Amount, **named: Any) -> int | None:
        settled.append(used)
        return await settle(lease_id, used, **named)

    ledger.reserve, ledger.extend, ledger.settle = reserving, extending, settling  # type: ignore[method-assign]
    await service.pipeline.complete(ACME, request())
    total = held[0]
    for more in held[1:]:
        total += more
    assert total.gpu_ms > 0
    assert total.micro_usd > 0
    assert not settled[0].beyond(total)


@pytest.mark.parametrize(("day", "said"), [("{usd: 0.0000001}", "USD"), ("{gpu_seconds: 0.001}", "GPU-s")])
async def test_a_budget_that_pays_for_nothing_names_its_unit(day: str, said: str) -> None:
    service = await start_service(policy=limited(day))
    with pytest.raises(QuotaExhausted, match=f"the day budget of tenant has .* {said}"):
        await service.pipeline.complete(ACME, request())
    assert await spent(service) == {"tokens": (0, 0), "gpu_ms": (0, 0), "micro_usd": (0, 0)}


async def first_hold(p: dict[str, float], **fields: Any) -> Amount:
    """What the first rung of a request holds where there is plenty."""
    held: list[Amount] = []

    class Ledger(InMemoryLedger):
        async def reserve(
            self, lease_id: str, account: str, scopes: Scopes, amount: Amount, ttl_s: float
        ) -> int | None:
            held.append(amount)
            return await super().reserve(lease_id, account, scopes, amount, ttl_s)

    policy = limited("{gpu_seconds: 100000, usd: 1000}")
    service = await start_service(p=p, policy=policy, ledger=Ledger())
    assert not (await service.pipeline.complete(ACME, request(**fields))).receipt.degraded
    return held[0]


@pytest.mark.parametrize("unit", ["gpu_seconds", "usd"])
async def test_a_low_budget_gives_a_smaller_plan_and_says_so(unit: str) -> None:
    whole = await first_hold(HARD)
    limit = whole.gpu_ms // 2 / 1000 if unit == "gpu_seconds" else whole.micro_usd // 2 / 1e6
    service = await start_service(p=HARD, policy=limited(f"{{{unit}: {limit:.6f}}}"))
    receipt = (await service.pipeline.complete(ACME, request())).receipt
    assert receipt.degraded
    said = "GPU-seconds left" if unit == "gpu_seconds" else "USD left"
    assert any(said in reason for reason in receipt.reasons)
    used, held = (await spent(service))["gpu_ms" if unit == "gpu_seconds" else "micro_usd"]
    assert held == 0
    assert 0 < used <= limit * (1000 if unit == "gpu_seconds" else 1e6)


async def test_a_cheaper_tier_answers_where_the_dear_one_cannot_be_paid() -> None:
    """The dear tier's least is more than what is left; on the cheap one a reply fits."""
    dear, cheap = Tariff(LLAMA3_70B, CPU), Tariff(SMOLLM2_135M, CPU)
    known = {"direct": cheap, "consistency": dear, "search": dear}
    service = await start_service(p=HARD, policy=limited("{gpu_seconds: 60}"), tariffs=known)
    receipt = (await service.pipeline.complete(ACME, request(max_completion_tokens=100))).receipt
    assert (receipt.tier, receipt.degraded) == ("direct", True)


async def test_deny_refuses_instead() -> None:
    limit = (await first_hold(HARD)).micro_usd // 2 / 1e6
    service = await start_service(p=HARD, policy=limited(f"{{usd: {limit:.6f}}}", on_low_budget="deny"))
    with pytest.raises(QuotaExhausted, match="USD left"):
        await service.pipeline.complete(ACME, request())


async def test_many_requests_at_once_never_pass_a_budget_in_money() -> None:
    limit = (await first_hold(EASY)).micro_usd * 5
    policy = limited(f"{{usd: {limit / 1e6:.6f}}}", allow_degrade="false")
    service = await start_service(policy=policy)
    asked = [service.pipeline.complete(ACME, request(f"{i} + 4?", temperature=1.0)) for i in range(64)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    refused = [result for result in results if isinstance(result, QuotaExhausted)]
    assert 0 < len(refused) < 64
    used, held = (await spent(service))["micro_usd"]
    assert held == 0
    assert 0 < used <= limit
    paid = [r.receipt.cost_usd for r in results if not isinstance(r, BaseException)]
    assert used == sum(math.ceil(usd * 1e6) for usd in paid)


async def test_a_failed_run_is_charged_in_every_unit() -> None:
    engine = says("Answer: 7", fail=FakeFailure(kind="unavailable", after_tokens=1))
    service = await start_service(engine, policy=limited("{gpu_seconds: 1000, usd: 1}"))
    with pytest.raises(Exception, match=r"."):
        await service.pipeline.complete(ACME, request())
    found = await spent(service)
    assert found["tokens"][0] > 0
    assert found["gpu_ms"][0] > 0
    assert found["micro_usd"][0] > 0
    assert {held for _, held in found.values()} == {0}


# -- unknown prices


UNPRICED = Tariff(SMOLLM2_135M, replace(CPU, usd_per_hour=math.nan))


async def test_an_unknown_price_is_refused_and_never_free() -> None:
    names = ("direct", "consistency", "search")
    service = await start_service(policy=limited("{usd: 5}"), tariffs=dict.fromkeys(names, UNPRICED))
    with pytest.raises(TierNotAllowed, match="no known price"):
        await service.pipeline.complete(ACME, request())
    assert (await spent(service))["micro_usd"] == (0, 0)


async def test_the_tiers_with_a_price_answer() -> None:
    known = {"direct": UNPRICED, "consistency": Tariff(SMOLLM2_135M, CPU), "search": UNPRICED}
    service = await start_service(policy=limited("{usd: 5}"), tariffs=known)
    receipt = (await service.pipeline.complete(ACME, request())).receipt
    assert receipt.tier == "consistency"
    assert any("no known price" in reason for reason in receipt.reasons)
    with pytest.raises(TierNotAllowed, match="usd_per_hour"):
        await service.pipeline.complete(ACME, request(model="direct"))


async def test_gpu_time_needs_no_price() -> None:
    names = ("direct", "consistency", "search")
    service = await start_service(
        policy=limited("{gpu_seconds: 100}"), tariffs=dict.fromkeys(names, UNPRICED)
    )
    assert (await service.pipeline.complete(ACME, request())).receipt.tier == "direct"


def test_the_app_config_may_say_that_it_does_not_know() -> None:
    config = fake_config()
    tier = TierConfig.model_validate({**config.tiers["direct"].model_dump(), "usd_per_hour": "unknown"})
    unpriced: AppConfig = config.model_copy(update={"tiers": {**config.tiers, "direct": tier}})
    found = tariffs(unpriced)
    assert [name for name, tariff in found.items() if not tariff.priced] == ["direct"]
    holding = Holding(frozenset({"micro_usd"}), found)
    assert holding.unpayable(frozenset(found)) == {"direct"}
    assert isinstance(holding.refuse(frozenset({"direct"})), PriceUnknown)
    assert math.isnan(cost(Spend(10, calls=1), SMOLLM2_135M, tier.sheet()).usd)


def test_nothing_but_tokens_needs_no_tariff() -> None:
    assert Holding(frozenset({"tokens"}), {}).unpayable(frozenset({"direct"})) == frozenset()
    assert Holding(frozenset({"gpu_ms"}), {}).unpayable(frozenset({"direct"})) == {"direct"}
