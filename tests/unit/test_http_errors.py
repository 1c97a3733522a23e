from __future__ import annotations

import json
import logging
import math
import pickle

import pytest

from backends.errors import BackendError, ContextOverflow, InvalidVerifier
from router import errors as tree
from router.errors import InvalidRequest, Overloaded, QuotaExhausted, RateLimited, RouterError
from router.http.errors import HttpRefusal, error_wire
from router.http.headers import limit_headers, receipt_headers
from router.http.replies import completion, reply_wire, usage
from router.http.schemas_out import ChatCompletion, ErrorEnvelope
from router.request import LimitState
from tests.fakes_http import LIMITS, RECEIPT, REPLY, replace

# The contract's table: class -> status, code, x-should-retry.
TABLE = {
    "InvalidRequest": (400, "invalid_value", False),
    "ContextTooLong": (400, "context_length_exceeded", False),
    "AuthenticationFailed": (401, "invalid_api_key", False),
    "TierNotAllowed": (403, "tier_not_allowed", False),
    "ModelNotFound": (404, "model_not_found", False),
    "DecisionNotFound": (404, "decision_not_found", False),
    "IdempotencyInFlight": (409, "idempotency_key_in_flight", True),
    "IdempotencyReused": (422, "idempotency_key_reused", False),
    "RateLimited": (429, "rate_limit_exceeded", True),
    "QuotaExhausted": (429, "insufficient_quota", False),
    "RequestExceedsBudget": (429, "request_exceeds_budget", False),
    "Overloaded": (503, "overloaded", True),
    "StoreUnavailable": (503, "budget_store_unavailable", True),
    "TierUnavailable": (503, "tier_unavailable", True),
    "DecisionLogUnavailable": (503, "decision_log_unavailable", True),
    "UpstreamFailed": (502, "upstream_error", False),
    "DeadlineExceeded": (504, "deadline_exceeded", False),
}


def concrete() -> list[type[RouterError]]:
    every = [value for value in vars(tree).values() if isinstance(value, type)]
    return [one for one in every if issubclass(one, RouterError) and one is not RouterError]


def sent(error: Exception) -> tuple[int, dict[str, str], dict[str, object]]:
    wire = error_wire(error, "req-1")
    headers = {name.decode(): value.decode() for name, value in wire.headers}
    body = json.loads(wire.body)
    ErrorEnvelope.model_validate(body)
    return wire.status, headers, body["error"]


def test_the_table_is_complete():
    assert {one.__name__ for one in concrete()} == set(TABLE)


@pytest.mark.parametrize("kind", concrete(), ids=lambda kind: kind.__name__)
def test_every_error_is_sent_as_the_contract_says(kind: type[RouterError]):
    status, code, retry = TABLE[kind.__name__]
    got_status, headers, body = sent(kind("Do this.", param="n"))
    assert (got_status, body["code"], body["message"], body["param"]) == (status, code, "Do this.", "n")
    assert headers["x-should-retry"] == str(retry).lower()
    assert headers["x-request-id"] == "req-1"
    assert headers["content-type"] == "application/json"
    # Whoever is told to come back is told when.
    assert ("retry-after" in headers) is retry
    assert ("www-authenticate" in headers) is (status == 401)


@pytest.mark.parametrize("kind", concrete(), ids=lambda kind: kind.__name__)
def test_errors_cross_processes_whole(kind: type[RouterError]):
    error = kind("Do this.", param="n", code="other", retry_after_s=2.5, limits=LIMITS)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert sent(again) == sent(error)
    assert type(again) is kind


@pytest.mark.parametrize(
    ("wait_s", "seconds", "milliseconds"),
    [
        (0.0001, "1", "1"),
        (0.25, "1", "250"),
        (1.0, "1", "1000"),
        (1.0001, "2", "1001"),
        (59.5, "60", "59500"),
        (0, "1", "1"),
        (-3, "1", "1"),
    ],
)
def test_retry_after_rounds_up_and_never_says_now(wait_s: float, seconds: str, milliseconds: str):
    _, headers, _ = sent(RateLimited("Wait.", retry_after_s=wait_s))
    assert (headers["retry-after"], headers["retry-after-ms"]) == (seconds, milliseconds)


def test_a_spent_budget_may_name_its_renewal_and_still_must_not_be_retried():
    _, headers, _ = sent(QuotaExhausted("Spent.", retry_after_s=3600))
    assert (headers["retry-after"], headers["x-should-retry"]) == ("3600", "false")


def test_an_endless_wait_is_not_put_into_a_header():
    _, headers, _ = sent(Overloaded("Full.", retry_after_s=math.inf))
    assert "retry-after" not in headers


def test_rate_limit_headers_come_with_a_refusal():
    _, headers, _ = sent(RateLimited("Wait.", limits=LIMITS))
    assert headers["x-ratelimit-remaining-requests"] == "99"


def test_a_code_of_its_own():
    _, _, body = sent(InvalidRequest("Remove it.", code="unknown_parameter"))
    assert body["code"] == "unknown_parameter"


