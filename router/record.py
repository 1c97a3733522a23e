"""Record an outcome table: every arm once a question, with samples enough to replay any stopping rule.

Self-consistency draws one pool and never stops; every size of vote and every stopping rule is replayed from
it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from backends.engines.base import Engine, Sampling
from backends.stopping import adaptive_count, tally
from backends.strategies import STRATEGIES
from backends.strategies.base import Run
from backends.task import Sample, StrategyParams, TierTask
from router.questions import Question

RUN_TIMEOUT_S = 3600.0  # in a large batch a run takes long without being slow
POOL_BUDGET_TOKENS = 1_000_000
ARM_BUDGET_TOKENS = 10_000  # about what the default policy reserves for its dearest arm on a short question
SEED_STRIDE = 1_000_003


@dataclass(frozen=True, slots=True)
class RecordedArm:
    """An arm to record: its strategy and how it runs it."""

    name: str
    strategy: str
    params: StrategyParams


def recorded_rows(table: Path) -> set[tuple[str, str]]:
    """(question, arm) of every row; a half-written last line is cut off, so that appending can go on."""
    if not table.exists():
        return set()
    text = table.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        table.write_text(whole)
    rows = (json.loads(line) for line in whole.splitlines())
    return {(row["prompt_id"], row["arm"]) for row in rows}


async def record(
    engine: Engine,
    questions: Sequence[Question],
    arms: Sequence[RecordedArm],
    table: Path,
    *,
    max_tokens: int,
    seed: int,
    done: Callable[[Question], None],
    samples: int = 1,
    concurrency: int = 1,
) -> None:
    """Append one row a (question, arm) to `table`; rows that it has already are passed over.

    The votes share one pool of `samples` draws, or as many as the largest arm needs. `concurrency` questions
    run side by side, for engines that decode large batches. Raises the engine's BackendError.
    """
    known = recorded_rows(table)
    table.parent.mkdir(parents=True, exist_ok=True)
    waiting = iter(questions)

    async def worker() -> None:
        for question in waiting:
            missing = [arm for arm in arms if (question.prompt_id, arm.name) not in known]
            rows = await _rows(engine, question, missing, max_tokens, seed, samples)
            with table.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
            done(question)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except ExceptionGroup as several:  # all of one engine: the first says what is wrong
        raise several.exceptions[0] from several


async def _rows(
    engine: Engine,
    question: Question,
    arms: Sequence[RecordedArm],
    max_tokens: int,
    seed: int,
    samples: int,
) -> list[dict[str, Any]]:
    """One row an arm; the votes share one pool of samples, listed with the largest of them."""
    voting = [arm for arm in arms if arm.strategy == "self_consistency"]

    async def votes() -> list[dict[str, Any]]:
        if not voting:
            return []
        largest = max(voting, key=lambda arm: arm.params.max_samples)
        run = _run(engine, question, largest, max_tokens, seed, POOL_BUDGET_TOKENS)
        pool = await _draw_all(run, max(samples, largest.params.max_samples))
        return [_voted(question, arm, pool, run, listed=arm is largest) for arm in voting]

    async def alone(arm: RecordedArm) -> list[dict[str, Any]]:
        run = _run(engine, question, arm, max_tokens, seed, ARM_BUDGET_TOKENS)
        result = await STRATEGIES[arm.strategy](run)
        score = question.score(result.sample.text, result.sample.answer)
        return [_row(question, arm, score, run.spend.completion, run.spend.total, run, result.samples)]

    others = [alone(arm) for arm in arms if arm not in voting]
    return [row for rows in await asyncio.gather(votes(), *others) for row in rows]


def _run(
    engine: Engine, question: Question, arm: RecordedArm, max_tokens: int, seed: int, budget_tokens: int
) -> Run:
    id_bytes = question.prompt_id.encode()
    task = TierTask(
        lease_id="",
        strategy=arm.strategy,
        messages=question.messages,
        # A seed a question: with a shared one the same random numbers would draw every question's samples.
        sampling=Sampling(max_tokens=max_tokens, seed=(seed * SEED_STRIDE + crc32(id_bytes)) % 2**31),
        params=arm.params,
        budget_tokens=budget_tokens,
        timeout_s=RUN_TIMEOUT_S,
    )
    deadline = asyncio.get_running_loop().time() + RUN_TIMEOUT_S
    return Run(engine, task, deadline=deadline, emit=lambda _: None)


async def _draw_all(run: Run, count: int) -> list[Sample]:
    messages = run.messages()
    samples: list[Sample] = []
    for indexes in ([0], range(1, count)):  # leader first: one prefill serves all
        asked = [run.sampling(i) for i in indexes]
        async with aclosing(run.in_launch_order(messages, asked)) as drawn:
            async for call, _ in drawn:
                samples.append(run.as_sample(call))
    return samples


def _voted(
    question: Question, arm: RecordedArm, samples: Sequence[Sample], run: Run, *, listed: bool
) -> dict[str, Any]:
    answers = [sample.answer for sample in samples]
    used = adaptive_count(answers, arm.params.max_samples, arm.params.confidence)
    leader = tally(answers[:used]).leader
    able = [s for s in samples[:used] if leader is None or s.answer == leader]
    best = max(able, key=lambda s: s.mean_logprob if s.mean_logprob is not None else float("-inf"))
    tokens = sum(sample.completion_tokens for sample in samples[:used])
    score = question.score(best.text, best.answer)
    charged_tokens = tokens + used * run.calls[0].prompt_tokens
    return _row(question, arm, score, tokens, charged_tokens, run, samples if listed else ())


def _row(
    question: Question,
    arm: RecordedArm,
    score: float,
    tokens: int,
    charged_tokens: int,
    run: Run,
    samples: Sequence[Sample],
) -> dict[str, Any]:
    def plain(sample: Sample) -> Mapping[str, Any]:
        logprob = sample.mean_logprob
        return {
            "answer": sample.answer,
            "score": question.score(sample.text, sample.answer),
            "completion_tokens": sample.completion_tokens,
            "mean_logprob": None if logprob is None else round(logprob, 4),
            "finish": sample.finish,
        }

    return {
        "prompt_id": question.prompt_id,
        "family": question.family,
        "difficulty": question.difficulty,
        "messages": [asdict(message) for message in question.messages],
        "arm": arm.name,
        "score": score,
        "prompt_tokens": run.calls[0].prompt_tokens,
        "charged_tokens": charged_tokens,
        "completion_tokens": tokens,
        "samples": [plain(sample) for sample in samples],
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
