"""One suite over every engine of `tests/engine_subjects.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest
import pytest_asyncio

from backends.engines.base import Chunk, Completion, Engine, Generation, Message, Sampling
from backends.engines.openai_http import OpenAIHTTPEngine
from backends.errors import ContextOverflow, EngineUnavailable
from tests.engine_subjects import CONTEXT, KEY_VARIABLE, PARALLEL, SUBJECTS, Subject

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORY = (Message("user", "Tell me a long story about a river and the town beside it."),)
COUNT = (Message("system", "You count."), Message("user", "Count from one to ten in words."))
FACTS = (Message("user", " ".join(f"Fact {n} is about the number {n * 7}." for n in range(20)) + " Go on."),)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=list(SUBJECTS))
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async for made in SUBJECTS[request.param]():
        yield made


async def collect(engine: Engine, generation: Generation) -> tuple[list[Chunk], Completion]:
    async with aclosing(engine.generate(generation)) as items:
        *chunks, last = [item async for item in items]
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert isinstance(last, Completion)
    return chunks, last


async def complete(
    engine: Engine, messages: tuple[Message, ...], sampling: Sampling, prefix: str = ""
) -> Completion:
    return (await collect(engine, Generation(messages, sampling, prefix)))[1]


async def becomes(subject: Subject, busy: bool) -> None:
    async with asyncio.timeout(30):
        while bool(await subject.busy()) is not busy:
            await asyncio.sleep(0.005)


async def test_it_is_an_engine_and_says_what_it_is(subject: Subject) -> None:
    assert isinstance(subject.engine, Engine)
    info = subject.engine.info
    assert info.model
    assert info.context_tokens == CONTEXT
    assert info.parallel == PARALLEL
    assert await subject.engine.healthy()


async def test_chunks_join_to_the_completion_and_count_upwards(subject: Subject) -> None:
    chunks, done = await collect(subject.engine, Generation(STORY, Sampling(12)))
    assert "".join(chunk.text for chunk in chunks) == done.text
    counts = [chunk.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] <= done.completion_tokens


async def test_max_tokens_is_respected_and_told(subject: Subject) -> None:
    for limit in (1, 5):
        done = await complete(subject.engine, STORY, Sampling(limit))
        assert done.completion_tokens == limit
        assert done.finish == "length"
        assert done.stop_string is None


async def test_prompt_counts_are_exact_or_a_bound(subject: Subject) -> None:
    for messages in (
        STORY,
        COUNT,
        (*COUNT, Message("assistant", "one, two"), Message("user", "Go on: é日本🚀")),
    ):
        counted = await subject.engine.count_prompt_tokens(messages)
        done = await complete(subject.engine, messages, Sampling(1))
        assert 0 <= done.cached_tokens < done.prompt_tokens
        if subject.engine.info.exact_prompt_count:
            assert counted == done.prompt_tokens
        else:
            assert counted >= done.prompt_tokens


async def test_greedy_is_deterministic(subject: Subject) -> None:
    first, second = [await complete(subject.engine, COUNT, Sampling(12)) for _ in range(2)]
    assert first.text == second.text
    assert first.completion_tokens == second.completion_tokens


async def test_a_seed_repeats_a_draw_and_other_seeds_differ(subject: Subject) -> None:
    if not subject.engine.info.seeds:
        pytest.skip("no seeds")
    draws = [
        await complete(subject.engine, STORY, Sampling(8, temperature=1.0, seed=seed))
        for seed in (1, 2, 3, 4, 5, 1)
    ]
    assert draws[0].text == draws[-1].text
    assert len({draw.text for draw in draws}) > 1


async def test_any_seed_is_accepted(subject: Subject) -> None:
    for seed in (0, 2**32 - 1, 2**53):
        done = await complete(subject.engine, STORY, Sampling(2, temperature=0.5, seed=seed))
        assert done.completion_tokens == 2


async def test_a_stop_string_ends_the_text_and_is_not_in_it(subject: Subject) -> None:
    full = await complete(subject.engine, STORY, Sampling(20))
    stop = full.text.split()[3]
    done = await complete(subject.engine, STORY, Sampling(20, stop=("never said", stop)))
    assert stop not in done.text
    assert full.text.startswith(done.text)
    assert full.text[len(done.text) :].startswith(stop)
    assert done.finish == "stop"
    assert done.completion_tokens < full.completion_tokens
    if subject.names_stop:
        assert done.stop_string == stop


async def test_chunks_never_show_the_stop_string(subject: Subject) -> None:
    full = await complete(subject.engine, STORY, Sampling(20))
    stop = " ".join(full.text.split()[3:6])
    chunks, done = await collect(subject.engine, Generation(STORY, Sampling(20, stop=(stop,))))
    assert "".join(chunk.text for chunk in chunks) == done.text
    assert stop not in done.text


async def test_a_prefix_is_continued_not_repeated(subject: Subject) -> None:
    if not subject.engine.info.continues_prefix:
        pytest.skip("cannot continue a prefix")
    _, full = await collect(subject.engine, Generation(STORY, Sampling(12)))
    prefix = full.text[: len(full.text) // 2].rsplit(" ", 1)[0]
    assert prefix
    done = await complete(subject.engine, STORY, Sampling(4), prefix)
    assert full.text.startswith(prefix + done.text)
    assert done.prompt_tokens == await subject.engine.count_prompt_tokens(STORY, prefix)
    assert done.prompt_tokens > await subject.engine.count_prompt_tokens(STORY)


async def test_a_prefix_keeps_its_white_space(subject: Subject) -> None:
    if not subject.engine.info.continues_prefix:
        pytest.skip("cannot continue a prefix")
    plain = await subject.engine.count_prompt_tokens(STORY, "Step one.")
    ended = await subject.engine.count_prompt_tokens(STORY, "Step one.\n")
    assert ended == plain + 1
    done = await complete(subject.engine, STORY, Sampling(2), "Step one.\n")
    assert done.prompt_tokens == ended


async def test_logprobs_come_one_a_token_or_not_at_all(subject: Subject) -> None:
    for sampling in (Sampling(6), Sampling(6, temperature=0.9, seed=3), Sampling(20, stop=("the", "a"))):
        done = await complete(subject.engine, STORY, sampling)
        if subject.engine.info.logprobs:
            assert len(done.logprobs) == done.completion_tokens
            assert all(logprob <= 0 for logprob in done.logprobs)
        else:
            assert done.logprobs == ()


async def test_an_identical_prompt_is_served_from_the_cache(subject: Subject) -> None:
    if not subject.keeps_prompts:
        pytest.skip("this engine computes every prompt anew")
    first = await complete(subject.engine, FACTS, Sampling(2))
    second = await complete(subject.engine, FACTS, Sampling(2, temperature=1.0, seed=9))
    assert first.prompt_tokens == second.prompt_tokens
    assert second.cached_tokens >= 0.9 * second.prompt_tokens


async def test_followers_of_one_prompt_compute_it_once(subject: Subject) -> None:
    if not subject.shares_prefill:
        pytest.skip("this server keeps each slot's prompt to itself")
    messages = (Message("user", "A prompt seen here alone. " + FACTS[0].content),)
    leader = await complete(subject.engine, messages, Sampling(2, temperature=1.0, seed=0))
    assert leader.cached_tokens < leader.prompt_tokens / 2
    wave = [complete(subject.engine, messages, Sampling(2, temperature=1.0, seed=n)) for n in range(1, 7)]
    for follower in await asyncio.gather(*wave):
        assert follower.cached_tokens >= 0.9 * follower.prompt_tokens


async def test_more_calls_than_slots_all_end(subject: Subject) -> None:
    wave = [
        complete(subject.engine, COUNT, Sampling(4, temperature=0.8, seed=n)) for n in range(PARALLEL + 3)
    ]
    done = await asyncio.gather(*wave)
    assert all(1 <= each.completion_tokens <= 4 for each in done)
    assert len({each.prompt_tokens for each in done}) == 1


async def test_closing_the_iterator_stops_the_work(subject: Subject) -> None:
    items = subject.engine.generate(Generation(STORY, Sampling(900, temperature=1.0, seed=1)))
    assert isinstance(await anext(items), Chunk)
    assert await subject.busy() == 1
    await items.aclose()
    await becomes(subject, busy=False)


async def test_cancelling_the_task_stops_the_work(subject: Subject) -> None:
    started = asyncio.Event()

    async def run() -> None:
        async for _ in subject.engine.generate(Generation(STORY, Sampling(900, temperature=1.0, seed=1))):
            started.set()

    task = asyncio.create_task(run())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await becomes(subject, busy=False)


async def test_cancelled_calls_leave_room_for_others(subject: Subject) -> None:
    many = [
        asyncio.create_task(complete(subject.engine, STORY, Sampling(900, temperature=1.0, seed=seed)))
        for seed in range(PARALLEL + 2)
    ]
    await becomes(subject, busy=True)
    for task in many:
        task.cancel()
    ended = await asyncio.gather(*many, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError | Completion) for result in ended)
    async with asyncio.timeout(30):
        assert (await complete(subject.engine, COUNT, Sampling(2))).completion_tokens == 2


async def test_a_prompt_too_long_is_a_context_overflow(subject: Subject) -> None:
    messages = (Message("user", "river " * (CONTEXT + 10)),)
    with pytest.raises(ContextOverflow) as caught:
        await complete(subject.engine, messages, Sampling(4))
    assert caught.value.prompt_tokens >= CONTEXT
    assert caught.value.context_tokens == CONTEXT
    assert await subject.engine.healthy()


async def test_a_completion_ends_where_the_context_does(subject: Subject) -> None:
    overhead = await subject.engine.count_prompt_tokens((Message("user", "river"),))
    messages = (Message("user", "river" + " river" * (CONTEXT - overhead - 8)),)
    counted = await subject.engine.count_prompt_tokens(messages)
    assert CONTEXT - 24 <= counted < CONTEXT
    done = await complete(subject.engine, messages, Sampling(64, temperature=1.5, seed=1))
    assert done.prompt_tokens + done.completion_tokens <= CONTEXT + 1


async def test_text_of_any_script_survives(subject: Subject) -> None:
    messages = (Message("user", "Repeat exactly: 日本語 😀 \u2028 naïve"),)
    chunks, done = await collect(subject.engine, Generation(messages, Sampling(24, temperature=1.2, seed=5)))
    assert "".join(chunk.text for chunk in chunks) == done.text
    done.text.encode("utf-8")


async def test_an_engine_that_is_not_there_is_unavailable(subject: Subject) -> None:
    dead = subject.dead()
    assert not await dead.healthy()
    with pytest.raises(EngineUnavailable):
        await complete(dead, STORY, Sampling(2))
    with pytest.raises(EngineUnavailable):
        await dead.count_prompt_tokens(COUNT)


async def test_an_engine_that_was_closed_is_unavailable(subject: Subject) -> None:
    closed = subject.dead()
    if subject.quick_start:
        await closed.start()
    await closed.aclose()
    await closed.aclose()
    assert not await closed.healthy()
    with pytest.raises(EngineUnavailable):
        await complete(closed, STORY, Sampling(2))


async def test_a_server_that_refuses_the_connection_is_unavailable(subject: Subject) -> None:
    if not isinstance(subject.engine, OpenAIHTTPEngine):
        pytest.skip("only where there is a network between")
    gone = subject.dead()
    await gone.start()
    assert not await gone.healthy()
    with pytest.raises(EngineUnavailable):
        await complete(gone, STORY, Sampling(2))
    await gone.aclose()


async def test_a_wrong_key_is_refused(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(subject.engine, OpenAIHTTPEngine):
        pytest.skip("only where there is a key")
    monkeypatch.setenv(KEY_VARIABLE, "not the key")
    stranger = OpenAIHTTPEngine(subject.engine.config)
    await stranger.start()
    with pytest.raises(EngineUnavailable, match="api_key_env"):
        await complete(stranger, STORY, Sampling(2))
    await stranger.aclose()


async def test_generations_are_values(subject: Subject) -> None:
    generation = Generation(STORY, Sampling(3))
    _, first = await collect(subject.engine, generation)
    _, second = await collect(subject.engine, replace(generation))
    assert first.text == second.text
