"""OpenAI's rate limit headers as its client sees them: limits on a real server, the whole application."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from redis.asyncio import Redis

from policies.keys import hash_key
from policies.limits import RedisLimits
from policies.store import connect
from router.http.app import create_app
from tests.service import KEY, POLICY, TestService, start_service

DURATION = re.compile(r"(\d+h)?(\d+m)?\d+(\.\d+)?s|\d+ms")
ASK = {"model": "auto", "messages": [{"role": "user", "content": "3 + 4?"}], "max_completion_tokens": 64}


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url, connect_timeout_s=30.0, command_timeout_s=30.0, pool_timeout_s=30.0)
    yield client
    await client.aclose()


async def served(client: Redis, of_tenant: str, of_key: str = "{}") -> tuple[TestService, openai.AsyncOpenAI]:
    tenant = "t" + secrets.token_hex(6)
    policy = (
        POLICY.replace("  acme:", f"  {tenant}:")
        .replace("    default_effort: high", f"    limits: {of_tenant}\n    default_effort: high")
        .replace(f"sha256: {hash_key(KEY)}", f"sha256: {hash_key(KEY)}, limits: {of_key}")
    )
    service = await start_service(policy=policy, limits=RedisLimits(client))
    http = httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(service.pipeline)), base_url="http://test"
    )
    return service, openai.AsyncOpenAI(
        api_key=KEY, base_url="http://test/v1", http_client=http, max_retries=0
    )


async def ended(service: TestService) -> None:
    while service.pipeline._background._tasks:
        await asyncio.sleep(0.01)


async def test_they_move_and_the_refusal_tells_the_time(client: Redis) -> None:
    service, sdk = await served(client, "{requests_per_minute: 3, tokens_per_minute: 100000}")
    left = []
    for _ in range(3):
        reply = await sdk.chat.completions.with_raw_response.create(**ASK)  # type: ignore[call-overload]
        headers = reply.headers
        left.append(int(headers["x-ratelimit-remaining-requests"]))
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-limit-tokens"] == "100000"
        for what in ("requests", "tokens"):
            assert DURATION.fullmatch(headers[f"x-ratelimit-reset-{what}"])
        await ended(service)
    assert left[0] == 2
    assert left == sorted(left, reverse=True)

    async def too_many() -> None:
        for _ in range(4):  # on a slow machine a request may have come back meanwhile
            await sdk.chat.completions.create(**ASK)  # type: ignore[call-overload]

    with pytest.raises(openai.RateLimitError) as refused:
        await too_many()
    headers = refused.value.response.headers
    assert refused.value.code == "rate_limit_exceeded"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-should-retry"] == "true"
    assert 0 < int(headers["retry-after-ms"]) <= 20_000
    assert int(headers["retry-after"]) == -(-int(headers["retry-after-ms"]) // 1000)


async def test_the_tokens_left_are_those_that_were_not_charged(client: Redis) -> None:
    """A limit that gives back one token a second, so that what was charged shows."""
    service, sdk = await served(client, "{tokens_per_minute: 6000}")
    first = await sdk.chat.completions.with_raw_response.create(**ASK)  # type: ignore[call-overload]
    charged = first.parse().usage.total_tokens
    estimated = 6000 - int(first.headers["x-ratelimit-remaining-tokens"])
    assert estimated > charged
    await ended(service)
    second = await sdk.chat.completions.with_raw_response.create(**ASK)  # type: ignore[call-overload]
    assert int(second.headers["x-ratelimit-remaining-tokens"]) >= 6000 - estimated - charged


async def test_streams_have_them_too_and_the_key_may_be_the_tighter(client: Redis) -> None:
    service, sdk = await served(
        client, "{requests_per_minute: 100, tokens_per_minute: 5000}", "{requests_per_minute: 10}"
    )
    stream = await sdk.chat.completions.with_raw_response.create(**ASK, stream=True)  # type: ignore[call-overload]
    assert stream.headers["x-ratelimit-limit-requests"] == "10"
    assert stream.headers["x-ratelimit-remaining-requests"] == "9"
    assert stream.headers["x-ratelimit-limit-tokens"] == "5000"
    async for _ in stream.parse():
        pass
    await ended(service)


async def test_tenants_without_limits_are_told_of_none(client: Redis) -> None:
    _, sdk = await served(client, "{}")
    reply = await sdk.chat.completions.with_raw_response.create(**ASK)  # type: ignore[call-overload]
    assert not [name for name in reply.headers if name.startswith("x-ratelimit")]
