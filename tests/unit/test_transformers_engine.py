"""The transformers engine on a tiny random model: exact counts, draws, limits, settings."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from backends.engines.base import Chunk, Completion, Generation, Message, Sampling
from backends.engines.build import build_engine
from backends.engines.config import TransformersConfig
from backends.engines.transformers.engine import TransformersEngine
from backends.errors import ContextOverflow, EngineProtocolError, EngineUnavailable, StrategyUnsupported
from tests.tiny_model import CONTEXT, save_tiny_model

pytestmark = pytest.mark.asyncio(loop_scope="module")


def asks(text: str) -> tuple[Message, ...]:
    """A prompt of `PROMPT_TOKENS` tokens, which no other test may have left in the cache."""
    return (Message("user", f"{text:.22}".ljust(22)),)


ASKED = asks("What is it that flows?")
PROMPT_TOKENS = len("<user>What is it that flows?\n<assistant>")
WHOLE_BLOCKS = (PROMPT_TOKENS - 1) // 16 * 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


def config_of(folder: Path, **fields: Any) -> TransformersConfig:
    plain = {"model": str(folder), "context_tokens": CONTEXT, "parallel": 4, "dtype": "float32"}
    return TransformersConfig.model_validate({**plain, "device": "cpu", **fields})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(folder: Path) -> AsyncIterator[TransformersEngine]:
    made = TransformersEngine(config_of(folder))
    await made.start()
    yield made
    await made.aclose()


async def complete(
    engine: TransformersEngine,
    sampling: Sampling,
    messages: tuple[Message, ...] = ASKED,
    prefix: str = "",
) -> Completion:
    async with aclosing(engine.generate(Generation(messages, sampling, prefix))) as items:
        *chunks, done = [item async for item in items]
    assert isinstance(done, Completion)
    assert "".join(chunk.text for chunk in chunks) == done.text
    return done


def own_logits(engine: TransformersEngine, tokens: list[int]) -> torch.Tensor:
    """What the model itself says after each of these tokens, without any cache."""
    assert engine._running is not None
    model = engine._running.loaded.model
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0].float()
    return logits


def spy_on_tokens(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The tokens of every output that reaches a reply, newest last."""
    from backends.engines.transformers.reply import Reply

    seen: list[list[int]] = []
    plain = Reply.take

    def take(self: Reply, generated: list[int]) -> str:
        seen.append(list(generated))
        return plain(self, generated)

    monkeypatch.setattr(Reply, "take", take)
    return seen


async def test_it_says_what_it_was_started_with(engine: TransformersEngine) -> None:
    info = engine.info
    assert (info.model, info.context_tokens, info.parallel) == ("tiny-llama", CONTEXT, 4)
    assert info.continues_prefix
    assert not info.seeds
    assert info.top_logprobs == 0
    assert info.settings == {
        "device": "cpu",
        "dtype": "float32",
        "quantization": "none",
        "attention": "sdpa",
        "prefix_caching": "on",
        "speculative_decoding": "off",
        "tensor_parallel_size": "1",
    }


async def test_every_forward_token_is_accounted_for(engine: TransformersEngine) -> None:
    messages, before = (Message("system", "Count."), Message("user", "All of it.")), engine.forward_tokens
    leader = await complete(engine, Sampling(5, temperature=1.0), messages)
    prompt_tokens = await engine.count_prompt_tokens(messages)
    assert (leader.prompt_tokens, leader.cached_tokens) == (prompt_tokens, 0)
    # The last token of a reply is never computed on.
    assert engine.forward_tokens - before == prompt_tokens + 5 - 1
    wave = await asyncio.gather(*(complete(engine, Sampling(5, temperature=1.0), messages) for _ in range(6)))
    whole_blocks = (prompt_tokens - 1) // 16 * 16
    assert {each.cached_tokens for each in wave} == {whole_blocks}
    assert engine.forward_tokens - before == prompt_tokens + 4 + 6 * (prompt_tokens - whole_blocks + 4)


async def test_followers_share_with_a_leader_that_is_still_generating(engine: TransformersEngine) -> None:
    messages = asks("Who is at work?")
    async with aclosing(engine.generate(Generation(messages, Sampling(150, temperature=1.0)))) as leader:
        assert isinstance(await anext(leader), Chunk)
        follower = await complete(engine, Sampling(2), messages)
    assert follower.cached_tokens == WHOLE_BLOCKS


