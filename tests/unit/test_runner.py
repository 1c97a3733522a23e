"""A tier without Ray: results and events, and the bookkeeping when a caller leaves or an engine fails."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import aclosing

import pytest

from backends import runner as runner_module
from backends.cost import cost
from backends.engines.config import FakeFailure
from backends.errors import EngineUnavailable, StrategyUnsupported
from backends.hardware import H200, SMOLLM2_135M
from backends.task import Progress, TextDelta, TierEvent, TierResult, Used
from tests.tasks import runner_on, says, task, until


class NotedMeter:
    """A meter that remembers what it was told."""

    def __init__(self) -> None:
        self.checkpoints: list[tuple[str, str, int]] = []
        self.abandoned: list[tuple[str, str, int]] = []

    async def checkpoint(self, tenant: str, lease_id: str, used: Used) -> None:
        self.checkpoints.append((tenant, lease_id, used.tokens))

    async def abandon(self, tenant: str, lease_id: str, used: Used) -> None:
        await asyncio.sleep(0)  # a store is a place to be cancelled at
        self.abandoned.append((tenant, lease_id, used.tokens))

    async def aclose(self) -> None:
        return


async def test_a_result_carries_the_bill() -> None:
    runner = await runner_on(says("Answer: 7"))
    result = await runner.run(task(strategy="self_consistency", max_samples=8))
    assert result.answer == "7"
    assert result.spend.total == result.spend.prompt + result.spend.completion > 0
    assert result.gpu_seconds > 0
    assert result.flops > 0
    assert result.cost_usd > 0
    assert {sample.tier for sample in result.samples} == {"direct"}
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301 - it crosses processes so


async def test_sequences_that_were_decoded_together_share_their_steps() -> None:
    """Four choices: the first alone, then three side by side; on average between one and three."""

    async def gpu_seconds(parallel: int) -> tuple[float, list[float]]:
        engine = says("one two three four five six", delay_s=0.002, parallel=parallel)
        runner = runner_module.TierRunner(engine, tier="search", hardware=H200, shape=SMOLLM2_135M)
        await runner.start()
        result = await runner.run(task(choices=4))
        alike = [cost(result.spend, SMOLLM2_135M, H200, batch=n).gpu_seconds for n in (1, 3)]
        return result.gpu_seconds, alike

    used, (alone, three) = await gpu_seconds(parallel=4)
    assert three < used < alone
    used, (alone, _) = await gpu_seconds(parallel=1)
    assert used == alone


async def test_a_stream_ends_with_its_result() -> None:
    runner = await runner_on(says("one two three", delay_s=0.001))
    events: list[TierEvent] = [event async for event in runner.stream(task(stream_text=True))]
    assert isinstance(events[-1], TierResult)
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    assert text == events[-1].texts[0] == "one two three"


async def test_text_that_piled_up_is_joined() -> None:
    runner = await runner_on(says(" word" * 200, delay_s=1e-6))
    deltas = []
    async for event in runner.stream(task(stream_text=True, max_tokens=300)):
        if isinstance(event, TextDelta):
            deltas.append(event)
            await asyncio.sleep(0.01)  # a slow reader
    assert len(deltas) < 100
    assert "".join(d.text for d in deltas) == " word" * 200


async def test_progress_comes_before_the_result() -> None:
    runner = await runner_on(says("Answer: 7"))
    asked = task(strategy="self_consistency", max_samples=8, progress=True)
    events = [event async for event in runner.stream(asked)]
    assert [type(e) for e in events] == [Progress, Progress, Progress, TierResult]


async def test_a_caller_who_leaves_is_charged_what_was_generated() -> None:
    meter, engine = NotedMeter(), says(" word" * 1000, delay_s=0.002)
    runner = await runner_on(engine, meter)
    asked = task(lease_id="acme:1", tenant="acme", spent_before=Used(100), max_tokens=1000)
    work = asyncio.create_task(runner.run(asked))
    await until(lambda: engine.calls and engine.calls[0].completion_tokens > 5)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await until(lambda: meter.abandoned)
    call = engine.calls[0]
    assert meter.abandoned == [("acme", "acme:1", 100 + call.prompt_tokens + call.completion_tokens)]
    assert engine.active == 0


async def test_leaving_a_stream_cancels_its_run() -> None:
    meter, engine = NotedMeter(), says(" word" * 1000, delay_s=0.002)
    runner = await runner_on(engine, meter)
    asked = task(lease_id="acme:1", tenant="acme", stream_text=True, max_tokens=1000)
    async with aclosing(runner.stream(asked)) as events:
        async for _ in events:
            break
    await until(lambda: meter.abandoned)
    assert engine.active == 0


async def test_a_long_run_is_checkpointed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "CHECKPOINT_EVERY_S", 0.02)
    meter = NotedMeter()
    runner = await runner_on(says(" word" * 100, delay_s=0.002), meter)
    result = await runner.run(task(lease_id="acme:1", tenant="acme", max_tokens=200))
    used = [tokens for _, _, tokens in meter.checkpoints]
    assert len(used) > 2
    assert used == sorted(used)
    assert used[-1] <= result.spend.total


async def test_a_meter_that_fails_does_not_kill_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(NotedMeter):
        async def checkpoint(self, tenant: str, lease_id: str, used: Used) -> None:
            raise ConnectionError("no store")

    monkeypatch.setattr(runner_module, "CHECKPOINT_EVERY_S", 0.01)
    runner = await runner_on(says(" word" * 50, delay_s=0.002), Broken())
    result = await runner.run(task(lease_id="acme:1", max_tokens=100))
    assert result.stop_reason == "complete"


async def test_an_error_tells_what_was_spent() -> None:
    engine = says(
        "one two three four five", delay_s=0.001, fail=FakeFailure(kind="unavailable", after_tokens=3)
    )
    runner = await runner_on(engine)
    with pytest.raises(EngineUnavailable) as caught:
        await runner.run(task())
    spend = pickle.loads(pickle.dumps(caught.value)).spend  # noqa: S301 - it crosses processes so
    assert spend is not None
    assert spend.completion == 3
    assert spend.prompt > 0


async def test_an_unknown_strategy_is_named() -> None:
    runner = await runner_on(says("x"))
    with pytest.raises(StrategyUnsupported, match="no strategy 'magic'"):
        await runner.run(task(strategy="magic"))


async def test_closing_cancels_what_runs() -> None:
    meter, engine = NotedMeter(), says(" word" * 1000, delay_s=0.002)
    runner = await runner_on(engine, meter)
    work = asyncio.create_task(runner.run(task(lease_id="acme:1", tenant="acme", max_tokens=1000)))
    await until(lambda: engine.active)
    await runner.aclose()
    assert meter.abandoned
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not await runner.healthy()
