"""The tier deployment's class and what it is made with, without Ray Serve."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import nan
from typing import Any

import pytest

from backends import tier as tier_module
from backends.engines.base import Message, Sampling
from backends.engines.fake import FakeEngine
from backends.hardware import CPU, SMOLLM2_135M
from backends.runner import TierRunner
from backends.task import StrategyParams, TextDelta, TierResult, TierTask, Used
from backends.tier import EngineUnwell, Tier
from policies.amounts import Amount
from router.meter import LedgerMeter
from router.profiles import fake_config
from router.stores import cache_redis_url, cache_secret, redis_url
from router.tier_factory import TierFactory

TierReplica: Any = Tier.func_or_class


class Quiet(TierReplica):  # type: ignore[misc]
    """Serve awaits the finaliser of its replicas; here nobody would."""

    def __del__(self) -> None:
        pass


class SlowStart(FakeEngine):
    """Well only after it was asked a few times, as a server that loads its weights."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.left = asked
        self.closed = False

    async def healthy(self) -> bool:
        self.left -= 1
        return self.left < 0 and await super().healthy()

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()


def maker(engine: FakeEngine) -> Any:
    async def make() -> TierRunner:
        return TierRunner(engine, tier="direct", hardware=CPU, shape=SMOLLM2_135M)

    return make


async def replica(engine: FakeEngine, **changes: Any) -> Any:
    made = Quiet.__new__(Quiet)
    await made.__init__(maker(engine), **changes)
    return made


def task(**changes: Any) -> TierTask:
    fields: dict[str, Any] = {
        "lease_id": "",
        "strategy": "direct",
        "messages": (Message("user", "2 + 2"),),
        "sampling": Sampling(32),
        "params": StrategyParams(think=False),
        "budget_tokens": 500,
        "timeout_s": 5.0,
    }
    return TierTask(**{**fields, **changes})


async def test_it_runs_tasks() -> None:
    made = await replica(FakeEngine())
    result = await made.run(task())
    assert isinstance(result, TierResult)
    assert result.texts[0]


async def test_it_streams_events_and_last_the_result() -> None:
    made = await replica(FakeEngine())
    events = [event async for event in made.stream(task(stream_text=True))]
    assert isinstance(events[-1], TierResult)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == events[-1].texts[0]


async def test_closing_a_stream_closes_the_run_at_once() -> None:
    """Without an await: Serve kills those in the generator of a client that left."""
    made = await replica(FakeEngine())
    closed = False

    async def stream(_: TierTask) -> AsyncGenerator[TextDelta, None]:
        nonlocal closed
        try:
            while True:
                yield TextDelta("x")
        finally:
            closed = True

    made._runner.stream = stream
    async with aclosing(made.stream(task())) as events:
        await anext(events)
    assert closed


async def test_it_waits_for_an_engine_that_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier_module, "READY_POLL_S", 0)
    engine = SlowStart(asked=3)
    made = await replica(engine)
    assert engine.left == -1
    await made.check_health()


async def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier_module, "READY_POLL_S", 0.001)
    with pytest.raises(EngineUnwell, match=r"direct was not up after 0\.02 s"):
        await replica(SlowStart(asked=10**9), ready_timeout_s=0.02)


async def test_health_is_the_engine_s() -> None:
    engine = FakeEngine()
    made = await replica(engine)
    assert await made.healthy()
    await made.check_health()
    await engine.aclose()
    assert not await made.healthy()
    with pytest.raises(EngineUnwell):
        await made.check_health()


async def test_shutting_down_stops_the_engine() -> None:
    engine = SlowStart(asked=0)
    made = await replica(engine)
    await TierReplica.__del__(made)
    assert engine.closed


async def test_a_replica_that_never_came_up_shuts_down_quietly() -> None:
    await TierReplica.__del__(Quiet.__new__(Quiet))


# -- what it is made with


def test_the_factory_can_be_sent_to_a_replica() -> None:
    factory = TierFactory("direct", fake_config())
    assert pickle.loads(pickle.dumps(factory)) == factory  # noqa: S301  Serve does so


async def test_the_factory_prices_by_the_configuration() -> None:
    runner = await TierFactory("search", fake_config())()
    await runner.start()
    assert runner.tier == "search"
    assert await runner.healthy()
    result = await runner.run(task())
    assert result.cost_usd > 0
    await runner.aclose()


class Ledger:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def checkpoint(self, lease_id: str, used: Amount, ttl_s: float) -> Amount:
        self.calls.append(("checkpoint", lease_id, used, ttl_s))
        return used

    async def settle(self, lease_id: str, used: Amount, *, exact: bool) -> None:
        self.calls.append(("settle", lease_id, used, exact))


async def test_the_meter_checkpoints_and_settles() -> None:
    ledger: Any = Ledger()
    meter = LedgerMeter(ledger, lease_ttl_s=9.0)
    await meter.checkpoint("demo", "demo:1", Used(5, 0.0101, 0.25))
    await meter.abandon("demo", "demo:1", Used(7, 0.5, nan))
    assert ledger.calls == [
        ("checkpoint", "demo:1", Amount(5, 11, 250_000), 9.0),
        ("settle", "demo:1", Amount(7, 500), True),
    ]


def test_stores_come_from_the_environment_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "CACHE_REDIS_URL", "ACR_CACHE_SECRET"):
        monkeypatch.delenv(name, raising=False)
    config = fake_config()
    assert redis_url(config) == cache_redis_url(config) == "redis://127.0.0.1:6379/0"
    config = config.model_copy(update={"redis_url": "redis://budgets"})
    assert redis_url(config) == cache_redis_url(config) == "redis://budgets"
    config = config.model_copy(update={"cache_redis_url": "redis://answers"})
    assert cache_redis_url(config) == "redis://answers"
    monkeypatch.setenv("REDIS_URL", "redis://env")
    monkeypatch.setenv("CACHE_REDIS_URL", "redis://env-answers")
    assert redis_url(config) == "redis://env"
    assert cache_redis_url(config) == "redis://env-answers"


def test_the_cache_s_secret_is_shared_or_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACR_CACHE_SECRET", "shared")
    assert cache_secret() == b"shared"
    monkeypatch.delenv("ACR_CACHE_SECRET")
    assert cache_secret() != cache_secret()
