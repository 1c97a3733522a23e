"""What every strategy stands on: a run that draws samples within its token budget and its deadline.

A strategy is `async def strategy(run: Run) -> StrategyResult`. It is anytime: when budget or deadline end it,
it returns the best so far and says so. The run counts every token, those of cancelled calls too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from backends.answers import extract
from backends.answers.classes import AnswerClasses, Same
from backends.engines.base import Completion, Engine, Generation, Message, Sampling
from backends.errors import BudgetTooSmall, ContextOverflow, EngineError
from backends.task import Progress, Sample, Spend, TextDelta, TierEvent, TierTask
from backends.verifiers.base import RewardModel
from backends.verifiers.caller import answer_kind, compile_check
from backends.verifiers.self_certainty import CERTAINTY, MAX_ALTERNATIVES, certainty

THINK = '\n\nThink step by step and give the final answer after "The answer is".'


@dataclass(frozen=True, slots=True)
class StrategyResult:
    """What a strategy came to; each strategy's own result adds its details.

    `samples` are the votes in launch order, those carried in first. `chosen` indexes the sample whose text
    is the answer. `confidence` is the strategy's belief in the answer, None without evidence.
    """

    samples: tuple[Sample, ...]
    chosen: int
    stop_reason: str
    confidence: float | None
    planned: int

    @property
    def sample(self) -> Sample:
        return self.samples[self.chosen]


@dataclass(slots=True)
class Call:
    """One engine call as it is counted: exact when it ended, the last chunk's count when it was cut off.

    `verifier`: it scored replies and is no reply of its own. `decoded_s`: when its first tokens and its last
    came, on the event loop's clock; None before.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    decoded_s: tuple[float, float] | None = None
    completion_tokens: int = 0
    pieces: list[str] = field(default_factory=list)
    completion: Completion | None = None
    kept_tokens: int = 0
    verifier: bool = False

    @property
    def text(self) -> str:
        return self.completion.text if self.completion else "".join(self.pieces)

    @property
    def mean_logprob(self) -> float | None:
        logprobs = self.completion.logprobs if self.completion else ()
        return sum(logprobs) / len(logprobs) if logprobs else None