@pytest.mark.parametrize("status", [404, 405, 408, 413, 415, 431])
def test_http_refusals(status: int):
    got, headers, body = sent(HttpRefusal(status, "some_code", "Do this."))
    assert (got, body["code"], body["type"]) == (status, "some_code", "invalid_request_error")
    assert headers["x-should-retry"] == "false"


def test_a_prompt_too_long_for_the_engine_is_the_callers_to_mend():
    status, _, body = sent(ContextOverflow(5000, 4096))
    assert (status, body["code"], body["param"]) == (400, "context_length_exceeded", "messages")
    assert "4096" in str(body["message"])


def test_a_check_that_does_not_compile_is_the_callers_to_mend():
    status, _, body = sent(InvalidVerifier("The pattern does not compile."))
    assert (status, body["code"], body["param"]) == (400, "invalid_value", "compute.verify")


@pytest.mark.parametrize(
    "error", [ValueError("secret prompt"), BackendError("secret prompt"), KeyError("secret")]
)
def test_an_unknown_error_tells_the_client_nothing_and_the_log_no_prompt(
    error: Exception, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    try:
        raise error
    except Exception as raised:
        status, headers, body = sent(raised)
    assert (status, body["code"], headers["x-should-retry"]) == (500, "internal_error", "false")
    assert "secret" not in json.dumps(body)
    (record,) = caplog.records
    line = record.getMessage()
    assert "req-1" in line
    assert type(error).__name__ in line
    assert "test_http_errors.py" in line
    assert "secret" not in caplog.text


def test_known_errors_are_not_logged(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    sent(RateLimited("Wait."))
    assert not caplog.records


def test_limit_headers_say_what_is_known():
    names = {name.decode(): value.decode() for name, value in limit_headers(LIMITS)}
    assert names == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "99",
        "x-ratelimit-reset-requests": "600ms",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "9900",
        "x-ratelimit-reset-tokens": "250ms",
    }
    assert limit_headers(LimitState()) == []
    assert limit_headers(LimitState(reset_tokens_s=1e-9)) == [(b"x-ratelimit-reset-tokens", b"1ms")]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0s"),
        (-1.0, "0s"),
        (0.02, "20ms"),
        (0.0200001, "21ms"),
        (0.9999, "1s"),
        (1.0, "1s"),
        (8.64, "8.64s"),
        (59.9995, "1m0s"),
        (60.0, "1m0s"),
        (72.345, "1m12.345s"),
        (360.0, "6m0s"),
        (3602.5, "1h0m2.5s"),
    ],
)
def test_resets_are_written_as_openai_writes_them(seconds: float, said: str):
    assert limit_headers(LimitState(reset_requests_s=seconds)) == [
        (b"x-ratelimit-reset-requests", said.encode())
    ]


def test_receipt_headers():
    names = {name.decode(): value.decode() for name, value in receipt_headers(RECEIPT)}
    assert names == {
        "x-acr-tier": "consistency",
        "x-acr-strategy": "self_consistency",
        "x-acr-samples": "3",
        "x-acr-stop-reason": "confident",
        "x-acr-confidence": "0.9375",
        "x-acr-cache": "miss",
        "x-acr-degraded": "false",
        "x-acr-policy": "p1",
        "x-acr-decision-id": "dec-1",
        "x-acr-overhead-ms": "1.500",
        "x-acr-budget-remaining": "900",
    }
    bare = dict(receipt_headers(replace(RECEIPT, confidence=None, budget_remaining=None, degraded=True)))
    assert b"x-acr-confidence" not in bare
    assert b"x-acr-budget-remaining" not in bare
    assert bare[b"x-acr-degraded"] == b"true"


def test_usage_counts_everything_that_was_charged():
    told = usage(RECEIPT)
    assert told["prompt_tokens"] == 64
    assert told["completion_tokens"] == 36
    assert told["total_tokens"] == 100 == RECEIPT.charged_tokens
    assert told["prompt_tokens_details"]["cached_tokens"] == 24
    # 20 discarded and 6 for the verifier.
    assert told["completion_tokens_details"]["reasoning_tokens"] == 26
    kinds = told["compute"]["tokens"]
    assert kinds.pop("total") == sum(kinds.values()) == 100


def test_the_documented_reply_is_the_real_one():
    ChatCompletion.model_validate(json.loads(json.dumps(completion(REPLY))))


def test_numbers_that_json_has_no_word_for_become_null():
    odd = replace(RECEIPT, confidence=math.nan, flops=math.inf, cost_usd=-math.inf)
    body = json.loads(reply_wire(replace(REPLY, receipt=odd), "req-1").body)
    receipt = body["usage"]["compute"]
    assert (receipt["confidence"], receipt["flops"], receipt["cost_usd"]) == (None, None, None)


def test_half_a_surrogate_from_a_model_does_not_cost_the_caller_the_reply():
    from router.request import Choice

    wire = reply_wire(replace(REPLY, choices=(Choice("a\ud800b", "stop"),)), "req-1")
    assert b'"a\\ud800b"' in wire.body
