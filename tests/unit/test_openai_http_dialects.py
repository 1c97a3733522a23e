"""What OpenAIHTTPEngine asks of each kind of server, and what it reads from good replies."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest

from backends.engines.base import Sampling
from backends.errors import EngineProtocolError, EngineUnavailable, StrategyUnsupported
from tests.openai_replies import GOOD, MESSAGES, TEXT, connect, delta, run, usage


class Recorder:
    """Answers everything well and keeps what was asked."""

    def __init__(self, reply: list[Any] | None = None) -> None:
        self.reply = reply or GOOD
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        replies = {
            "/tokenize": {"count": 21, "tokens": list(range(22))},
            "/apply-template": {"prompt": "<user>"},
        }
        if request.url.path in replies:
            return httpx.Response(200, json=replies[request.url.path])
        events = [json.dumps(event) for event in self.reply]
        body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
        return httpx.Response(200, content=body)

    def body(self, index: int = -1) -> dict[str, Any]:
        parsed = json.loads(self.requests[index].content)
        assert isinstance(parsed, dict)
        return parsed


async def test_an_openai_request_holds_standard_fields_only() -> None:
    seen = Recorder()
    await run(await connect(seen), Sampling(16, 0.5, 0.9, seed=7, stop=("\n",)), cache_scope="tenant")
    assert str(seen.requests[0].url) == "http://server/v1/chat/completions"
    assert seen.body() == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 16,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["\n"],
    }


async def test_newer_openai_models_want_another_field() -> None:
    seen = Recorder()
    await run(await connect(seen, max_tokens_field="max_completion_tokens", logprobs=True))
    assert seen.body()["max_completion_tokens"] == 16
    assert seen.body()["logprobs"] is True
    assert "max_tokens" not in seen.body()
    assert "seed" not in seen.body()


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llamacpp"])
async def test_no_more_tokens_are_asked_for_than_the_context_holds(dialect: str) -> None:
    seen = Recorder()
    await run(await connect(seen, dialect=dialect, context_tokens=512), Sampling(900))
    assert seen.body()["max_tokens"] == 512


async def test_a_vllm_request_continues_salts_and_counts() -> None:
    seen = Recorder()
    await run(await connect(seen, dialect="vllm"), prefix="Step one.\n", cache_scope="tenant")
    body = seen.body()
    assert body["messages"][-1] == {"role": "assistant", "content": "Step one.\n"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["cache_salt"] == hashlib.sha256(b"tenant").hexdigest()
    assert body["logprobs"] is True
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)
    await run(await connect(seen, dialect="vllm"))
    assert not {"cache_salt", "continue_final_message"} & set(seen.body())


async def test_a_llamacpp_request_asks_for_plain_sampling_and_running_counts() -> None:
    seen = Recorder()
    await run(await connect(seen, dialect="llamacpp"), prefix="Step one.\n", cache_scope="tenant")
    body = seen.body()
    assert body["samplers"] == ["temperature", "top_p"]
    assert body["continue_final_message"] is True
    assert body["timings_per_token"] is True
    assert not {"cache_salt", "logprobs", "top_k"} & set(body)


async def test_vllm_names_the_stop_string_and_gives_logprobs() -> None:
    tokens = [{"content": [{"token": word, "logprob": -0.5}]} for word in ("Two", " plus", "\n")]
    reply = [
        {**delta("Two", logprobs=tokens[0]), "usage": {"completion_tokens": 1}},
        {**delta(" plus", logprobs=tokens[1]), "usage": {"completion_tokens": 2}},
        delta("", "stop", logprobs=tokens[2], stop_reason="\n"),
        usage(),
    ]
    chunks, done = await run(await connect(Recorder(reply), dialect="vllm"), Sampling(16, stop=("\n", "END")))
    assert [chunk.completion_tokens for chunk in chunks] == [1, 2]
    assert done.stop_string == "\n"
    assert done.logprobs == (-0.5, -0.5, -0.5)


@pytest.mark.parametrize("reason", [None, 2, "</s>", ["\n"]])
async def test_a_stop_reason_that_the_caller_did_not_name_is_the_models_own_end(reason: object) -> None:
    reply = [delta("Two"), delta("", "stop", stop_reason=reason), usage()]
    _, done = await run(await connect(Recorder(reply), dialect="vllm"), Sampling(16, stop=("\n",)))
    assert done.stop_string is None


async def test_logprobs_that_miss_tokens_are_dropped() -> None:
    reply = [delta("Two", logprobs={"content": [{"logprob": -1.0}]}), delta("", "stop"), usage()]
    assert (await run(await connect(Recorder(reply), logprobs=True)))[1].logprobs == ()


def places(*tokens: list[tuple[str, float]]) -> dict[str, Any]:
    """The `logprobs` of an event: the alternatives of each of its tokens, the drawn one first."""
    listed = [[{"token": text, "logprob": logprob} for text, logprob in token] for token in tokens]
    return {"content": [{**token[0], "top_logprobs": token} for token in listed]}


@pytest.mark.parametrize(
    ("config", "asked", "body_field"),
    [
        ({"dialect": "vllm"}, 3, 4),  # one more: vLLM gives the drawn token a place
        ({"dialect": "vllm"}, 99, 20),
        ({"dialect": "vllm", "top_logprobs": 5}, 9, 6),
        ({"dialect": "vllm"}, 0, None),
        ({"dialect": "vllm", "logprobs": False}, 3, None),
        ({"logprobs": True, "top_logprobs": 20}, 3, 3),
        ({"logprobs": True}, 3, None),
        ({"dialect": "llamacpp"}, 3, None),
    ],
)
async def test_alternatives_are_asked_as_the_dialect_counts_them(
    config: dict[str, Any], asked: int, body_field: int | None
) -> None:
    seen = Recorder()
    await run(await connect(seen, **config), Sampling(16, top_logprobs=asked))
    assert seen.body().get("top_logprobs") == body_field


async def test_the_likeliest_tokens_are_told_in_falling_order() -> None:
    first = [("odd", -7.0), ("Two", -0.5), ("2", -1.0)]  # drawn against the odds
    second = [(" plus", -0.1), (" and", -3.0), (" or", -4.0)]
    reply = [
        delta("odd", logprobs=places(first)),
        delta(" plus", "stop", logprobs=places(second)),
        usage(completion_tokens=2),
    ]
    _, done = await run(await connect(Recorder(reply), dialect="vllm"), Sampling(16, top_logprobs=2))
    assert done.logprobs == (-7.0, -0.1)
    assert done.top_logprobs == ((-0.5, -1.0), (-0.1, -3.0))
    assert done.top_tokens == (("Two", "2"), (" plus", " and"))


@pytest.mark.parametrize("top_logprobs", [2, 0])
async def test_alternatives_that_miss_a_token_or_were_not_asked_are_dropped(top_logprobs: int) -> None:
    only = places([("Two", -0.5), ("2", -1.0)])
    reply = [delta("Two", logprobs=only), delta(" plus", "stop", logprobs={"content": [{"logprob": -1.0}]})]
    server = Recorder([*reply, usage(completion_tokens=2)])
    _, done = await run(await connect(server, dialect="vllm"), Sampling(16, top_logprobs=top_logprobs))
    assert (done.top_logprobs, done.top_tokens) == ((), ())
    assert done.logprobs == (-0.5, -1.0)


async def test_what_the_operator_says_of_the_server_is_shown() -> None:
    engine = await connect(Recorder(), dialect="vllm", settings={"quantization": "fp8"})
    assert engine.info.settings == {"quantization": "fp8"}
    assert engine.info.top_logprobs == 19
    assert (await connect(Recorder())).info.top_logprobs == 0


@pytest.mark.parametrize(
    ("details", "cached"), [({"cached_tokens": 99}, 20), ({"cached_tokens": "x"}, 0), ({}, 0), (None, 0)]
)
async def test_cached_tokens_are_believed_up_to_the_prompt(details: object, cached: int) -> None:
    reply = [delta("Two", "stop"), usage(prompt_tokens_details=details)]
    _, done = await run(await connect(Recorder(reply)))
    assert done.cached_tokens == cached


async def test_prompts_are_counted_as_the_dialect_can() -> None:
    seen = Recorder()
    assert await (await connect(seen, dialect="vllm")).count_prompt_tokens(MESSAGES, "Two") == 21
    assert str(seen.requests[-1].url) == "http://server/tokenize"
    assert seen.body()["continue_final_message"] is True
    assert await (await connect(seen, dialect="llamacpp")).count_prompt_tokens(MESSAGES) == 22
    assert [request.url.path for request in seen.requests[-2:]] == ["/apply-template", "/tokenize"]
    before = len(seen.requests)
    text = len(b"Be brief.") + len(TEXT.encode()) + len("é".encode())
    assert await (await connect(seen)).count_prompt_tokens(MESSAGES, "é") == text + 2 * 8 + 64
    assert await (await connect(seen, template_tokens=0)).count_prompt_tokens(MESSAGES) == text - 2 + 16
    assert len(seen.requests) == before


@pytest.mark.parametrize("reply", [{}, {"count": "many"}, {"count": 0}, {"count": None}])
async def test_a_count_that_is_none_is_a_protocol_error(reply: dict[str, object]) -> None:
    engine = await connect(lambda _: httpx.Response(200, json=reply), dialect="vllm")
    with pytest.raises(EngineProtocolError):
        await engine.count_prompt_tokens(MESSAGES)


async def test_a_plain_openai_server_cannot_continue_a_prefix() -> None:
    seen = Recorder()
    with pytest.raises(StrategyUnsupported, match="dialect"):
        await run(await connect(seen), prefix="Two")
    assert seen.requests == []


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(EngineUnavailable, match="SOME_KEY"):
        await connect(Recorder(), api_key_env="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "k-1")
    seen = Recorder()
    await run(await connect(seen, api_key_env="SOME_KEY"))
    assert seen.requests[0].headers["authorization"] == "Bearer k-1"
    await run(await connect(seen))
    assert "authorization" not in seen.requests[1].headers


async def test_health_is_the_list_of_models() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.path == "/v1/models" else 500)

    engine = await connect(handler)
    assert await engine.healthy()
    await engine.start()  # starting twice changes nothing
    assert await engine.healthy()
    await engine.aclose()
    assert not await engine.healthy()
    with pytest.raises(EngineUnavailable, match="aclose"):
        await run(engine)
