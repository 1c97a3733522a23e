"""Errors that reach a caller; `router/http/errors.py` alone turns them into HTTP.

RouterError
├── InvalidRequest           400 invalid_value | unknown_parameter | unsupported_parameter | invalid_json
├── ContextTooLong           400 context_length_exceeded
├── AuthenticationFailed     401 invalid_api_key
├── TierNotAllowed           403 tier_not_allowed
├── ModelNotFound            404 model_not_found
├── DecisionNotFound         404 decision_not_found
├── IdempotencyInFlight      409 idempotency_key_in_flight
├── IdempotencyReused        422 idempotency_key_reused
├── RateLimited              429 rate_limit_exceeded
├── QuotaExhausted           429 insufficient_quota
├── RequestExceedsBudget     429 request_exceeds_budget
├── Overloaded               503 overloaded
├── StoreUnavailable         503 budget_store_unavailable
├── TierUnavailable          503 tier_unavailable
├── DecisionLogUnavailable   503 decision_log_unavailable
├── UpstreamFailed           502 upstream_error
└── DeadlineExceeded         504 deadline_exceeded
"""

from __future__ import annotations


class RouterError(Exception):
    """Base; `message` says what to do, `code` is stable, `retryable` becomes `x-should-retry`.

    `policy_version` is the one that decided, where one had, and `decision_id` names the refusal in the log.
    """

    status: int = 500
    code: str = "internal_error"
    type: str = "server_error"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        limits: object | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.limits = limits
        self.policy_version: str | None = None
        self.decision_id: str | None = None
        if code is not None:
            self.code = code


class InvalidRequest(RouterError):
    status, code, type = 400, "invalid_value", "invalid_request_error"


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class AuthenticationFailed(RouterError):
    status, code, type = 401, "invalid_api_key", "authentication_error"


class TierNotAllowed(RouterError):
    status, code, type = 403, "tier_not_allowed", "permission_error"


class ModelNotFound(RouterError):
    status, code, type = 404, "model_not_found", "invalid_request_error"


class DecisionNotFound(RouterError):
    status, code, type = 404, "decision_not_found", "invalid_request_error"


class IdempotencyInFlight(RouterError):
    status, code, type, retryable = 409, "idempotency_key_in_flight", "invalid_request_error", True


class IdempotencyReused(RouterError):
    status, code, type = 422, "idempotency_key_reused", "invalid_request_error"


class RateLimited(RouterError):
    status, code, type, retryable = 429, "rate_limit_exceeded", "rate_limit_error", True


class QuotaExhausted(RouterError):
    status, code, type = 429, "insufficient_quota", "insufficient_quota"


class RequestExceedsBudget(RouterError):
    status, code, type = 429, "request_exceeds_budget", "insufficient_quota"


class Overloaded(RouterError):
    status, code, retryable = 503, "overloaded", True


class StoreUnavailable(RouterError):
    status, code, retryable = 503, "budget_store_unavailable", True


class TierUnavailable(RouterError):
    status, code, retryable = 503, "tier_unavailable", True


class DecisionLogUnavailable(RouterError):
    status, code, retryable = 503, "decision_log_unavailable", True


class UpstreamFailed(RouterError):
    status, code = 502, "upstream_error"


class DeadlineExceeded(RouterError):
    status, code = 504, "deadline_exceeded"