class Run:
    """One task on one engine: draws, counts, and knows what is left.

    `deadline` is on the event loop's clock (seconds). `emit` receives text deltas and progress.
    """

    def __init__(
        self,
        engine: Engine,
        task: TierTask,
        *,
        deadline: float,
        emit: Callable[[TierEvent], None],
        reward: RewardModel | None = None,
        same: Same | None = None,
    ) -> None:
        self.engine = engine
        self.reward = reward
        self.task = task
        self.params = task.params
        self.deadline = deadline
        self.calls: list[Call] = []
        self.cancelled = 0
        self.used = 0
        self._emit = emit
        self._held_tokens = 0
        self._prompt_tokens: dict[tuple[tuple[Message, ...], str], int] = {}
        self._check = compile_check(task.verify) if task.verify else None
        self._classes = AnswerClasses(same, (sample.answer for sample in task.evidence))

    # -- what is left

    @property
    def spend(self) -> Spend:
        """Tokens by kind so far, in-flight calls at their last known count."""
        kept = sum(call.kept_tokens for call in self.calls)
        verifier = sum(call.completion_tokens for call in self.calls if call.verifier)
        generated = sum(call.completion_tokens for call in self.calls)
        cached = sum(call.cached_tokens for call in self.calls)
        return Spend(
            prompt_computed=sum(call.prompt_tokens for call in self.calls) - cached,
            prompt_cached=cached,
            completion_kept=kept,
            completion_discarded=generated - kept - verifier,
            verifier=verifier,
            calls=len(self.calls),
        )

    def tokens_left(self) -> int:
        """Budget minus what is spent or promised to calls in flight."""
        finished = sum(c.prompt_tokens + c.completion_tokens for c in self.calls if c.completion is not None)
        return self.task.budget_tokens - finished - self._held_tokens

    def affordable(self, prompt_tokens: int, max_tokens: int) -> int:
        """How many calls of this size the budget still covers in full."""
        return max(0, self.tokens_left() // (prompt_tokens + max_tokens))

    @contextmanager
    def holding(self, tokens: int) -> Iterator[None]:
        """Keep `tokens` of the budget from the calls made inside, for what has to come after them."""
        self._held_tokens += tokens
        try:
            yield
        finally:
            self._held_tokens -= tokens

    @contextmanager
    def reading(self, prompt_tokens: int) -> Iterator[Call]:
        """Count a prompt that another model than the engine's reads, a reward model's.

        The call that is handed out may be given the exact count afterwards; without one, as after a failure,
        `prompt_tokens` stay counted. Raises BudgetTooSmall.
        """
        if prompt_tokens > self.tokens_left():
            raise BudgetTooSmall(prompt_tokens, self.tokens_left())
        call = Call(prompt_tokens=prompt_tokens, verifier=True)
        self.calls.append(call)
        self._held_tokens += prompt_tokens
        try:
            yield call
        finally:
            # It has no completion, so what it spent stays held instead of being counted as finished.
            self._held_tokens += call.prompt_tokens - prompt_tokens

    # -- prompts

    def messages(self, *, think: bool | None = None) -> tuple[Message, ...]:
        """The caller's messages, with the request to think aloud where the arm (or `think`) asks for it.

        Never where a JSON schema is asked for: thoughts are no JSON.
        """
        turns = self.task.messages
        thinks = self.params.think if think is None else think
        if not thinks or (self.task.verify is not None and self.task.verify.type == "json_schema"):
            return turns
        last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
        if last is None:
            return turns
        asked = replace(turns[last], content=turns[last].content + THINK)
        return (*turns[:last], asked, *turns[last + 1 :])

    async def prompt_tokens(self, messages: tuple[Message, ...], prefix: str = "") -> int:
        """Tokens of the prompt. Raises ContextOverflow if no completion fits behind it."""
        key = (messages, prefix)
        if key not in self._prompt_tokens:
            self._prompt_tokens[key] = await self.engine.count_prompt_tokens(messages, prefix)
        count = self._prompt_tokens[key]
        info = self.engine.info
        if info.exact_prompt_count and count + 1 > info.context_tokens:
            raise ContextOverflow(count, info.context_tokens)
        return count

    # -- draws

    async def call(
        self,
        messages: tuple[Message, ...],
        sampling: Sampling,
        *,
        prefix: str = "",
        show: bool = False,
        verifier: bool = False,
    ) -> Call:
        """One engine call. Raises BudgetTooSmall if the budget does not cover it whole.

        A reply is never cut short to fit a budget behind the caller's back; it is cut where the model's
        context ends, as on any engine.
        """
        prompt = await self.prompt_tokens(messages, prefix)
        if self.engine.info.exact_prompt_count:
            room = self.engine.info.context_tokens - prompt
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        held = prompt + sampling.max_tokens
        if held > self.tokens_left():
            raise BudgetTooSmall(held, self.tokens_left())
        self._held_tokens += held
        call = Call(prompt_tokens=prompt, verifier=verifier)
        self.calls.append(call)
        try:
            generation = Generation(messages, sampling, prefix, self.task.tenant)
            async with aclosing(self.engine.generate(generation)) as items:
                async for item in items:
                    now = asyncio.get_running_loop().time()
                    call.decoded_s = (call.decoded_s[0] if call.decoded_s else now, now)
                    if isinstance(item, Completion):
                        call.completion = item
                        call.prompt_tokens = item.prompt_tokens
                        call.cached_tokens = item.cached_tokens
                        call.completion_tokens = item.completion_tokens
                    else:
                        call.pieces.append(item.text)
                        call.completion_tokens = item.completion_tokens
                        if show and item.text:
                            self._emit(TextDelta(item.text))
        finally:
            if call.completion is None:
                self.cancelled += 1
                # What a cut-off call spent is known; only the rest of its hold is free again.
                held -= call.prompt_tokens + call.completion_tokens
            self._held_tokens -= held
        return call

    def sampling(self, index: int) -> Sampling:
        """The caller's sampling for draw `index`, each with a seed of its own.

        A temperature of 0 gives way to the arm's: a vote among greedy copies would be no vote.
        """
        asked = self.task.sampling
        seed = None if asked.seed is None else (asked.seed + index) % 2**31
        warm = asked.temperature if asked.temperature > 0 else self.params.temperature
        told = min(self.engine.info.top_logprobs, MAX_ALTERNATIVES)
        wanted = told if self.params.scorer == CERTAINTY else 0
        return replace(asked, seed=seed, temperature=warm, top_logprobs=wanted)

    def as_sample(self, call: Call, text: str | None = None) -> Sample:
        """A call as a vote; `text` where the reply is more than this call (a path of a tree)."""
        text = call.text if text is None else text
        return Sample(
            text=text,
            answer=self._classes.first(self._answer(text)),
            finish=call.completion.finish if call.completion else "length",
            completion_tokens=call.completion_tokens,
            mean_logprob=call.mean_logprob,
            verified=self.passes(text),
            certainty=certainty(call.completion.top_logprobs) if call.completion else None,
        )

    def _answer(self, text: str) -> str | None:
        return extract(text, answer_kind(self.task.verify))

    def passes(self, text: str) -> bool | None:
        """Whether a reply passes the caller's check, None where there is none."""
        return None if self._check is None else self._check(text)

    async def in_launch_order(
        self,
        messages: tuple[Message, ...],
        samplings: Sequence[Sampling],
        prefixes: Sequence[str] = (),
        ends: Callable[[Call], bool] | None = None,
    ) -> AsyncGenerator[tuple[Call, str], None]:
        """Run calls side by side, yield them in the order they were launched.

        Leaving the loop early cancels the rest, whose tokens stay counted. A call that fails on its engine
        is left out, unless all of them fail; then the first error is raised. The first call to finish for
        which `ends` is true is yielded at once, and is the last.
        """
        starts = prefixes or [""] * len(samplings)
        tasks = [
            asyncio.ensure_future(self.call(messages, sampling, prefix=prefix))
            for sampling, prefix in zip(samplings, starts, strict=True)
        ]
        errors: list[EngineError] = []
        try:
            for position, (task, prefix) in enumerate(zip(tasks, starts, strict=True)):
                ending = None if ends is None else await _ending(tasks[position:], ends)
                if ending is not None:
                    self.used += 1
                    yield ending.result(), starts[tasks.index(ending)]
                    return
                try:
                    call = await task
                except EngineError as error:
                    errors.append(error)
                    continue
                await self._classes.learn(self._answer(prefix + call.text))
                self.used += 1
                yield call, prefix
            if errors and len(errors) == len(tasks):
                raise errors[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def longest_unfinished(self) -> Call | None:
        """The cut-off call with the most text: the best so far when nothing was finished."""
        drawn = (c for c in self.calls if c.text.strip() and not c.verifier)
        return max(drawn, key=lambda c: c.completion_tokens, default=None)

    def progress(self, samples: Sequence[Sample], leader: str | None, confidence: float | None) -> None:
        if self.task.progress:
            self._emit(Progress(len(samples), leader, confidence, self.spend.total))

    def keep(self, call: Call, tokens: int | None = None) -> None:
        """Mark a call as part of the answer (`tokens`: the first so many of it); the rest is discarded."""
        call.kept_tokens = call.completion_tokens if tokens is None else tokens


async def _ending(
    tasks: Sequence[asyncio.Task[Call]], ends: Callable[[Call], bool]
) -> asyncio.Task[Call] | None:
    """Wait for the first task; the one that ends it all, if one does so by then."""
    waiting = set(tasks)
    while waiting:
        finished, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            if task.exception() is None and ends(task.result()):
                return task
        if tasks[0].done():
            return None
    return None
