"""What the contract does not ask of every engine: salts, one prefill for many samples, alternatives."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from backends.engines.base import Completion, Engine, Generation, Message, Sampling
from backends.engines.vllm import VLLMEngine
from backends.errors import ContextOverflow
from tests.contract.test_engine_contract import FACTS, STORY
from tests.engine_subjects import CONTEXT
from tests.vllm.smollm2 import BLOCK_TOKENS

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAMPLES = 8
LONG_TOKENS = 400
CANCELLED_WITHIN_S = 0.5


@pytest.fixture(params=["http_engine", "native_engine"])
def engine(request: pytest.FixtureRequest) -> Engine:
    made: Engine = request.getfixturevalue(request.param)
    return made


async def complete(engine: Engine, generation: Generation) -> Completion:
    async with aclosing(engine.generate(generation)) as items:
        *_, done = [item async for item in items]
    assert isinstance(done, Completion)
    return done


async def prompt_of(engine: Engine, tokens: int, start: str) -> tuple[Message, ...]:
    """A prompt of exactly so many tokens, that begins with `start`."""
    words = 1
    while True:
        messages = (Message("user", start + " river" * words),)
        counted = await engine.count_prompt_tokens(messages)
        if counted >= tokens:
            assert counted == tokens
            return messages
        words += tokens - counted


async def test_eight_samples_of_a_long_prompt_compute_it_once(engine: Engine) -> None:
    messages = await prompt_of(engine, LONG_TOKENS, f"{type(engine).__name__} reads once:")
    samplings = [Sampling(4, temperature=1.0, seed=seed) for seed in range(SAMPLES)]
    leader = await complete(engine, Generation(messages, samplings[0]))
    followers = await asyncio.gather(
        *(complete(engine, Generation(messages, sampling)) for sampling in samplings[1:])
    )
    done = [leader, *followers]
    assert {each.prompt_tokens for each in done} == {LONG_TOKENS}
    assert leader.cached_tokens < 2 * BLOCK_TOKENS
    computed = sum(each.prompt_tokens - each.cached_tokens for each in done)
    generated = sum(each.completion_tokens for each in done)
    ratio = (computed + generated) / (LONG_TOKENS + generated)
    print(
        f"{engine.info.model}: prompt computed {computed} of ideal {LONG_TOKENS}, forward ratio {ratio:.2f}"
    )
    assert ratio <= 1.3


async def test_scopes_do_not_share_a_prefix(engine: Engine) -> None:
    name = type(engine).__name__
    scopes = (f"{name} tenant/a", f"{name} tenant/a", f"{name} tenant@b")
    cached = [
        (await complete(engine, Generation(FACTS, Sampling(1), cache_scope=scope))).cached_tokens
        for scope in scopes
    ]
    assert cached[0] == cached[2] == 0
    assert cached[1] > 0.8 * (await engine.count_prompt_tokens(FACTS))


async def test_alternatives_are_the_likeliest_even_against_the_odds(engine: Engine) -> None:
    assert engine.info.top_logprobs >= 19
    greedy = await complete(engine, Generation(STORY, Sampling(4, top_logprobs=3)))
    assert tuple(place[0] for place in greedy.top_logprobs) == greedy.logprobs
    assert "".join(texts[0] for texts in greedy.top_tokens) == greedy.text
    odd = await complete(engine, Generation(STORY, Sampling(6, 2.0, seed=4, top_logprobs=3)))
    assert odd.logprobs[0] < odd.top_logprobs[0][-1]  # the seed draws an unlikely first token
    assert odd.top_logprobs[0] == pytest.approx(greedy.top_logprobs[0], abs=1e-4)
    assert odd.top_tokens[0] == greedy.top_tokens[0]
    for place in (*greedy.top_logprobs, *odd.top_logprobs):
        assert len(place) == 3
        assert list(place) == sorted(place, reverse=True)
    most = await complete(engine, Generation(STORY, Sampling(1, top_logprobs=99)))
    assert len(most.top_logprobs[0]) == engine.info.top_logprobs


async def test_a_prompt_that_fills_the_context_exactly_is_an_overflow(engine: Engine) -> None:
    messages = await prompt_of(engine, CONTEXT, "Full:")
    with pytest.raises(ContextOverflow) as caught:
        await complete(engine, Generation(messages, Sampling(4)))
    assert caught.value.context_tokens == CONTEXT
    one_less = await prompt_of(engine, CONTEXT - 1, "Full:")
    assert (await complete(engine, Generation(one_less, Sampling(4)))).completion_tokens == 1


async def test_a_conversation_may_end_with_the_assistant_or_have_no_user(engine: Engine) -> None:
    for messages in (
        (Message("system", "You count."),),
        (*STORY, Message("assistant", "Once upon a time")),
    ):
        counted = await engine.count_prompt_tokens(messages)
        assert (await complete(engine, Generation(messages, Sampling(1)))).prompt_tokens == counted


async def freed_after_s(engine: VLLMEngine) -> float:
    """Seconds from closing four calls to when vLLM's core holds nothing of them."""
    samplings = [Sampling(400, temperature=1.0, seed=seed) for seed in range(4)]
    calls = [engine.generate(Generation(STORY, sampling)) for sampling in samplings]
    for call in calls:
        await anext(call)
    began = time.monotonic()
    for call in calls:
        await call.aclose()
    while not await engine._model._llm.reset_prefix_cache():  # type: ignore[union-attr]
        await asyncio.sleep(0)
    return time.monotonic() - began


async def test_closing_frees_the_core_within_half_a_second(native_engine: VLLMEngine) -> None:
    spent = [await freed_after_s(native_engine) for _ in range(3)]  # others may use this machine meanwhile
    print(f"four calls were off the core after {[round(each * 1000) for each in spent]} ms")
    assert min(spent) < CANCELLED_WITHIN_S
