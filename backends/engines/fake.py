"""An engine without a model: scripted, seeded, countable. For tests and for measuring overhead."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from backends.engines.base import Chunk, Completion, EngineInfo, Generation, Message, Sampling
from backends.engines.config import FakeAnswer, FakeConfig, FakeFailure
from backends.errors import ContextOverflow, EngineProtocolError, EngineUnavailable, StrategyUnsupported

__all__ = ["FakeAnswer", "FakeCall", "FakeConfig", "FakeEngine", "FakeFailure", "tokenize"]

Script = Callable[[Generation, random.Random], str]

PIECES = re.compile(r"\n|[^\S\n]*\S+|[^\S\n]+")
CALLS_KEPT = 1000
PROMPTS_KEPT = 256


def tokenize(text: str) -> list[str]:
    """The fake's tokens: a newline, a word with the blanks before it, or blanks; joined they are the text."""
    return PIECES.findall(text)


@dataclass(slots=True)
class FakeCall:
    """One call of `generate`, for assertions."""

    generation: Generation
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int = 0
    outcome: Literal["running", "done", "cancelled", "failed"] = "running"


class FakeEngine:
    """Answers from `config.answers`, from `script`, or with a made-up number.

    What is said depends on the messages, the temperature and the seed alone; temperature 0 takes the most
    likely answer. Without a seed, the n-th call draws with seed n. A log-probability is the log of the share
    of the answer that was drawn, the same for each of its tokens; the alternatives at a place are the tokens
    that the answers have there. `failure` may be set while it runs.
    """

    def __init__(self, config: FakeConfig | None = None, script: Script | None = None) -> None:
        self.config = config if config is not None else FakeConfig()
        self.script = script
        self.failure = self.config.fail
        self.calls: deque[FakeCall] = deque(maxlen=CALLS_KEPT)
        self.active = 0
        self._started = 0
        self._failed = 0
        self._running = False
        self._slots = asyncio.Semaphore(self.config.parallel)
        self._seen: OrderedDict[tuple[str, tuple[Message, ...]], str] = OrderedDict()
        self._info = EngineInfo(
            model=self.config.model,
            context_tokens=self.config.context_tokens,
            continues_prefix=self.config.continues_prefix,
            logprobs=self.config.logprobs,
            top_logprobs=self.config.top_logprobs,
            seeds=self.config.seeds,
            parallel=self.config.parallel,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def start(self) -> None:
        self._running = True

    async def aclose(self) -> None:
        self._running = False

    async def healthy(self) -> bool:
        return self._running

    async def count_prompt_tokens(self, messages: Sequence[Message], prefix: str = "") -> int:
        """Tokens of the messages in a ChatML-like template, with `prefix` after them; exact."""
        self._check_running()
        return len(tokenize(_render(messages) + prefix))

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk | Completion, None]:
        """The scripted completion; raises what `failure` says, or ContextOverflow."""
        self._check_running()
        if generation.prefix and not self.config.continues_prefix:
            raise StrategyUnsupported("this fake cannot continue a started answer")
        prompt = len(tokenize(_render(generation.messages) + generation.prefix))
        if prompt >= self.config.context_tokens:
            raise ContextOverflow(prompt, self.config.context_tokens)
        self._started += 1
        failure = self._due_failure()
        async with self._slots:
            call = FakeCall(generation, prompt, self._cached(generation, prompt))
            self.calls.append(call)
            self.active += 1
            try:
                async for item in self._speak(call, failure):
                    yield item
                call.outcome = "done"
            except (EngineUnavailable, EngineProtocolError):
                call.outcome = "failed"
                raise
            finally:
                self.active -= 1
                if call.outcome == "running":
                    call.outcome = "cancelled"

    async def _speak(
        self, call: FakeCall, failure: FakeFailure | None
    ) -> AsyncGenerator[Chunk | Completion, None]:
        generation = call.generation
        text, share = self._reply(generation)
        pieces, stop = _cut(text, generation.sampling, self.config.context_tokens - call.prompt_tokens)
        kept = "".join(pieces)
        if stop is not None:
            kept = kept[: kept.index(stop)]
        sent = 0
        for chunk in _chunks(pieces, len(kept), failure, whole=self.config.token_delay_s == 0):
            if self.config.token_delay_s:
                await asyncio.sleep(self.config.token_delay_s)
                self._check_running()
            call.completion_tokens, sent = chunk.completion_tokens, sent + len(chunk.text)
            if chunk.text:
                yield chunk
        if failure is not None and failure.kind != "wrong_usage":
            await _fail(failure)
        tokens = call.completion_tokens = max(len(pieces), 1)  # an empty reply is one end token
        self._seen[generation.cache_scope, generation.messages] = generation.prefix + "".join(pieces)
        if len(self._seen) > PROMPTS_KEPT:
            self._seen.popitem(last=False)
        if failure is not None:
            tokens //= 2
        tops = self._alternatives(generation, pieces)
        length = stop is None and len(pieces) < len(tokenize(text))
        yield Completion(
            text=kept,
            finish="length" if length else "stop",
            prompt_tokens=call.prompt_tokens,
            completion_tokens=tokens,
            cached_tokens=call.cached_tokens,
            stop_string=stop,
            logprobs=(math.log(share),) * tokens if self.config.logprobs else (),
            top_logprobs=tuple(tuple(math.log(share) for _, share in place) for place in tops),
            top_tokens=tuple(tuple(token for token, _ in place) for place in tops),
        )

    def _reply(self, generation: Generation) -> tuple[str, float]:
        sampling = generation.sampling
        drawn = self._started if sampling.seed is None else sampling.seed
        greedy = sampling.temperature == 0
        # Python seeds from a string by its SHA-512, so this is the same in every process.
        rng = random.Random(
            f"{'' if greedy else drawn}|{sampling.temperature}|{_render(generation.messages)}"
        )
        if self.script is not None:
            text, share = self.script(generation, rng), 1.0
        else:
            answers = self._answers(generation)
            weights = [answer.weight for answer in answers]
            best = weights.index(max(weights))
            index = best if greedy else rng.choices(range(len(answers)), weights)[0]
            text, share = answers[index].text, weights[index] / sum(weights)
        started = generation.prefix and text.startswith(generation.prefix)
        return (text[len(generation.prefix) :] if started else text), share

    def _alternatives(self, generation: Generation, pieces: list[str]) -> list[list[tuple[str, float]]]:
        """At each place the likeliest tokens of all answers there, with their shares, in falling order."""
        wanted = min(generation.sampling.top_logprobs, self.config.top_logprobs)
        if not wanted or not pieces:
            return []
        answers = [FakeAnswer(text="".join(pieces))] if self.script else self._answers(generation)
        spoken = [(tokenize(a.text.removeprefix(generation.prefix)), a.weight) for a in answers]
        places = []
        for place, _ in enumerate(pieces):
            weights: dict[str, float] = defaultdict(float)
            for tokens, weight in spoken:
                if place < len(tokens):
                    weights[tokens[place]] += weight
            total = sum(weights.values())
            shares = sorted(
                ((token, weight / total) for token, weight in weights.items()), key=lambda t: -t[1]
            )
            places.append(shares[:wanted])
        return places

    def _answers(self, generation: Generation) -> Sequence[FakeAnswer]:
        asked = generation.messages[-1].content
        found = next((answers for part, answers in self.config.answers.items() if part in asked), None)
        if found is None:
            base = random.Random(asked).randrange(100)
            found = tuple(
                FakeAnswer(text=f"Let me think.\nStep one: count.\nAnswer: {base + offset}", weight=weight)
                for offset, weight in ((0, 7.0), (1, 2.0), (2, 1.0))
            )
        fitting = [answer for answer in found if answer.text.startswith(generation.prefix)]
        return fitting or found

    def _cached(self, generation: Generation, prompt_tokens: int) -> int:
        before = self._seen.get((generation.cache_scope, generation.messages))
        if before is None:
            return 0
        shared = 0
        for mine, earlier in zip(tokenize(generation.prefix), tokenize(before), strict=False):
            if mine != earlier:
                break
            shared += 1
        base = prompt_tokens - len(tokenize(generation.prefix))
        return min(base + shared, prompt_tokens - 1)  # one token is always computed

    def _due_failure(self) -> FakeFailure | None:
        failure = self.failure
        if failure is None or (failure.times is not None and self._failed >= failure.times):
            return None
        self._failed += 1
        return failure

    def _check_running(self) -> None:
        if not self._running:
            raise EngineUnavailable("the fake engine is not running: start() was not called, or aclose() was")


