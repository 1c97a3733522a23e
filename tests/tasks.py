"""Small builders that many tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from backends.engines.base import Message, Sampling
from backends.engines.fake import FakeAnswer, FakeConfig, FakeEngine
from backends.hardware import CPU, SMOLLM2_135M
from backends.runner import Meter, TierRunner
from backends.strategies.base import Run
from backends.task import Sample, StrategyParams, TierEvent, TierTask


async def until(done: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.005)


def task(text: str = "What is 3 + 4?", **fields: Any) -> TierTask:
    """A task with room for everything; `fields` replace its own, and those of its sampling and params."""
    params = {k: fields.pop(k) for k in list(fields) if k in StrategyParams.__dataclass_fields__}
    sampling = {k: fields.pop(k) for k in list(fields) if k in Sampling.__dataclass_fields__}
    base = TierTask(
        lease_id="",
        strategy="direct",
        messages=(Message("user", text),),
        sampling=replace(Sampling(max_tokens=64, seed=1), **sampling),
        params=replace(StrategyParams(think=False), **params),
        budget_tokens=100_000,
        timeout_s=30.0,
    )
    return replace(base, **fields)


def carried(answer: str | None, **fields: Any) -> Sample:
    """A sample that an earlier rung paid for."""
    return replace(Sample(f"carried {answer}", answer, "stop", 5), **fields)


def says(*texts: str | tuple[str, float], delay_s: float = 0.0, **config: Any) -> FakeEngine:
    """A fake engine whose every reply is one of `texts` (with weights)."""
    answers = tuple(
        FakeAnswer(text=t) if isinstance(t, str) else FakeAnswer(text=t[0], weight=t[1]) for t in texts
    )
    return FakeEngine(FakeConfig(answers={"": answers}, token_delay_s=delay_s, **config))


async def run_on(
    engine: FakeEngine, what: TierTask, events: list[TierEvent] | None = None, **more: Any
) -> Run:
    """A run of `what` on a started engine; `more` goes to the run (`reward`, `same`)."""
    await engine.start()
    deadline = asyncio.get_running_loop().time() + what.timeout_s
    emit = events.append if events is not None else lambda _: None
    return Run(engine, what, deadline=deadline, emit=emit, **more)


async def runner_on(engine: FakeEngine, meter: Meter | None = None) -> TierRunner:
    runner = TierRunner(engine, tier="direct", hardware=CPU, shape=SMOLLM2_135M, meter=meter)
    await runner.start()
    return runner
