"""The reward model's client against replies of the shape that vLLM 0.32 sends, and against all others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from backends.engines.base import Message
from backends.errors import ContextOverflow, EngineProtocolError, EngineUnavailable
from backends.verifiers.base import Rewards
from backends.verifiers.config import RewardConfig
from backends.verifiers.http_reward import HttpRewardModel

MESSAGES = (Message("user", "2+2?"),)
USAGE = {
    "prompt_tokens": 37,
    "total_tokens": 37,
    "completion_tokens": 0,
    "prompt_tokens_details": None,
    "completion_tokens_details": None,
}
Handler = Callable[[httpx.Request], httpx.Response]


def pooled(scores: Any, **more: Any) -> dict[str, Any]:
    """As recorded from `vllm serve --runner pooling`."""
    item = {"index": 0, "object": "pooling", "data": scores}
    return {
        "id": "pooling-913dff16b441a933",
        "object": "list",
        "created": 1795326491,
        "model": "reward",
        "data": [item],
        "usage": USAGE,
    } | more


def refused(
    status: int, message: str, kind: str = "BadRequestError", param: str | None = None
) -> httpx.Response:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return httpx.Response(status, json={"error": error})


def answers(body: Any, status: int = 200) -> Handler:
    # Python's own json, which writes NaN as a careless server does.
    return lambda _: httpx.Response(status, content=json.dumps(body))


async def model(handler: Handler, **config: Any) -> HttpRewardModel:
    fields = {"base_url": "http://server/v1", "model": "reward", **config}
    made = HttpRewardModel(RewardConfig(**fields), transport=httpx.MockTransport(handler))
    await made.start()
    return made


async def test_a_whole_reply_has_one_score() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=pooled([-0.2808902859687805]))

    found = await (await model(handler)).rewards(MESSAGES, "4", cache_scope="tenant/1")
    assert found == Rewards((-0.2808902859687805,), 37)
    assert str(seen[0].url) == "http://server/pooling"
    body = json.loads(seen[0].content)
    salt = body.pop("cache_salt")
    assert len(salt) == 64
    assert "/" not in salt
    assert body == {
        "model": "reward",
        "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
        "task": "classify",
        "encoding_format": "float",
    }


async def test_a_label_is_chosen_among_several() -> None:
    assert (await (await model(answers(pooled([0.3, 0.7])))).rewards(MESSAGES, "4")).score == 0.7
    assert (await (await model(answers(pooled([0.3, 0.7])), label=0)).rewards(MESSAGES, "4")).score == 0.3


async def test_the_servers_rows_are_the_steps() -> None:
    handler = answers(pooled([[0.1, 0.9], [0.6, 0.4]]))
    found = await (await model(handler, task="token_classify", aggregate="min")).rewards(MESSAGES, "a\nb")
    assert (found.steps, found.score) == ((0.9, 0.4), 0.4)


def process_server(tokens: list[str], rows: list[list[float]]) -> tuple[Handler, list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        if request.url.path == "/tokenize":
            told = {"count": len(tokens), "max_model_len": 512, "tokens": list(range(len(tokens)))}
            strings = tokens if seen[-1].get("return_token_strs") else None
            return httpx.Response(200, json={**told, "token_strs": strings})
        return httpx.Response(200, json=pooled(rows))

    return handler, seen


async def test_steps_are_picked_at_their_tokens() -> None:
    tokens = ["<user>", "2", "<assistant>", "a", "<step>", "Ċ", "b", "<step>", "<end>"]
    handler, seen = process_server(tokens, [[0.0, i / 10] for i in range(len(tokens))])
    process = await model(handler, task="token_classify", step_token="<step>", aggregate="mean")
    # Marks that others set are taken out: neither the caller nor the model may add a step.
    hostile = (Message("user", "2+2?<step>"),)
    found = await process.rewards(hostile, "a<step>\n\nb\n")
    assert (found.steps, found.score) == ((0.4, 0.7), pytest.approx(0.55))
    turns = seen[0]["messages"]
    assert [turn["content"] for turn in turns] == ["2+2?", "a<step>\nb<step>"]
    assert seen[1]["messages"] == turns
    assert seen[1]["return_token_strs"] is True


async def test_a_server_that_picks_the_steps_itself_is_not_asked_again() -> None:
    handler, seen = process_server([], [[0.4], [0.7]])
    process = await model(handler, task="token_classify", step_token="<step>")
    assert (await process.rewards(MESSAGES, "a\nb")).steps == (0.4, 0.7)
    assert len(seen) == 1


@pytest.mark.parametrize("tokens", [["a", "b", "c"], ["a", "<step>", "b", "<step>", "c"], ["<step>"]])
async def test_a_step_token_that_does_not_fit_is_named(tokens: list[str]) -> None:
    handler, _ = process_server(tokens, [[0.1]] * 3)
    process = await model(handler, task="token_classify", step_token="<step>")
    with pytest.raises(EngineProtocolError, match="no score"):
        await process.rewards(MESSAGES, "a\nb")


async def test_tokens_are_counted_by_the_server() -> None:
    seen: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(
            200, json={"count": 37, "max_model_len": 512, "tokens": [1], "token_strs": None}
        )

    assert await (await model(handler)).count_tokens(MESSAGES, "4") == 37
    assert seen[0]["messages"][-1] == {"role": "assistant", "content": "4"}
    assert seen[0]["add_generation_prompt"] is False


@pytest.mark.parametrize("body", [{}, {"count": "37"}, {"count": 0}, {"count": True}, []])
async def test_a_count_that_is_none_is_refused(body: Any) -> None:
    with pytest.raises(EngineProtocolError):
        await (await model(answers(body))).count_tokens(MESSAGES, "4")


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"data": []},
        pooled([]),
        pooled(None),
        pooled("0.5"),
        pooled([None]),
        pooled(["0.5"]),
        pooled([True]),
        pooled([float("nan")]),
        pooled([float("inf")]),
        pooled([[0.5]]),
        pooled({"score": 0.5}),
        pooled([0.5], usage=None),
        pooled([0.5], usage={"prompt_tokens": 0}),
        pooled([0.5], usage={"prompt_tokens": "37"}),
        pooled([0.5], data=[{"data": [0.5]}, {"data": [0.5]}]),
    ],
)
async def test_another_shape_is_a_protocol_error(body: Any) -> None:
    with pytest.raises(EngineProtocolError):
        await (await model(answers(body))).rewards(MESSAGES, "4")


@pytest.mark.parametrize("rows", [[], [0.5], [[]], [[0.5], "x"], [[float("nan")]]])
async def test_rows_of_another_shape_are_too(rows: Any) -> None:
    with pytest.raises(EngineProtocolError):
        await (await model(answers(pooled(rows)), task="token_classify")).rewards(MESSAGES, "4")


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (refused(400, "Try switching the model's pooling_task", param="task"), EngineProtocolError, "task"),
        (refused(400, "Out of range float values are not JSON compliant"), EngineProtocolError, "400"),
        (
            refused(
                400, "This model's maximum context length is 512 tokens. However, your prompt contains 513"
            ),
            ContextOverflow,
            "513",
        ),
        (refused(404, "The model `nope` does not exist.", "NotFoundError"), EngineUnavailable, "model"),
        (refused(401, "Unauthorized", "x"), EngineUnavailable, "api_key_env"),
        (refused(500, "EngineCore died", "InternalServerError"), EngineUnavailable, "500"),
        (httpx.Response(503, content=b"<html>busy</html>"), EngineUnavailable, "503"),
        (httpx.Response(429, content=b""), EngineUnavailable, "429"),
        (httpx.Response(200, content=b"<html>hello</html>"), EngineProtocolError, "not JSON"),
    ],
)
async def test_a_refusal_is_a_typed_error(reply: httpx.Response, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        await (await model(lambda _: reply)).rewards(MESSAGES, "4")


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ReadError]
)
async def test_a_dead_server_is_unavailable(failure: type[httpx.TransportError]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise failure("no", request=request)

    with pytest.raises(EngineUnavailable):
        await (await model(handler)).rewards(MESSAGES, "4")


async def test_a_real_socket_that_hangs_times_out_and_one_that_is_closed_is_refused() -> None:
    held: list[asyncio.StreamWriter] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    made = HttpRewardModel(RewardConfig(base_url=url, model="reward", timeout_s=0.2))
    await made.start()
    with pytest.raises(EngineUnavailable, match="in time"):
        await made.rewards(MESSAGES, "4")
    for writer in held:
        writer.close()
    server.close()
    await server.wait_closed()
    with pytest.raises(EngineUnavailable, match="reached"):
        await made.rewards(MESSAGES, "4")
    await made.aclose()


async def test_no_more_requests_at_once_than_configured() -> None:
    active = peak = 0
    release = asyncio.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal active, peak
        active, peak = active + 1, max(peak, active + 1)
        await release.wait()
        active -= 1
        return httpx.Response(200, json=pooled([0.5]))

    made = await model(handler, parallel=2)  # type: ignore[arg-type]
    reading = [asyncio.create_task(made.rewards(MESSAGES, str(i))) for i in range(5)]
    while active < 2:
        await asyncio.sleep(0)
    release.set()
    assert {found.score for found in await asyncio.gather(*reading)} == {0.5}
    assert peak == 2


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json=pooled([0.5]))

    monkeypatch.delenv("REWARD_KEY", raising=False)
    with pytest.raises(EngineUnavailable, match="REWARD_KEY"):
        await model(handler, api_key_env="REWARD_KEY")
    monkeypatch.setenv("REWARD_KEY", "secret")
    await (await model(handler, api_key_env="REWARD_KEY")).rewards(MESSAGES, "4")
    assert seen == ["Bearer secret"]


async def test_before_start_and_after_close_it_is_unavailable() -> None:
    made = HttpRewardModel(RewardConfig(base_url="http://server", model="reward"))
    with pytest.raises(EngineUnavailable, match="start"):
        await made.rewards(MESSAGES, "4")
    await made.start()
    await made.start()
    await made.aclose()
    await made.aclose()
    with pytest.raises(EngineUnavailable, match="aclose"):
        await made.count_tokens(MESSAGES, "4")


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "server"},
        {"model": ""},
        {"task": "embed"},
        {"aggregate": "max"},
        {"step_token": "<step>"},
        {"timeout_s": 0},
        {"api_key": "secret"},
    ],
)
def test_a_bad_configuration_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RewardConfig(**({"base_url": "http://server", "model": "reward"} | fields))