def _render(messages: Sequence[Message]) -> str:
    turns = "".join(f"<{message.role}>\n{message.content}\n" for message in messages)
    return f"{turns}<assistant>\n"


def _cut(text: str, sampling: Sampling, room: int) -> tuple[list[str], str | None]:
    """The tokens that are generated and the stop string they end with, whose tokens count as well."""
    pieces = tokenize(text)[: max(1, min(sampling.max_tokens, room))]
    allowed = "".join(pieces)
    found = [(allowed.index(stop), stop) for stop in sampling.stop if stop and stop in allowed]
    if not found:
        return pieces, None
    at, stop = min(found)
    length = 0
    for count, piece in enumerate(pieces, start=1):
        length += len(piece)
        if length >= at + len(stop):
            return pieces[:count], stop
    return pieces, stop


def _chunks(pieces: list[str], kept: int, failure: FakeFailure | None, whole: bool) -> list[Chunk]:
    if failure is not None and failure.kind != "wrong_usage":
        pieces = [] if failure.kind == "empty" else pieces[: failure.after_tokens]
    if whole:
        return [Chunk("".join(pieces)[:kept], len(pieces))] if pieces else []
    chunks, sent = [], 0
    for count, piece in enumerate(pieces, start=1):
        chunks.append(Chunk(piece[: max(0, kept - sent)], count))
        sent += len(piece)
    return chunks


async def _fail(failure: FakeFailure) -> None:
    if failure.kind == "hang":
        await asyncio.Event().wait()
    if failure.kind == "unavailable":
        raise EngineUnavailable("the fake engine was told to fail")
    raise EngineProtocolError("the fake engine was told to send no completion")
