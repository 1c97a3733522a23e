"""Errors of the other packages as the errors a caller is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backends import errors as backend
from policies import errors as policy
from policies.limits import LimitUsage
from router import errors as told
from router.request import LimitState

RETRY_SOON_S = 1.0


@contextmanager
def caller_errors(policy_version: str) -> Iterator[None]:
    """Raise what is raised inside as a RouterError that names the policy, and says what to do."""
    try:
        yield
    except (backend.BackendError, policy.PolicyError) as error:
        known = as_router_error(error)
        known.policy_version = policy_version
        raise known from error
    except told.RouterError as error:
        error.policy_version = policy_version
        raise


def as_router_error(error: Exception) -> told.RouterError:
    """The RouterError for an error of backends or policies."""
    said = str(error)
    match error:
        case backend.ContextOverflow():
            return told.ContextTooLong(f"{said}; shorten the messages", param="messages")
        case backend.InvalidVerifier():
            return told.InvalidRequest(said, param="compute.verify")
        case backend.StrategyUnsupported():
            return told.InvalidRequest(said, param="compute.strategy", code="unsupported_parameter")
        case backend.DeadlinePassed():
            return told.DeadlineExceeded(said, param="compute.deadline_ms")
        case backend.BudgetTooSmall():
            return told.RequestExceedsBudget(f"{said}; shorten the messages or lower max_completion_tokens")
        case backend.EngineUnavailable():
            return told.TierUnavailable(f"{said}; try again soon", retry_after_s=RETRY_SOON_S)
        case backend.BackendError():
            return told.UpstreamFailed(said)
        case policy.UnknownTier():
            return told.ModelNotFound(said, param="model")
        case policy.PriceUnknown():
            return told.TierNotAllowed(said, param="model")
        case policy.TierForbidden():
            return told.TierNotAllowed(said, param="model")
        case policy.CeilingExceeded():
            return told.InvalidRequest(said, param=error.param)
        case policy.BudgetExhausted() | policy.BudgetDenied():
            return told.QuotaExhausted(said, retry_after_s=error.retry_after_s)
        case policy.TierShareSpent(retry_after_s=None):
            return told.RequestExceedsBudget(said, param="model")
        case policy.TierShareSpent():
            return told.QuotaExhausted(said, param="model", retry_after_s=error.retry_after_s)
        case policy.RequestTooLarge():
            return told.RequestExceedsBudget(said)
        case policy.NoArm(unavailable=True):
            return told.TierUnavailable(said, retry_after_s=RETRY_SOON_S)
        case policy.NoArm():
            return told.InvalidRequest(said, param="compute", code="unsupported_parameter")
        case policy.LimitExceeded():
            limits = limit_state(error.usage) if error.usage is not None else None
            if error.retry_after_s is None:
                return told.RequestExceedsBudget(said, limits=limits)
            return told.RateLimited(said, retry_after_s=error.retry_after_s, limits=limits)
        case policy.StoreDamaged():
            return told.StoreUnavailable(
                f"{said}, so nothing was done or charged", retry_after_s=RETRY_SOON_S
            )
        case policy.StoreUnavailable():
            return told.StoreUnavailable(
                "the budget store does not answer, so nothing was done or charged; try again soon",
                retry_after_s=RETRY_SOON_S,
            )
    return told.RouterError("something went wrong here; try again, and report the request id if it stays")


def limit_state(usage: LimitUsage) -> LimitState:
    """What the limits say, as the headers will."""
    return LimitState(
        usage.limit_requests,
        usage.remaining_requests,
        usage.reset_requests_s,
        usage.limit_tokens,
        usage.remaining_tokens,
        usage.reset_tokens_s,
    )
