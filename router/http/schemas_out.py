"""What the service answers with, for its documentation; a test holds real replies against it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(extra="forbid", frozen=True)


class AssistantMessage(BaseModel):
    model_config = _STRICT

    role: Literal["assistant"]
    content: str
    refusal: None


class ReplyChoice(BaseModel):
    model_config = _STRICT

    index: int
    message: AssistantMessage
    logprobs: None
    finish_reason: str = Field(description="`stop`, or `length` where a token limit ended the answer.")


class PromptDetails(BaseModel):
    model_config = _STRICT

    cached_tokens: int = Field(description="Read from the engine's prefix cache, not computed.")
    audio_tokens: Literal[0]


class CompletionDetails(BaseModel):
    model_config = _STRICT

    reasoning_tokens: int = Field(description="Completion tokens that are not in the answer.")
    accepted_prediction_tokens: Literal[0]
    rejected_prediction_tokens: Literal[0]
    audio_tokens: Literal[0]


class Samples(BaseModel):
    model_config = _STRICT

    planned: int
    used: int
    cancelled: int


class TokensByKind(BaseModel):
    model_config = _STRICT

    prompt_computed: int
    prompt_cached: int
    completion_kept: int
    completion_discarded: int
    verifier: int
    total: int


class ComputeReceipt(BaseModel):
    """What was done for this request, why, and what it cost."""

    model_config = _STRICT

    decision_id: str
    lease_id: str | None
    arms_tried: list[str]
    tier: str
    strategy: str
    samples: Samples
    stop_reason: str
    confidence: float | None = Field(description="Belief that the answer is right.")
    difficulty: float | None = Field(description="The classifier's estimate, before anything was spent.")
    answer: str | None = Field(description="The answer extracted from the text, in canonical form.")
    verified: bool | None = Field(description="What `compute.verify` said; null without one.")
    tokens: TokensByKind
    engine_calls: int
    charged_tokens: int
    saved_tokens: int = Field(description="What the stored answer had cost, on a cache hit.")
    gpu_seconds: float | None
    flops: float | None
    cost_usd: float | None
    cache: Literal["hit", "semantic", "miss", "bypass"]
    similarity: float | None = Field(
        description="How like the question is whose answer this is (cosine); only where `cache` is semantic."
    )
    degraded: bool = Field(description="Less was done than asked for, since budget or load forced it.")
    hopeless: bool = Field(
        description="The cheapest arm answered: none was predicted to meet the target or be worth its cost."
    )
    reasons: list[str]
    policy_version: str
    classifier_version: str
    engine_model: str
    overhead_ms: float | None
    budget_remaining: int | None


class Usage(BaseModel):
    """Everything spent, samples that were discarded or cancelled included."""

    model_config = _STRICT

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int = Field(description="What the budget was charged.")
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    compute: ComputeReceipt


class ChatCompletion(BaseModel):
    model_config = _STRICT

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ReplyChoice]
    usage: Usage


class ErrorDetail(BaseModel):
    model_config = _STRICT

    message: str
    type: str
    param: str | None
    code: str


class ErrorEnvelope(BaseModel):
    model_config = _STRICT

    error: ErrorDetail


class Model(BaseModel):
    model_config = _STRICT

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    model_config = _STRICT

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    model_config = _STRICT

    status: Literal["ok"]


class Readiness(BaseModel):
    model_config = _STRICT

    status: Literal["ready", "not ready"]
    components: dict[str, str] = Field(description='Each "ok", or what is wrong with it.')


class FeedbackKept(BaseModel):
    """The feedback as it was kept; the last one for a decision counts."""

    object: Literal["feedback"]
    decision_id: str
    score: float