async def test_a_slow_reader_misses_nothing(engine: TransformersEngine) -> None:
    quick = await complete(engine, Sampling(30))
    texts: list[str] = []
    async with aclosing(engine.generate(Generation(ASKED, Sampling(30)))) as items:
        async for item in items:
            if isinstance(item, Completion):
                assert item.text == "".join(texts) == quick.text
                assert item.completion_tokens == len(item.logprobs) == 30
            else:
                texts.append(item.text)
                while engine.active:  # the manager comes to its end while nobody reads
                    await asyncio.sleep(0)
    assert len(texts) < 30


async def test_prefixes_share_what_came_before_them(engine: TransformersEngine) -> None:
    first = await complete(engine, Sampling(4), prefix="It is a river. It flows to")
    longer = await complete(engine, Sampling(4), prefix="It is a river. It flows to the sea.")
    assert first.prompt_tokens == PROMPT_TOKENS + len("It is a river. It flows to")
    assert longer.cached_tokens == first.prompt_tokens // 16 * 16
    assert await engine.count_prompt_tokens(ASKED, "x\n ") == PROMPT_TOKENS + 3


async def test_nothing_is_shared_where_the_configuration_says_so(folder: Path) -> None:
    engine = TransformersEngine(config_of(folder, share_prefixes=False))
    await engine.start()
    try:
        assert engine.info.settings["prefix_caching"] == "off"
        wave = [await complete(engine, Sampling(3)) for _ in range(2)]
        assert [each.cached_tokens for each in wave] == [0, 0]
        assert engine.forward_tokens == 2 * (PROMPT_TOKENS + 2)
    finally:
        await engine.aclose()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(12), Sampling(12, temperature=0.4), Sampling(12, temperature=1.5, top_p=0.6)],
    ids=["greedy", "cold", "nucleus"],
)
async def test_logprobs_are_the_models_own(
    engine: TransformersEngine, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy_on_tokens(engine, monkeypatch)
    await complete(engine, Sampling(2))  # so that the prompt is served from the cache
    done = await complete(engine, sampling)
    prompt = [*engine._running.prompts._encode(ASKED, "")] if engine._running else []
    logits = own_logits(engine, prompt + seen[-1])[len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(seen[-1]).unsqueeze(1)).squeeze(1)
    assert list(done.logprobs) == pytest.approx(expected.tolist(), abs=1e-4)
    if sampling.temperature == 0:
        assert seen[-1] == logits.argmax(-1).tolist()


async def test_each_request_of_a_batch_is_drawn_as_it_asked(engine: TransformersEngine) -> None:
    alone = await complete(engine, Sampling(20))
    greedy, hot, narrow, cold = await asyncio.gather(
        complete(engine, Sampling(20)),
        complete(engine, Sampling(20, temperature=50.0)),
        complete(engine, Sampling(20, temperature=1.0, top_p=0.001)),
        complete(engine, Sampling(20, temperature=1e-4)),
    )
    assert greedy.text == narrow.text == cold.text == alone.text
    assert hot.text != alone.text
    assert sum(hot.logprobs) < sum(alone.logprobs)


async def test_draws_follow_the_models_distribution(engine: TransformersEngine) -> None:
    prompt = [*engine._running.prompts._encode(ASKED, "")] if engine._running else []
    expected = own_logits(engine, prompt)[-1].log_softmax(-1)
    draws = await asyncio.gather(*(complete(engine, Sampling(1, temperature=1.0)) for _ in range(300)))
    mean = sum(draw.logprobs[0] for draw in draws) / len(draws)
    entropy = -float((expected.exp() * expected).sum())
    variance = float((expected.exp() * (expected + entropy) ** 2).sum())
    assert mean == pytest.approx(-entropy, abs=5 * math.sqrt(variance / len(draws)))


async def test_a_seed_is_no_mistake_and_has_no_effect(engine: TransformersEngine) -> None:
    draws = [await complete(engine, Sampling(8, temperature=1.0, seed=7)) for _ in range(4)]
    assert len({draw.logprobs for draw in draws}) > 1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(4, top_logprobs=2),
        Sampling(4, temperature=-0.5),
        Sampling(4, temperature=math.nan),
        Sampling(4, temperature=math.inf),
        Sampling(4, top_p=1.5),
        Sampling(4, top_p=-0.1),
        Sampling(0),
    ],
)
async def test_what_it_cannot_draw_is_refused_before_anything_runs(
    engine: TransformersEngine, sampling: Sampling
) -> None:
    before = engine.forward_tokens
    with pytest.raises(StrategyUnsupported, match="transformers"):
        await complete(engine, sampling)
    assert engine.forward_tokens == before
    assert await engine.healthy()


