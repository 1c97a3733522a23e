"""POST /v1/feedback over HTTP: what it takes, what it refuses and how, and that the document says so."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from router.errors import DecisionLogUnavailable, DecisionNotFound, RateLimited
from tests.contract.test_http_contract import check_error, client, service
from tests.fakes_http import CALLER, ScriptedService

pytestmark = pytest.mark.contract

__all__ = ["client", "service"]

PATH = "/v1/feedback"
BODY = {"decision_id": "dec-1", "score": 0.75}


async def test_feedback_is_kept_and_echoed(client: httpx.AsyncClient, service: ScriptedService) -> None:
    response = await client.post(PATH, json=BODY)
    assert response.status_code == 200
    assert response.json() == {"object": "feedback", "decision_id": "dec-1", "score": 0.75}
    assert response.headers["x-request-id"]
    assert response.headers["x-ratelimit-remaining-requests"] == "99"
    assert service.judged == [(CALLER, "dec-1", 0.75)]


@pytest.mark.parametrize("score", [0, 1, 0.0, 1.0, 0.5, 1e-300])
async def test_scores_that_count(client: httpx.AsyncClient, service: ScriptedService, score: float) -> None:
    assert (await client.post(PATH, json=BODY | {"score": score})).status_code == 200
    ((_, _, kept),) = service.judged
    assert (kept, type(kept)) == (score, float)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"score": 1}, "invalid_value", "decision_id"),
        ({"decision_id": "dec-1"}, "invalid_value", "score"),
        (BODY | {"score": 1.01}, "invalid_value", "score"),
        (BODY | {"score": -0.01}, "invalid_value", "score"),
        (BODY | {"score": True}, "invalid_value", "score"),
        (BODY | {"score": "1"}, "invalid_value", "score"),
        (BODY | {"score": None}, "invalid_value", "score"),
        (BODY | {"decision_id": 1}, "invalid_value", "decision_id"),
        (BODY | {"decision_id": ""}, "invalid_value", "decision_id"),
        (BODY | {"decision_id": "x" * 129}, "invalid_value", "decision_id"),
        (BODY | {"comment": "nice"}, "unknown_parameter", "comment"),
    ],
)
async def test_bad_values_are_refused_as_chat_refuses_them(
    client: httpx.AsyncClient, service: ScriptedService, body: dict[str, Any], code: str, param: str
) -> None:
    error = check_error(await client.post(PATH, json=body), 400, code)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert service.judged == []


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'{"decision_id": "d", "score": NaN}', 400, "invalid_json"),
        (b'{"decision_id": "d", "score": 1e999}', 400, "invalid_json"),
        (b'{"decision_id": "d", "score": 1, "score": 0}', 400, "invalid_json"),
        (b'{"decision_id": "\\ud800", "score": 1}', 400, "invalid_json"),
        (b'{"decision_id": "' + b"x" * 5_000 + b'", "score": 1}', 413, "request_too_large"),
    ],
)
async def test_bodies_that_cannot_be_read(
    client: httpx.AsyncClient, service: ScriptedService, content: bytes, status: int, code: str
) -> None:
    headers = {"content-type": "application/json"}
    check_error(await client.post(PATH, content=content, headers=headers), status, code)
    assert service.judged == []


async def test_it_wants_json_and_a_key(client: httpx.AsyncClient, service: ScriptedService) -> None:
    check_error(await client.post(PATH, content=b"{}"), 415, "unsupported_media_type")
    answer = await client.post(PATH, json=BODY, headers={"authorization": "Bearer wrong"})
    check_error(answer, 401, "invalid_api_key")
    assert service.judged == []


async def test_refusals_of_the_service(client: httpx.AsyncClient, service: ScriptedService) -> None:
    service.error = DecisionNotFound("No decision.", param="decision_id")
    error = check_error(await client.post(PATH, json=BODY), 404, "decision_not_found")
    assert (error["param"], error["type"]) == ("decision_id", "invalid_request_error")
    service.error = RateLimited("Wait.", retry_after_s=3.0)
    answer = await client.post(PATH, json=BODY)
    check_error(answer, 429, "rate_limit_exceeded")
    assert answer.headers["retry-after"] == "3"
    service.error = DecisionLogUnavailable("Later.", retry_after_s=1.0)
    answer = await client.post(PATH, json=BODY)
    check_error(answer, 503, "decision_log_unavailable")
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
    service.error = ZeroDivisionError("secret")
    answer = await client.post(PATH, json=BODY)
    check_error(answer, 500, "internal_error")
    assert "secret" not in answer.text


async def test_the_document_describes_it_for_real(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"][PATH]["post"]
    assert set(operation["responses"]) == {"200", "400", "401", "404", "408", "413", "415", "429", "431"} | {
        "500",
        "503",
    }

    def check(value: Any, schema: dict[str, Any]) -> None:
        Draft202012Validator(schema | {"components": document["components"]}).validate(value)

    body = operation["requestBody"]["content"]["application/json"]
    check(body["example"], body["schema"])
    kept = operation["responses"]["200"]["content"]["application/json"]
    check(kept["example"], kept["schema"])
    answer = await client.post(PATH, json=body["example"])
    check(answer.json(), kept["schema"])
    assert answer.json() == kept["example"]
    assert "/v1/feedback" in (await client.get("/docs")).text
