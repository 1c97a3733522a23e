"""The HTTP contract, over the whole application and a scripted service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator

from backends.task import Progress, Spend, TextDelta
from router.cache import as_hit
from router.errors import Overloaded, QuotaExhausted, RateLimited, TierNotAllowed, UpstreamFailed
from router.http import examples
from router.http.app import create_app
from router.http.frames import Frames
from router.http.settings import HttpSettings
from router.idempotency import MemoryIdempotency
from router.request import Choice, ReplyStream
from tests.fakes_http import (
    DELTAS,
    HEAD,
    KEY,
    LIMITS,
    REPLY,
    Exchange,
    ScriptedEvents,
    ScriptedService,
    replace,
)

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "2 + 2?"}]}
SETTINGS = HttpSettings(first_event_s=0.02, heartbeat_s=0.02, coalesce_s=0.01)


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
async def client(service: ScriptedService) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service, settings=SETTINGS))
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        yield client


@pytest.fixture
async def sdk(client: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=KEY, base_url="http://test/v1", http_client=client, max_retries=0)


def check_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code
    assert response.headers["x-request-id"]
    assert response.headers["x-should-retry"] in ("true", "false")
    return dict(body["error"])


# --- the reply


async def test_a_reply(client: httpx.AsyncClient):
    response = await client.post(CHAT, json=BODY)
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "2 + 2 is 4", "refusal": None}
    assert body["usage"]["total_tokens"] == body["usage"]["compute"]["charged_tokens"] == 100
    assert body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"] == 100
    headers = response.headers
    names = "schema-version tier strategy samples stop-reason confidence cache degraded policy decision-id"
    for name in [*names.split(), "overhead-ms", "budget-remaining"]:
        assert headers[f"x-acr-{name}"]
    for name in ("limit", "remaining", "reset"):
        assert headers[f"x-ratelimit-{name}-requests"]
        assert headers[f"x-ratelimit-{name}-tokens"]
    assert int(headers["content-length"]) == len(response.content)


async def test_a_cache_hit_says_what_it_costs(client: httpx.AsyncClient, service: ScriptedService):
    service.reply = as_hit(REPLY, charged_tokens=7)
    response = await client.post(CHAT, json=BODY)
    usage = response.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (0, 0, 7)
    assert usage["compute"]["saved_tokens"] == 100
    assert response.headers["x-acr-cache"] == "hit"


async def test_the_request_id_is_echoed_or_made(client: httpx.AsyncClient, service: ScriptedService):
    response = await client.post(CHAT, json=BODY, headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert service.seen[0].request_id == "mine-1"
    response = await client.post(CHAT, json=BODY, headers={"x-request-id": "no good"})
    assert response.headers["x-request-id"].startswith("req_")
    assert service.seen[1].request_id == response.headers["x-request-id"]


async def test_headers_become_part_of_the_request(client: httpx.AsyncClient, service: ScriptedService):
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"cache-control": "no-store", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    await client.post(CHAT, json=BODY, headers=headers)
    assert (service.seen[0].cache_mode, service.seen[0].trace_id) == ("no-store", trace)


async def test_explain_spends_nothing(client: httpx.AsyncClient, service: ScriptedService):
    service.explanation = {"arm": "direct", "p": {"direct": 0.9}, "budget": float("inf")}
    response = await client.post("/v1/explain", json=BODY | {"stream": True})
    assert response.status_code == 200
    assert response.json() == {"arm": "direct", "p": {"direct": 0.9}, "budget": None}
    assert service.seen == []
    assert service.explained[0].messages[0].content == "2 + 2?"


async def test_explain_refuses_what_chat_refuses(client: httpx.AsyncClient):
    check_error(await client.post("/v1/explain", json=BODY | {"n": 0}), 400, "invalid_value")


# --- refusals, and that they cost nothing


CHEAP: list[tuple[str, dict[str, Any], int, str]] = [
    ("no key", {"json": BODY, "headers": {"authorization": ""}}, 401, "invalid_api_key"),
    ("wrong key", {"json": BODY, "headers": {"authorization": "Bearer x"}}, 401, "invalid_api_key"),
    ("basic", {"json": BODY, "headers": {"authorization": f"Basic {KEY}"}}, 401, "invalid_api_key"),
    ("no type", {"content": json.dumps(BODY)}, 415, "unsupported_media_type"),
    ("form", {"data": {"model": "auto"}}, 415, "unsupported_media_type"),
    ("empty", {"content": b"", "headers": {"content-type": "application/json"}}, 400, "invalid_json"),
    ("not JSON", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid_json"),
    ("large", {"json": BODY | {"user": "x" * (1 << 20)}}, 413, "request_too_large"),
    ("headers", {"json": BODY, "headers": {"x-filler": "x" * 40_000}}, 431, "headers_too_large"),
    ("unknown", {"json": BODY | {"api_base": "http://x"}}, 400, "unknown_parameter"),
    ("unsupported", {"json": BODY | {"tools": [{}]}}, 400, "unsupported_parameter"),
    ("value", {"json": BODY | {"n": 0}}, 400, "invalid_value"),
    ("key", {"json": BODY, "headers": {"idempotency-key": "x" * 256}}, 400, "invalid_value"),
]


@pytest.mark.parametrize(("send", "status", "code"), [c[1:] for c in CHEAP], ids=[c[0] for c in CHEAP])
async def test_refused_cheaply(
    client: httpx.AsyncClient, service: ScriptedService, send: dict[str, Any], status: int, code: str
):
    check_error(await client.post(CHAT, **send), status, code)
    assert service.seen == []


async def test_a_large_body_without_a_length_is_refused_while_it_comes(client: httpx.AsyncClient):
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 << 20:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    headers = {"content-type": "application/json"}
    check_error(await client.post(CHAT, content=chunks(), headers=headers), 413, "request_too_large")
    assert sent <= (1 << 20) + (2 << 16)


async def test_a_stranger_is_refused_before_the_body_is_read(service: ScriptedService):
    app = create_app(service, settings=SETTINGS)
    exchange = Exchange(b"{", headers={"authorization": "Bearer stranger"})
    await app(exchange.scope, exchange.receive, exchange.send)
    assert exchange.status == 401
    assert len(exchange._incoming) == 1


async def test_errors_of_the_service(client: httpx.AsyncClient, service: ScriptedService):
    service.error = RateLimited("Wait.", retry_after_s=1.2, limits=LIMITS)
    response = await client.post(CHAT, json=BODY)
    check_error(response, 429, "rate_limit_exceeded")
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("2", "1200")
    assert response.headers["x-ratelimit-limit-requests"] == "100"
    service.error = QuotaExhausted("Spent.")
    response = await client.post(CHAT, json=BODY)
    check_error(response, 429, "insufficient_quota")
    assert response.headers["x-should-retry"] == "false"
    service.error = TierNotAllowed("Use another tier.", param="model")
    assert check_error(await client.post(CHAT, json=BODY), 403, "tier_not_allowed")["param"] == "model"
    service.error = RuntimeError("secret prompt")
    response = await client.post(CHAT, json=BODY)
    check_error(response, 500, "internal_error")
    assert "secret" not in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_keeps_its_status_streaming_or_not(
    client: httpx.AsyncClient, service: ScriptedService, stream: bool
):
    service.error = Overloaded("Full.", retry_after_s=3)
    response = await client.post(CHAT, json=BODY | {"stream": stream})
    check_error(response, 503, "overloaded")
    assert response.headers["retry-after"] == "3"


async def test_a_failure_before_the_first_chunk_keeps_its_status(
    client: httpx.AsyncClient, service: ScriptedService
):
    service.steps = (UpstreamFailed("The engine died."),)
    check_error(await client.post(CHAT, json=BODY | {"stream": True}), 502, "upstream_error")


# --- other routes


async def test_models(client: httpx.AsyncClient):
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["auto", "direct", "consistency"]
    assert (await client.get("/v1/models/direct")).json() == listed["data"][1]
    check_error(await client.get("/v1/models/search"), 404, "model_not_found")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/auto"])
async def test_models_need_a_key(client: httpx.AsyncClient, path: str):
    response = await client.get(path, headers={"authorization": ""})
    check_error(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/nothing", "/redoc"])
async def test_nothing_there(client: httpx.AsyncClient, path: str):
    check_error(await client.get(path, headers={"x-request-id": "mine"}), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", CHAT, "POST"),
        ("GET", "/v1/explain", "POST"),
        ("GET", "/v1/feedback", "POST"),
        ("POST", "/v1/models", "GET"),
    ],
)
async def test_wrong_method(client: httpx.AsyncClient, method: str, path: str, allow: str):
    response = await client.request(method, path)
    check_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow


async def test_health_asks_nobody(client: httpx.AsyncClient, service: ScriptedService):
    service.components = {"store": "gone"}
    response = await client.get("/healthz", headers={"authorization": ""})
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_readiness_names_the_component(client: httpx.AsyncClient, service: ScriptedService):
    assert (await client.get("/readyz")).json() == {
        "status": "ready",
        "components": {"store": "ok", "tiers": "ok"},
    }
    service.components = {"store": "does not answer", "tiers": "ok"}
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"status": "not ready", "components": service.components}


async def test_readiness_that_fails_is_not_ready(service: ScriptedService):
    class Broken(ScriptedService):
        async def ready(self) -> dict[str, str]:
            raise RuntimeError("secret")

    transport = httpx.ASGITransport(create_app(Broken(), settings=SETTINGS))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert "secret" not in response.text


# --- documentation


async def test_the_document_describes_chat_for_real(client: httpx.AsyncClient):
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"][CHAT]["post"]
    assert set(document["paths"]) >= {
        CHAT,
        "/v1/explain",
        "/v1/feedback",
        "/v1/models",
        "/v1/models/{id}",
        "/healthz",
        "/readyz",
    }
    assert set(operation["responses"]) >= {"200", "400", "401", "403", "404", "429", "502", "503", "504"}
    assert "text/event-stream" in operation["responses"]["200"]["content"]

    def check(value: Any, schema: dict[str, Any]) -> None:
        Draft202012Validator(schema | {"components": document["components"]}).validate(value)

    body = operation["requestBody"]["content"]["application/json"]
    assert len(body["examples"]) >= 3
    for example in body["examples"].values():
        check(example["value"], body["schema"])
        assert (await client.post(CHAT, json=example["value"])).status_code == 200
    reply = operation["responses"]["200"]["content"]["application/json"]
    check(reply["examples"]["reply"]["value"], reply["schema"])
    check((await client.post(CHAT, json=BODY)).json(), reply["schema"])
    error = operation["responses"]["429"]["content"]["application/json"]
    check(error["example"], error["schema"])
    check((await client.post(CHAT, json=BODY | {"n": 0})).json(), error["schema"])


def test_the_example_of_a_stream_is_made_of_real_frames():
    events = ScriptedEvents((), None)
    stream = ReplyStream("chatcmpl-01", 1767225600, "auto", LIMITS, HEAD, events)
    frames = Frames(stream, include_usage=True)
    real = frames.text("yes").decode() + frames.end(replace(REPLY, choices=(Choice("yes", "stop"),))).decode()
    shown = examples.STREAM.split("\n\n")[2:-3]
    assert shown == real.split("\n\n")[:3]


async def test_docs_are_one_page_that_fetches_nothing(client: httpx.AsyncClient):
    response = await client.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    for word in (
        CHAT,
        "reasoning_effort",
        "min_quality",
        "x-acr-confidence",
        "insufficient_quota",
        "What is 17",
    ):
        assert word in response.text
    assert "<script" not in response.text
    assert "src=" not in response.text
    assert "http://" not in response.text.replace("http://json-schema", "")


async def test_docs_can_be_turned_off(service: ScriptedService):
    transport = httpx.ASGITransport(create_app(service, settings=HttpSettings(docs=False)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/docs", "/openapi.json"):
            check_error(await client.get(path), 404, "not_found")


# --- OpenAI's own client


async def test_openais_client(sdk: openai.AsyncOpenAI, service: ScriptedService):
    reply = await sdk.chat.completions.create(
        model="auto",
        messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": "2 + 2?"}],
        max_completion_tokens=50,
        temperature=0,
        reasoning_effort="high",
        stop=["\n"],
        n=1,
        seed=1,
        user="u",
        metadata={"a": "b"},
        store=False,
        extra_body={"compute": {"min_quality": 0.9}},
    )
    assert reply.choices[0].message.content == "2 + 2 is 4"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 100
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 24
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 26
    assert reply.usage.model_extra is not None
    assert reply.usage.model_extra["compute"]["tier"] == "consistency"
    assert reply._request_id
    assert (service.seen[0].min_quality, service.seen[0].effort) == (0.9, "high")
    assert service.seen[0].messages[0].role == "system"


async def test_openais_client_sends_a_reply_back(sdk: openai.AsyncOpenAI, service: ScriptedService):
    first = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "2 + 2?"}])
    message: Any = first.choices[0].message
    history: list[Any] = [
        {"role": "user", "content": "2 + 2?"},
        message,
        {"role": "user", "content": "Sure?"},
    ]
    await sdk.chat.completions.create(model="auto", messages=history)
    history[1] = message.model_dump()
    await sdk.chat.completions.create(model="auto", messages=history)
    assert [m.content for m in service.seen[2].messages] == ["2 + 2?", "2 + 2 is 4", "Sure?"]


async def test_openais_client_streams(sdk: openai.AsyncOpenAI, service: ScriptedService):
    gate = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, gate.set)
    progress = Progress(2, "4", 0.5, 30)
    service.steps = (progress, gate.wait, *DELTAS[:2], progress, *DELTAS[2:])
    stream = await sdk.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "2 + 2?"}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"compute": {"progress": True}},
    )
    chunks = [chunk async for chunk in stream]
    # Comments (two progress reports and the heartbeats between) have not become chunks.
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "2 + 2 is 4"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 100


async def test_openais_client_raises_an_error_within_a_stream(
    sdk: openai.AsyncOpenAI, service: ScriptedService
):
    service.steps = (TextDelta("2"), UpstreamFailed("The engine died."))
    stream = await sdk.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "2 + 2?"}], stream=True
    )
    assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["", "2"]
    with pytest.raises(openai.APIError, match="engine died") as error:
        await anext(stream)
    assert error.value.code == "upstream_error"


async def test_openais_client_helper_accumulates_a_stream(sdk: openai.AsyncOpenAI):
    async with sdk.chat.completions.stream(
        model="auto",
        messages=[{"role": "user", "content": "2 + 2?"}],
        stream_options={"include_usage": True},
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "2 + 2 is 4"
    assert final.usage is not None
    assert final.usage.total_tokens == 100


@pytest.mark.parametrize(
    ("error", "kind", "calls"),
    [
        (RateLimited("Wait.", retry_after_s=0.001), openai.RateLimitError, 3),
        (QuotaExhausted("Spent."), openai.RateLimitError, 1),
        (Overloaded("Full.", retry_after_s=0.001), openai.InternalServerError, 3),
        (UpstreamFailed("Died."), openai.InternalServerError, 1),
        (RuntimeError("bug"), openai.InternalServerError, 1),
    ],
)
async def test_openais_client_retries_exactly_what_may_be_retried(
    sdk: openai.AsyncOpenAI, service: ScriptedService, error: Exception, kind: type[Exception], calls: int
):
    service.error = error
    with pytest.raises(kind):
        await sdk.with_options(max_retries=2).chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "2 + 2?"}]
        )
    assert len(service.seen) == calls


async def test_openais_client_lists_models(sdk: openai.AsyncOpenAI):
    assert [model.id async for model in sdk.models.list()] == ["auto", "direct", "consistency"]
    assert (await sdk.models.retrieve("direct")).owned_by == "adaptive-compute-router"


# --- leaving


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_request(service: ScriptedService, stream: bool):
    service.before = asyncio.Event().wait
    exchange = Exchange(json.dumps(BODY | {"stream": stream}).encode())
    app = create_app(service, settings=SETTINGS)
    task = asyncio.create_task(app(exchange.scope, exchange.receive, exchange.send))
    await service.called.wait()
    exchange.leave()
    async with asyncio.timeout(5):
        await task
    assert service.cancelled == 1
    assert exchange.sent == []


@pytest.mark.parametrize("ticks", range(8))
async def test_a_stream_that_is_ready_in_the_moment_of_cancellation_is_closed(
    service: ScriptedService, ticks: int
):
    gate = asyncio.Event()
    service.before = gate.wait
    exchange = Exchange(json.dumps(BODY | {"stream": True}).encode())
    app = create_app(service, settings=SETTINGS)
    task = asyncio.create_task(app(exchange.scope, exchange.receive, exchange.send))
    await service.called.wait()
    gate.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert len(service.streams) + service.cancelled == 1
    assert all(events.settled for events in service.streams)


async def test_a_client_that_leaves_its_stream_closes_the_events(service: ScriptedService):
    service.steps = (TextDelta("2"), asyncio.Event().wait)
    exchange = Exchange(json.dumps(BODY | {"stream": True}).encode())
    app = create_app(service, settings=SETTINGS)
    task = asyncio.create_task(app(exchange.scope, exchange.receive, exchange.send))
    await exchange.until(lambda e: b'"content":"2"' in e.body)
    exchange.leave()
    async with asyncio.timeout(5):
        await task
    assert service.streams[0].settled


# --- Idempotency-Key


ONCE = {"idempotency-key": "k1"}


async def test_the_same_key_and_body_is_run_once(client: httpx.AsyncClient, service: ScriptedService):
    first = await client.post(CHAT, json=BODY, headers=ONCE)
    service.reply = replace(REPLY, id="chatcmpl-2")
    again = await client.post(CHAT, json=BODY, headers=ONCE)
    assert first.json() == again.json()
    assert len(service.seen) == 1
    other = await client.post(CHAT, json=BODY, headers={"idempotency-key": "k2"})
    assert other.json()["id"] == "chatcmpl-2"


async def test_the_same_key_with_another_body_is_refused(client: httpx.AsyncClient, service: ScriptedService):
    await client.post(CHAT, json=BODY, headers=ONCE)
    response = await client.post(CHAT, json=BODY | {"seed": 1}, headers=ONCE)
    check_error(response, 422, "idempotency_key_reused")
    assert response.headers["x-should-retry"] == "false"
    assert len(service.seen) == 1


async def test_a_key_in_flight_may_be_asked_for_again(client: httpx.AsyncClient, service: ScriptedService):
    gate = asyncio.Event()
    service.before = gate.wait
    first = asyncio.create_task(client.post(CHAT, json=BODY, headers=ONCE))
    await service.called.wait()
    response = await client.post(CHAT, json=BODY, headers=ONCE)
    check_error(response, 409, "idempotency_key_in_flight")
    assert response.headers["x-should-retry"] == "true"
    gate.set()
    assert (await first).status_code == 200
    assert (await client.post(CHAT, json=BODY, headers=ONCE)).status_code == 200
    assert len(service.seen) == 1


async def test_a_failed_run_gives_its_key_back(client: httpx.AsyncClient, service: ScriptedService):
    service.error = Overloaded("Full.")
    assert (await client.post(CHAT, json=BODY, headers=ONCE)).status_code == 503
    service.error = None
    assert (await client.post(CHAT, json=BODY, headers=ONCE)).status_code == 200


async def test_a_streamed_answer_is_told_again_as_a_stream(
    client: httpx.AsyncClient, service: ScriptedService
):
    body = BODY | {"stream": True, "stream_options": {"include_usage": True}}
    first = await client.post(CHAT, json=body, headers=ONCE)
    again = await client.post(CHAT, json=body, headers=ONCE)
    assert len(service.seen) == 1
    assert again.headers["idempotent-replayed"] == "true"
    assert first.text == again.text


async def test_a_replay_is_byte_equal_however_the_stream_was_cut_into_pieces(service: ScriptedService):
    """Heartbeats and progress included; all but what tells of one request is said again in the headers."""
    app = create_app(service, settings=SETTINGS)
    body = json.dumps(BODY | {"stream": True, "compute": {"progress": True}}).encode()

    async def pause() -> None:
        await asyncio.sleep(0.05)

    service.steps = (
        pause,
        TextDelta("2 + "),
        pause,
        Progress(1, "2", 0.5, 9),
        pause,
        TextDelta("2 is 4"),
        REPLY,
    )
    first = Exchange(body, headers=ONCE | {"x-request-id": "one"})
    await app(first.scope, first.receive, first.send)
    again = Exchange(body, headers=ONCE | {"x-request-id": "two"})
    await app(again.scope, again.receive, again.send)
    assert b": keep-alive" in first.body
    assert first.body == again.body
    changed = {"x-request-id", "idempotent-replayed"}
    limits = {name for name in first.headers if name.startswith("x-ratelimit-")}
    same = {name: value for name, value in first.headers.items() if name not in changed | limits}
    assert again.headers == same | {"x-request-id": "two", "idempotent-replayed": "true"}
    assert len(service.seen) == 1


async def test_an_answer_is_told_again_byte_for_byte(client: httpx.AsyncClient, service: ScriptedService):
    first = await client.post(CHAT, json=BODY, headers=ONCE)
    again = await client.post(CHAT, json=BODY, headers=ONCE)
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-acr-decision-id"] == first.headers["x-acr-decision-id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_does_not_end_the_run_of_its_key(service: ScriptedService, stream: bool):
    app = create_app(service, settings=SETTINGS)
    gate = asyncio.Event()
    if stream:
        service.steps = (TextDelta("2"), gate.wait, TextDelta(" + 2 is 4"), REPLY)
    else:
        service.before = gate.wait
    body = json.dumps(BODY | {"stream": stream}).encode()
    left = Exchange(body, headers=ONCE)
    task = asyncio.create_task(app(left.scope, left.receive, left.send))
    await service.called.wait()
    left.leave()
    await task
    early = Exchange(body, headers=ONCE)
    await app(early.scope, early.receive, early.send)
    assert early.status == 409
    gate.set()
    async with asyncio.timeout(5):
        while True:
            back = Exchange(body, headers=ONCE)
            await app(back.scope, back.receive, back.send)
            if back.status == 200:
                break
            await asyncio.sleep(0.01)
    assert b"2 is 4" in back.body
    assert back.headers["idempotent-replayed"] == "true"
    assert len(service.seen) == 1
    assert service.cancelled == 0


async def test_a_cancelled_request_does_not_end_the_run_of_its_key(service: ScriptedService):
    """Some servers cancel the request when its client leaves."""
    app = create_app(service, settings=SETTINGS)
    gate = asyncio.Event()
    service.before = gate.wait
    left = Exchange(json.dumps(BODY).encode(), headers=ONCE)
    task = asyncio.create_task(app(left.scope, left.receive, left.send))
    await service.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    await app.state.once.aclose()
    back = Exchange(json.dumps(BODY).encode(), headers=ONCE)
    await app(back.scope, back.receive, back.send)
    assert back.status == 200
    assert len(service.seen) == 1


async def test_a_stream_that_broke_gives_its_key_back(service: ScriptedService):
    app = create_app(service, settings=SETTINGS)
    body = json.dumps(BODY | {"stream": True}).encode()
    service.steps = (TextDelta("2"), UpstreamFailed("Died."))
    broken = Exchange(body, headers=ONCE)
    await app(broken.scope, broken.receive, broken.send)
    assert b"upstream_error" in broken.body
    service.steps = DELTAS
    good = Exchange(body, headers=ONCE)
    await app(good.scope, good.receive, good.send)
    assert b"[DONE]" in good.body
    assert len(service.seen) == 2


async def test_a_replica_that_shuts_down_frees_its_keys_and_tells_who_waits(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
):
    store = MemoryIdempotency()
    app = create_app(service, settings=SETTINGS, idempotency=store)
    service.before = asyncio.Event().wait
    waiting = Exchange(json.dumps(BODY).encode(), headers=ONCE)
    task = asyncio.create_task(app(waiting.scope, waiting.receive, waiting.send))
    await service.called.wait()
    await app.state.once._background.aclose(timeout_s=0.01)
    await task
    assert waiting.status == 503
    assert waiting.headers["x-should-retry"] == "true"
    service.before = None
    elsewhere = create_app(service, settings=SETTINGS, idempotency=store)
    again = Exchange(json.dumps(BODY).encode(), headers=ONCE)
    await elsewhere(again.scope, again.receive, again.send)
    assert again.status == 200


async def test_an_unknown_failure_of_a_run_that_nobody_waits_for_is_logged_without_its_words(
    service: ScriptedService, caplog: pytest.LogCaptureFixture
):
    app = create_app(service, settings=SETTINGS)
    gate = asyncio.Event()
    service.before = gate.wait
    service.error = ValueError("secret prompt")
    left = Exchange(json.dumps(BODY).encode(), headers=ONCE)
    task = asyncio.create_task(app(left.scope, left.receive, left.send))
    await service.called.wait()
    left.leave()
    await task
    gate.set()
    await app.state.once.aclose()
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a\x00b", b"a\nb", b"a\x7fb", b"caf\xe9", b"a\tb"])
async def test_odd_keys_are_refused_and_nothing_is_run(service: ScriptedService, key: bytes):
    exchange = Exchange(json.dumps(BODY).encode())
    exchange.scope["headers"].append((b"idempotency-key", key))
    app = create_app(service, settings=SETTINGS)
    await app(exchange.scope, exchange.receive, exchange.send)
    assert exchange.status == 400
    assert json.loads(exchange.body)["error"]["param"] == "Idempotency-Key"
    assert not service.seen


async def test_two_keys_are_refused(service: ScriptedService):
    exchange = Exchange(json.dumps(BODY).encode(), headers=ONCE)
    exchange.scope["headers"].append((b"idempotency-key", b"k2"))
    app = create_app(service, settings=SETTINGS)
    await app(exchange.scope, exchange.receive, exchange.send)
    assert exchange.status == 400
    assert not service.seen


async def test_the_longest_key_is_good(client: httpx.AsyncClient):
    assert (await client.post(CHAT, json=BODY, headers={"idempotency-key": "x" * 255})).status_code == 200


@pytest.mark.parametrize("said", ["max-age=x", "only-if-cached", "no-store=1"])
async def test_a_cache_control_that_would_be_misread_is_refused(
    client: httpx.AsyncClient, service: ScriptedService, said: str
):
    response = await client.post(CHAT, json=BODY, headers={"cache-control": said})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "Cache-Control"
    assert not service.seen


async def test_a_store_of_ones_own_is_shared_between_applications(service: ScriptedService):
    store = MemoryIdempotency()
    for _ in range(2):
        app = create_app(service, settings=SETTINGS, idempotency=store)
        exchange = Exchange(json.dumps(BODY).encode(), headers=ONCE)
        await app(exchange.scope, exchange.receive, exchange.send)
        assert exchange.status == 200
    assert len(service.seen) == 1


async def test_usage_without_spend_is_zero(client: httpx.AsyncClient, service: ScriptedService):
    receipt = replace(REPLY.receipt, spend=Spend(), charged_tokens=0)
    service.reply = replace(REPLY, receipt=receipt)
    assert (await client.post(CHAT, json=BODY)).json()["usage"]["total_tokens"] == 0