async def test_extreme_draws_do_no_harm(engine: TransformersEngine) -> None:
    for sampling in (Sampling(3, temperature=1e-38), Sampling(3, temperature=1e30), Sampling(3, top_p=0.0)):
        assert (await complete(engine, sampling)).completion_tokens == 3
    assert await engine.healthy()


async def test_a_prompt_too_long_is_refused_before_anything_runs(engine: TransformersEngine) -> None:
    messages, before = (Message("user", "x" * CONTEXT),), engine.forward_tokens
    with pytest.raises(ContextOverflow) as caught:
        await complete(engine, Sampling(1), messages)
    assert caught.value.prompt_tokens == await engine.count_prompt_tokens(messages)
    assert caught.value.context_tokens == CONTEXT
    assert engine.forward_tokens == before


async def test_a_completion_fills_the_context_and_no_more(engine: TransformersEngine) -> None:
    messages = (Message("user", "x" * (CONTEXT - 30)),)
    done = await complete(engine, Sampling(500, temperature=1.0), messages)
    assert done.prompt_tokens + done.completion_tokens == CONTEXT
    assert done.finish == "length"


async def test_tokens_behind_a_stop_string_are_counted(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy_on_tokens(engine, monkeypatch)
    full = await complete(engine, Sampling(60))
    stop = next(letter for letter in full.text[3:] if letter.isascii() and letter not in full.text[:3])
    before = engine.forward_tokens
    done = await complete(engine, Sampling(60, stop=(stop,)))
    assert done.text == full.text[: full.text.index(stop)]
    assert (done.finish, done.stop_string) == ("stop", stop)
    assert done.completion_tokens == len(seen[-1]) == len(done.logprobs)
    # All that was computed is in the counts; the last token is never computed on.
    assert engine.forward_tokens - before == done.prompt_tokens - done.cached_tokens + len(seen[-1]) - 1
    assert engine.active == 0


async def test_replies_of_random_bytes_are_text(engine: TransformersEngine) -> None:
    draws = [complete(engine, Sampling(80, temperature=3.0)) for _ in range(4)]
    for done in await asyncio.gather(*draws):
        done.text.encode("utf-8")
        assert not done.text.endswith("\ufffd")
        assert done.completion_tokens == len(done.logprobs) == 80


async def test_without_logprobs_none_are_told(folder: Path) -> None:
    engine = TransformersEngine(config_of(folder, logprobs=False))
    await engine.start()
    try:
        first, second = [await complete(engine, Sampling(6)) for _ in range(2)]
        assert first.text == second.text
        assert first.logprobs == ()
        assert not engine.info.logprobs
    finally:
        await engine.aclose()


async def test_bfloat16_greedy_replies_do_not_change_with_ties(folder: Path) -> None:
    engine = TransformersEngine(config_of(folder, dtype="bfloat16", share_prefixes=False))
    await engine.start()
    try:
        replies = [await complete(engine, Sampling(60)) for _ in range(4)]
        assert len({reply.logprobs for reply in replies}) == 1
    finally:
        await engine.aclose()


async def test_a_template_that_refuses_is_a_protocol_error(engine: TransformersEngine) -> None:
    with pytest.raises(EngineProtocolError, match="system comes first"):
        await complete(engine, Sampling(2), (*ASKED, Message("system", "Be brief.")))
    assert await engine.healthy()


async def test_more_requests_than_blocks_all_end(folder: Path) -> None:
    engine = TransformersEngine(config_of(folder, cache_blocks=CONTEXT // 16 + 2))
    await engine.start()
    try:
        wave = [complete(engine, Sampling(120, temperature=1.0)) for _ in range(6)]
        for done in await asyncio.gather(*wave):
            assert (done.prompt_tokens, done.completion_tokens) == (PROMPT_TOKENS, 120)
            assert len(done.logprobs) == 120
    finally:
        await engine.aclose()


async def test_starting_twice_and_closing_twice_is_fine(folder: Path) -> None:
    engine = build_engine(config_of(folder))
    assert isinstance(engine, TransformersEngine)
    await engine.start()
    await engine.start()
    await engine.aclose()
    await engine.aclose()
    assert not await engine.healthy()
    with pytest.raises(EngineUnavailable):
        await engine.count_prompt_tokens(ASKED)
