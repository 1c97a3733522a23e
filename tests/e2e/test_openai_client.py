"""An unmodified openai client against the real thing: llama.cpp, Ray Serve, Valkey."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import Running

SUM = "State the final answer to the following arithmetic problem: 4 + 5 ="


@pytest.fixture
def client(service: Running) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{service.base_url}/v1", api_key=service.keys["demo"], timeout=120, max_retries=0
    ) as c:
        yield c


def ask(client: OpenAI, text: str = SUM, **fields: Any) -> tuple[str, dict[str, Any]]:
    asked = {"model": "auto", "max_completion_tokens": 64, **fields}
    reply = client.chat.completions.create(messages=[{"role": "user", "content": text}], **asked)
    assert reply.usage is not None
    return str(reply.choices[0].message.content), reply.usage.model_dump()


def day_used(service: Running, tenant: str = "demo") -> int:
    """The day's gauge, as `acr explain` is told it; nothing may be held when we look."""
    for _ in range(100):
        reply = httpx.post(
            f"{service.base_url}/v1/explain",
            headers={"Authorization": f"Bearer {service.keys[tenant]}"},
            json={"model": "auto", "messages": [{"role": "user", "content": "x"}]},
        )
        gauges = {g["window"]: g for g in reply.json()["budgets"] if g["scope"] == "tenant"}
        if all(gauge["held"] == 0 for gauge in gauges.values()):
            return int(gauges["day"]["used"])
        time.sleep(0.1)
    pytest.fail("tokens stay held although nothing runs")


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["auto", "direct", "consistency", "search"]


def test_a_completion_with_its_receipt(client: OpenAI) -> None:
    text, usage = ask(client)
    compute = usage["compute"]
    assert text.strip()
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["total_tokens"] == compute["charged_tokens"] == compute["tokens"]["total"]
    assert compute["cost_usd"] > 0
    assert compute["reasons"]


def test_a_streamed_completion(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="direct",
            messages=[{"role": "user", "content": "Count from one to ten."}],
            max_completion_tokens=48,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text.strip()
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) > 1
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.total_tokens == usage.model_dump()["compute"]["charged_tokens"]


def test_pinned_tiers_and_effort_change_what_is_spent(client: OpenAI) -> None:
    _, direct = ask(client, model="direct")
    _, few = ask(
        client, model="consistency", reasoning_effort="low", extra_body={"compute": {"max_samples": 2}}
    )
    _, many = ask(client, model="consistency", reasoning_effort="high")
    _, search = ask(client, model="search")
    tiers = [usage["compute"]["tier"] for usage in (direct, few, many, search)]
    assert tiers == ["direct", "consistency", "consistency", "search"]
    assert direct["total_tokens"] < few["total_tokens"] < many["total_tokens"]
    assert few["compute"]["samples"]["planned"] == 2
    assert many["compute"]["samples"]["planned"] == 16
    assert many["compute"]["tokens"]["prompt_cached"] > 0  # one prefill served the samples


def test_the_same_question_twice_costs_once(client: OpenAI, service: Running) -> None:
    asked = {"model": "direct", "temperature": 0, "max_completion_tokens": 200}
    first_text, first = ask(client, "What is 2 + 2? Answer briefly.", **asked)
    if first["compute"]["tokens"]["completion_kept"] >= 200:
        pytest.fail("the reply was cut, so it is not cached; choose another question")
    before = day_used(service)
    again_text, again = ask(client, "What is 2 + 2? Answer briefly.", **asked)
    assert (again_text, again["compute"]["cache"]) == (first_text, "hit")
    assert again["total_tokens"] == 0
    assert again["compute"]["saved_tokens"] == first["total_tokens"]
    assert day_used(service) == before


def test_receipts_add_up_to_the_ledger(client: OpenAI, service: Running) -> None:
    before = day_used(service)
    spent = 0
    for number, model in enumerate(("auto", "direct", "consistency", "search", "auto")):
        _, usage = ask(client, f"What is {number} + 3?", model=model, max_completion_tokens=40)
        spent += usage["total_tokens"]
    assert day_used(service) - before == spent > 0


def test_leaving_a_stream_is_charged_and_stops(client: OpenAI, service: Running) -> None:
    before = day_used(service)
    stream = client.chat.completions.create(
        model="direct",
        messages=[{"role": "user", "content": "Tell me a very long story about a whale."}],
        max_completion_tokens=2000,
        stream=True,
    )
    seen = 0
    for chunk in stream:
        seen += bool(chunk.choices and chunk.choices[0].delta.content)
        if seen >= 3:
            break
    stream.close()
    used = day_used(service) - before
    assert 0 < used < 1000  # what was generated until then, and not what was reserved


def test_refusals(service: Running, client: OpenAI) -> None:
    before = day_used(service)
    with pytest.raises(openai.NotFoundError):
        ask(client, model="gpt-5")
    with pytest.raises(openai.BadRequestError):
        ask(client, max_completion_tokens=10**6)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body={"api_base": "http://127.0.0.1:1"})
    assert caught.value.code == "unknown_parameter"
    with pytest.raises(openai.BadRequestError):
        ask(client, "word " * 9000)
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="acr-wrong"))
    with pytest.raises(openai.PermissionDeniedError):
        ask(client.with_options(api_key=service.keys["batch"]), model="search")
    assert day_used(service) == before


def test_health_readiness_and_docs(service: Running) -> None:
    assert httpx.get(f"{service.base_url}/healthz").status_code == 200
    ready = httpx.get(f"{service.base_url}/readyz")
    assert ready.status_code == 200, ready.text
    assert "chat/completions" in httpx.get(f"{service.base_url}/openapi.json").text
    assert httpx.get(f"{service.base_url}/docs").status_code == 200


def test_ask_and_explain_print_tables(service: Running) -> None:
    told = service.acr("explain", SUM, "--live")
    assert told.returncode == 0, told.stderr
    for word in ("p(success)", "direct/direct", "reserves", "budget"):
        assert word in told.stdout
    told = service.acr("ask", SUM, "--model", "direct", "--max-tokens", "48")
    assert told.returncode == 0, told.stderr
    for word in ("tier, strategy", "charged", "budget left", "why"):
        assert word in told.stdout
    lost = service.acr("ask", "hi", "--url", "http://127.0.0.1:9")
    assert (lost.returncode, lost.stdout) == (2, "")
    assert len(lost.stderr.splitlines()) == 1
    assert "acr serve" in lost.stderr


def test_the_service_listens_on_loopback_only(service: Running) -> None:
    port = int(service.base_url.rsplit(":", 1)[1])
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:  # 0A: listening
                found.append(local.rpartition(":")[0])
    assert found == ["0100007F"]  # 127.0.0.1, as the kernel writes it
