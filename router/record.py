"""Record an outcome table: every arm once a question, with samples enough to replay any stopping rule.

Self-consistency is drawn once at its largest size and never stopped; smaller sizes and adaptive stops are
replayed from those samples.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.engines.base import Engine, Message, Sampling
from backends.stopping import adaptive_count, tally
from backends.strategies import STRATEGIES
from backends.strategies.base import Run
from backends.task import Sample, StrategyParams, TierTask
from router.questions import Question

RUN_TIMEOUT_S = 600.0
RUN_BUDGET_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class RecordedArm:
    """An arm to record: its strategy and how it runs it."""

    name: str
    strategy: str
    params: StrategyParams


def recorded_ids(table: Path) -> set[str]:
    """Questions already in the table; a half-written last line is cut off so that appending can go on."""
    if not table.exists():
        return set()
    text = table.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        table.write_text(whole)
    return {json.loads(line)["prompt_id"] for line in whole.splitlines()}


async def record(
    engine: Engine,
    questions: Sequence[Question],
    arms: Sequence[RecordedArm],
    table: Path,
    *,
    max_tokens: int,
    seed: int,
    done: Callable[[Question], None],
) -> None:
    """Append one row a (question, arm) to `table`; questions that it has already are passed over."""
    known = recorded_ids(table)
    table.parent.mkdir(parents=True, exist_ok=True)
    for question in questions:
        if question.prompt_id not in known:
            rows = await _rows(engine, question, arms, max_tokens=max_tokens, seed=seed)
            with table.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
        done(question)


async def _rows(
    engine: Engine, question: Question, arms: Sequence[RecordedArm], *, max_tokens: int, seed: int
) -> list[dict[str, Any]]:
    rows = []
    voting = [arm for arm in arms if arm.strategy == "self_consistency"]
    if voting:
        largest = max(voting, key=lambda arm: arm.params.max_samples)
        run = _run(engine, question, largest, max_tokens, seed)
        samples = await _draw_all(run)
        rows += [_voted(question, arm, samples, run) for arm in voting]
    for arm in arms:
        if arm.strategy != "self_consistency":
            run = _run(engine, question, arm, max_tokens, seed)
            result = await STRATEGIES[arm.strategy](run)
            score = question.score(result.sample.text, result.sample.answer)
            rows.append(_row(question, arm, score, run.spend.completion, run, result.samples))
    return rows


def _run(engine: Engine, question: Question, arm: RecordedArm, max_tokens: int, seed: int) -> Run:
    task = TierTask(
        lease_id="",
        strategy=arm.strategy,
        messages=(Message("user", question.text),),
        sampling=Sampling(max_tokens=max_tokens, seed=seed),
        params=arm.params,
        budget_tokens=RUN_BUDGET_TOKENS,
        timeout_s=RUN_TIMEOUT_S,
    )
    deadline = asyncio.get_running_loop().time() + RUN_TIMEOUT_S
    return Run(engine, task, deadline=deadline, emit=lambda _: None)


async def _draw_all(run: Run) -> list[Sample]:
    messages, count = run.messages(), run.params.max_samples
    samples: list[Sample] = []
    for indexes in ([0], range(1, count)):  # leader first: one prefill serves all
        asked = [run.sampling(i) for i in indexes]
        async with aclosing(run.in_launch_order(messages, asked)) as drawn:
            async for call, _ in drawn:
                samples.append(run.as_sample(call))
    return samples


def _voted(question: Question, arm: RecordedArm, samples: Sequence[Sample], run: Run) -> dict[str, Any]:
    answers = [sample.answer for sample in samples]
    used = adaptive_count(answers, arm.params.max_samples, arm.params.confidence)
    leader = tally(answers[:used]).leader
    able = [s for s in samples[:used] if leader is None or s.answer == leader]
    best = max(able, key=lambda s: s.mean_logprob if s.mean_logprob is not None else float("-inf"))
    tokens = sum(sample.completion_tokens for sample in samples[:used])
    return _row(question, arm, question.score(best.text, best.answer), tokens, run, samples)


def _row(
    question: Question, arm: RecordedArm, score: float, tokens: int, run: Run, samples: Sequence[Sample]
) -> dict[str, Any]:
    def plain(sample: Sample) -> Mapping[str, Any]:
        logprob = sample.mean_logprob
        return {
            "answer": sample.answer,
            "score": question.score(sample.text, sample.answer),
            "completion_tokens": sample.completion_tokens,
            "mean_logprob": None if logprob is None else round(logprob, 4),
        }

    return {
        "prompt_id": question.prompt_id,
        "family": question.family,
        "messages": [{"role": "user", "content": question.text}],
        "arm": arm.name,
        "score": score,
        "prompt_tokens": run.calls[0].prompt_tokens,
        "completion_tokens": tokens,
        # Smaller votes are prefixes of the largest: their samples are not written again.
        "samples": [plain(s) for s in samples[: run.params.max_samples]]
        if arm.params.max_samples == run.params.max_samples
        else [],
    }


def recorded_arms(
    arms: Mapping[str, Mapping[str, Any]], max_samples: int | None = None
) -> tuple[RecordedArm, ...]:
    """Arms of a policy document as recorded arms; `max_samples` bounds the votes on slow machines."""
    chosen = []
    for name, fields in arms.items():
        known = {
            k: v for k, v in fields.items() if k in StrategyParams.__dataclass_fields__ and v is not None
        }
        params = StrategyParams(**known)
        if max_samples is not None and params.max_samples > max_samples:
            params = replace(params, max_samples=max_samples)
        chosen.append(RecordedArm(name, str(fields["strategy"]), params))
    return tuple(chosen)
