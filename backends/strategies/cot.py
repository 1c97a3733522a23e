"""Chain of thought: one completion that thinks aloud before it answers (arXiv 2205.11916)."""

from __future__ import annotations

from dataclasses import dataclass

from backends.strategies.base import Run, StrategyResult
from backends.strategies.direct import complete


@dataclass(frozen=True, slots=True)
class CotResult(StrategyResult):
    """One sample a choice, after those carried in; `confidence` is None: one draw is no evidence."""


async def cot(run: Run) -> CotResult:
    """Ask for the steps before the answer, whatever `params.think` says; else the same as `direct`.

    Where the caller's check is a JSON schema it is not asked, since thoughts are no JSON.
    Raises as `direct.complete` does.
    """
    done = await complete(run, run.messages(think=True))
    return CotResult(done.samples, done.chosen, done.stop_reason, None, planned=run.task.choices)
