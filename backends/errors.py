"""Errors of the backends; the router maps them to HTTP in one place.

BackendError
├── EngineError
│   ├── EngineUnavailable     the engine cannot be reached, or died while it answered
│   ├── EngineProtocolError   it answered with something that is not a completion
│   └── ContextOverflow       the prompt does not fit the engine's context
├── StrategyUnsupported       the engine lacks what the strategy needs
├── InvalidVerifier           the caller's check does not compile
├── DeadlinePassed            the deadline passed before a single token of an answer was there
├── BudgetTooSmall            the token budget does not cover one engine call
└── ModelFileError            the model file is missing or not the pinned one

All are picklable: they cross process boundaries between deployments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.task import Spend, Used


class BackendError(Exception):
    """Base of everything that this package raises on purpose.

    `spend` is what a run had used when it failed (None before the first call), and `used` what that comes to;
    they survive pickling.
    """

    spend: Spend | None = None
    used: Used | None = None


class EngineError(BackendError):
    """An engine call failed; tokens it generated before are still counted."""


class EngineUnavailable(EngineError):
    """The engine cannot be reached, or died while it answered."""


class EngineProtocolError(EngineError):
    """The engine's reply is not a completion: empty, cut off, or without usage."""


class ContextOverflow(EngineError):
    """The prompt (plus one token) does not fit the engine's context window."""

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(prompt_tokens, context_tokens)
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens

    def __str__(self) -> str:
        return f"the prompt has {self.prompt_tokens} tokens; the model's context holds {self.context_tokens}"


class StrategyUnsupported(BackendError):
    """The strategy is unknown to the tier, or needs what its engine lacks."""


class InvalidVerifier(BackendError):
    """The caller's check does not compile."""


class DeadlinePassed(BackendError):
    """The deadline passed before a single token of an answer was there."""


class BudgetTooSmall(BackendError):
    """The budget handed to a strategy does not cover its first engine call."""

    def __init__(self, needed_tokens: int, budget_tokens: int) -> None:
        super().__init__(needed_tokens, budget_tokens)
        self.needed_tokens = needed_tokens
        self.budget_tokens = budget_tokens

    def __str__(self) -> str:
        return f"one call needs {self.needed_tokens} tokens; the budget left is {self.budget_tokens}"


class ModelFileError(BackendError):
    """The model file is missing, unreadable, or its sha256 is not the pinned one."""
