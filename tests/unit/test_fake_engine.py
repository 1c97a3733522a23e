"""What only the fake can do: scripts, failures, delays, records. The rest is in the engine contract."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.engines.base import Chunk, Completion, Generation, Message, Sampling
from backends.engines.fake import FakeAnswer, FakeConfig, FakeEngine, FakeFailure, tokenize
from backends.errors import ContextOverflow, EngineProtocolError, EngineUnavailable, StrategyUnsupported

QUESTION = (Message("user", "What is two plus three?"),)
ANSWERS = {"two plus three": (FakeAnswer(text="Answer: 5", weight=3), FakeAnswer(text="Answer: 6", weight=1))}


async def started(config: FakeConfig | None = None, **options: object) -> FakeEngine:
    engine = FakeEngine(config, **options)  # type: ignore[arg-type]
    await engine.start()
    return engine


async def run(
    engine: FakeEngine,
    messages: tuple[Message, ...] = QUESTION,
    sampling: Sampling | None = None,
    prefix: str = "",
    cache_scope: str = "",
) -> tuple[list[Chunk], Completion]:
    generation = Generation(messages, sampling or Sampling(64), prefix, cache_scope)
    async with aclosing(engine.generate(generation)) as items:
        *chunks, done = [item async for item in items]
    assert isinstance(done, Completion)
    return chunks, done  # type: ignore[return-value]


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    pieces = tokenize(text)
    assert "".join(pieces) == text
    assert all(pieces)
    assert all(piece == "\n" for piece in pieces if "\n" in piece)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("one two", ["one", " two"]),
        ("a\n\nb ", ["a", "\n", "\n", "b", " "]),
        ("  x\ty", ["  x", "\ty"]),
    ],
)
def test_tokens_are_words_newlines_and_blanks(text: str, pieces: list[str]) -> None:
    assert tokenize(text) == pieces


async def test_greedy_takes_the_most_likely_answer() -> None:
    engine = await started(FakeConfig(answers=ANSWERS))
    for seed in (None, 1, 2):
        _, done = await run(engine, sampling=Sampling(64, seed=seed))
        assert done.text == "Answer: 5"


async def test_sampling_follows_the_weights() -> None:
    engine = await started(FakeConfig(answers=ANSWERS))
    texts = [(await run(engine, sampling=Sampling(8, temperature=0.7, seed=n)))[1].text for n in range(200)]
    assert 130 <= texts.count("Answer: 5") <= 170
    assert set(texts) == {"Answer: 5", "Answer: 6"}


async def test_unseeded_draws_differ_and_a_second_engine_repeats_them() -> None:
    first, second = [
        [(await run(engine, sampling=Sampling(8, temperature=0.7)))[1].text for _ in range(20)]
        for engine in (await started(FakeConfig(answers=ANSWERS)), await started(FakeConfig(answers=ANSWERS)))
    ]
    assert first == second
    assert len(set(first)) == 2


async def test_the_first_part_found_in_the_last_message_decides() -> None:
    answers = {"correct?": (FakeAnswer(text="True"),), "plus": (FakeAnswer(text="5"),)}
    engine = await started(FakeConfig(answers=answers))
    assert (await run(engine))[1].text == "5"
    asked = (*QUESTION, Message("assistant", "5"), Message("user", "Is 2 plus 3 = 5 correct?"))
    assert (await run(engine, asked))[1].text == "True"


async def test_unscripted_questions_get_a_number_of_their_own() -> None:
    engine = await started()
    texts = {(await run(engine, (Message("user", f"question {n}"),)))[1].text for n in range(10)}
    assert len(texts) > 5
    assert all("\nAnswer: " in text for text in texts)


async def test_a_script_may_be_a_function_of_the_call() -> None:
    def script(generation: Generation, rng: random.Random) -> str:
        return f"{len(generation.messages)} {rng.randrange(1000)}"

    engine = await started(script=script)
    sampling = Sampling(8, temperature=1.0, seed=4)
    _, first = await run(engine, sampling=sampling)
    _, again = await run(engine, sampling=sampling)
    _, other = await run(engine, sampling=Sampling(8, temperature=1.0, seed=5))
    assert first.text == again.text != other.text
    assert first.text.startswith("1 ")


async def test_logprobs_tell_the_share_of_the_answer() -> None:
    engine = await started(FakeConfig(answers=ANSWERS))
    _, done = await run(engine)
    assert done.logprobs == (math.log(0.75),) * 2
    _, silent = await run(await started(FakeConfig(answers=ANSWERS, logprobs=False)))
    assert silent.logprobs == ()


async def test_counts_are_those_of_the_tokens() -> None:
    engine = await started(FakeConfig(answers={"": (FakeAnswer(text="one two\nthree four"),)}))
    _, done = await run(engine)
    assert done.completion_tokens == 5
    # <user> \n What is two plus three? \n <assistant> \n
    assert done.prompt_tokens == 10 == await engine.count_prompt_tokens(QUESTION)
    assert (await run(engine, sampling=Sampling(3)))[1] == Completion(
        text="one two\n",
        finish="length",
        prompt_tokens=10,
        completion_tokens=3,
        cached_tokens=9,
        logprobs=(0.0,) * 3,
    )
    assert (await run(engine, sampling=Sampling(5)))[1].finish == "stop"


@pytest.mark.parametrize(
    ("stop", "text", "tokens", "named"),
    [
        (("\n",), "one two", 3, "\n"),
        (("four", "two"), "one ", 2, "two"),
        (("o\nth",), "one tw", 4, "o\nth"),  # a stop string may span tokens and begin inside one
        (("nine",), "one two\nthree four", 5, None),
        (("one",), "", 1, "one"),
    ],
)
async def test_stop_strings(stop: tuple[str, ...], text: str, tokens: int, named: str | None) -> None:
    for delay in (0.0, 1e-6):
        config = FakeConfig(token_delay_s=delay, answers={"": (FakeAnswer(text="one two\nthree four"),)})
        chunks, done = await run(await started(config), sampling=Sampling(64, stop=stop))
        assert (done.text, done.completion_tokens, done.stop_string) == (text, tokens, named)
        assert "".join(chunk.text for chunk in chunks) == text
        assert done.finish == "stop"


async def test_a_stop_string_behind_max_tokens_is_not_reached() -> None:
    engine = await started(FakeConfig(answers={"": (FakeAnswer(text="one two three"),)}))
    _, done = await run(engine, sampling=Sampling(2, stop=("three",)))
    assert (done.text, done.finish, done.stop_string) == ("one two", "length", None)


async def test_without_delay_a_completion_is_one_chunk_and_with_it_one_a_token() -> None:
    answers = {"": (FakeAnswer(text="one two three"),)}
    whole, _ = await run(await started(FakeConfig(answers=answers)))
    assert whole == [Chunk("one two three", 3)]
    single, _ = await run(await started(FakeConfig(answers=answers, token_delay_s=1e-6)))
    assert single == [Chunk("one", 1), Chunk(" two", 2), Chunk(" three", 3)]


async def test_an_empty_answer_is_one_end_token() -> None:
    chunks, done = await run(await started(FakeConfig(answers={"": (FakeAnswer(text=""),)})))
    assert chunks == []
    assert (done.text, done.completion_tokens, done.finish) == ("", 1, "stop")


async def test_a_prefix_selects_the_answers_that_begin_with_it() -> None:
    steps = tuple(FakeAnswer(text=text) for text in ("A\nB\nC", "A\nX\nY", "Z\n"))
    engine = await started(FakeConfig(answers={"": steps}))
    texts = {
        (await run(engine, sampling=Sampling(8, temperature=1.0, seed=n, stop=("\n",)), prefix="A\n"))[1].text
        for n in range(30)
    }
    assert texts == {"B", "X"}
    assert (await run(engine, prefix="else "))[1].text in {step.text for step in steps}


async def test_an_engine_may_be_unable_to_continue() -> None:
    engine = await started(FakeConfig(continues_prefix=False))
    assert not engine.info.continues_prefix
    with pytest.raises(StrategyUnsupported):
        await run(engine, prefix="A")


async def test_the_prefix_cache_is_counted_per_scope() -> None:
    engine = await started(FakeConfig(answers={"": (FakeAnswer(text="A B C D"),)}))
    assert (await run(engine, cache_scope="a"))[1].cached_tokens == 0
    assert (await run(engine, cache_scope="a"))[1].cached_tokens == 9
    assert (await run(engine, cache_scope="b"))[1].cached_tokens == 0
    # "A B" was generated before, so it is cached too; one token is always computed.
    _, done = await run(engine, prefix="A B", cache_scope="a")
    assert (done.prompt_tokens, done.cached_tokens) == (12, 11)
    _, done = await run(engine, prefix="A X Y", cache_scope="b")
    assert (done.prompt_tokens, done.cached_tokens) == (13, 11)


async def test_a_prompt_that_fills_the_context_overflows() -> None:
    engine = await started(FakeConfig(context_tokens=12))
    long = (Message("user", "w " * 12),)
    with pytest.raises(ContextOverflow) as caught:
        await run(engine, long)
    assert (caught.value.prompt_tokens, caught.value.context_tokens) == (
        await engine.count_prompt_tokens(long),
        12,
    )
    _, done = await run(engine, sampling=Sampling(64))
    assert done.prompt_tokens + done.completion_tokens == 12
    assert done.finish == "length"


@pytest.mark.parametrize(
    ("kind", "error"),
    [("unavailable", EngineUnavailable), ("protocol", EngineProtocolError), ("empty", EngineProtocolError)],
)
@pytest.mark.parametrize("delay", [0.0, 1e-6])
async def test_failures_come_after_some_tokens(kind: str, error: type[Exception], delay: float) -> None:
    fail = FakeFailure.model_validate({"kind": kind, "after_tokens": 2})
    engine = await started(
        FakeConfig(fail=fail, token_delay_s=delay, answers={"": (FakeAnswer(text="one two three"),)})
    )
    seen: list[Chunk | Completion] = []

    async def listen() -> None:
        async for item in engine.generate(Generation(QUESTION, Sampling(64))):
            seen.append(item)

    with pytest.raises(error):
        await listen()
    text = "".join(item.text for item in seen)
    assert text == ("" if kind == "empty" else "one two")
    assert engine.calls[-1].outcome == "failed"
    assert engine.calls[-1].completion_tokens == (0 if kind == "empty" else 2)
    assert engine.active == 0


async def test_a_failure_may_pass_and_may_be_set_later() -> None:
    engine = await started(FakeConfig(fail=FakeFailure(kind="unavailable", times=2)))
    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            await run(engine)
    await run(engine)
    engine.failure = FakeFailure(kind="protocol")
    for _ in range(3):
        with pytest.raises(EngineProtocolError):
            await run(engine)
    engine.failure = None
    await run(engine)
    assert [call.outcome for call in engine.calls] == ["failed"] * 2 + ["done"] + ["failed"] * 3 + ["done"]


async def test_a_hang_ends_only_by_cancelling() -> None:
    engine = await started(FakeConfig(fail=FakeFailure(kind="hang", after_tokens=1)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await run(engine)
    assert engine.calls[-1].outcome == "cancelled"
    assert engine.calls[-1].completion_tokens == 1
    assert engine.active == 0


async def test_wrong_usage_counts_fewer_tokens_than_were_sent() -> None:
    engine = await started(FakeConfig(fail=FakeFailure(kind="wrong_usage")))
    chunks, done = await run(engine)
    assert done.completion_tokens < chunks[-1].completion_tokens


async def test_a_closed_iterator_is_a_cancelled_call() -> None:
    engine = await started(FakeConfig(token_delay_s=1e-6))
    items = engine.generate(Generation(QUESTION, Sampling(64)))
    await anext(items)
    assert (engine.active, engine.calls[-1].outcome) == (1, "running")
    await items.aclose()
    assert (engine.active, engine.calls[-1].outcome) == (0, "cancelled")
    assert engine.calls[-1].completion_tokens == 1


async def test_calls_beyond_parallel_wait() -> None:
    engine = await started(FakeConfig(parallel=2, fail=FakeFailure(kind="hang")))
    tasks = [asyncio.create_task(run(engine)) for _ in range(5)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert engine.active == 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    engine.failure = None
    await run(engine)


async def test_records_are_bounded_and_hold_the_call() -> None:
    engine = await started()
    for n in range(1005):
        await run(engine, (Message("user", str(n)),))
    assert len(engine.calls) == 1000
    assert engine.calls[-1].generation.messages[0].content == "1004"
    assert engine.calls[-1].prompt_tokens == 6


async def test_it_serves_only_between_start_and_aclose() -> None:
    engine = FakeEngine(FakeConfig(token_delay_s=1e-6))
    assert not await engine.healthy()
    await engine.start()
    assert await engine.healthy()
    items = engine.generate(Generation(QUESTION, Sampling(64)))
    await anext(items)
    await engine.aclose()
    assert not await engine.healthy()
    with pytest.raises(EngineUnavailable):
        await anext(items)
    assert engine.calls[-1].outcome == "failed"
    with pytest.raises(EngineUnavailable):
        await engine.count_prompt_tokens(QUESTION)


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_delay_s": -1},
        {"context_tokens": 0},
        {"fail": {"kind": "explode"}},
        {"answers": {"x": [{"text": "y", "weight": 0}]}},
        {"colour": "red"},
    ],
)
def test_wrong_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FakeConfig.model_validate(wrong)
