"""The chat request as the contract has it; anything else is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from policies.arm_spec import Strategy
from router.http.verify import Verify
from router.request import Effort

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)

# An upper bound for any number of tokens in a request; the policy's caps are far below and are its own.
MAX_TOKENS = 1_000_000

# Tags of unions end up in pydantic's locations; angle brackets let `refusals` take them out again.
STR, LIST = "<str>", "<list>"


def _shape(value: Any) -> str | None:
    if isinstance(value, str):
        return STR
    return LIST if isinstance(value, list) else None


_str_or_list = Discriminator(
    _shape, custom_error_type="str_or_list", custom_error_message="Input should be a string or a list"
)


class TextPart(BaseModel):
    """A part of a message; only text is offered."""

    model_config = _STRICT

    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag(STR)] | Annotated[list[TextPart], Field(min_length=1, max_length=256), Tag(LIST)],
    _str_or_list,
]


class ChatMessage(BaseModel):
    """One turn; `developer` means `system`."""

    model_config = _STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    def text(self) -> str:
        """Parts are joined by newlines, as inference servers do."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """`include_usage` adds a last chunk with `choices: []` and the usage."""

    model_config = _STRICT

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Compute(BaseModel):
    """Our one extension: how much compute this request may or must get."""

    model_config = _STRICT

    strategy: Strategy | None = None
    max_samples: Annotated[int, Field(ge=1, le=64)] | None = None
    max_total_tokens: Annotated[int, Field(ge=1, le=64 * MAX_TOKENS)] | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] | None = None
    min_quality: Annotated[float, Field(ge=0, le=1)] | None = None
    allow_degrade: bool | None = None
    verify: Verify | None = None
    progress: bool = False


MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Stop = Annotated[
    Annotated[StopString, Tag(STR)]
    | Annotated[list[StopString], Field(min_length=1, max_length=4), Tag(LIST)],
    _str_or_list,
]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
# Accepted because every OpenAI client may send it; nothing is done with it.
Ignored = Annotated[str, Field(max_length=512, description="Accepted and not used.")]


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions and of POST /v1/explain."""

    model_config = _STRICT

    model: Annotated[str, Field(min_length=1, max_length=256, description="`auto`, or a tier by name.")]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=256)]
    max_completion_tokens: Tokens | None = None
    max_tokens: Annotated[Tokens | None, Field(description="The older name of max_completion_tokens.")] = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: Annotated[Effort | None, Field(description="The ceiling of compute.")] = None
    compute: Compute | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    user: Ignored | None = None
    safety_identifier: Ignored | None = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise contradiction("stream_options", "send it only together with `stream: true`")
        newer, older = self.max_completion_tokens, self.max_tokens
        if newer is not None and older is not None and newer != older:
            raise contradiction("max_tokens", "send only max_completion_tokens, or the same number in both")
        last = self.messages[-1].text()
        if not last or last.isspace():
            raise contradiction(f"messages[{len(self.messages) - 1}].content", "the last message is empty")
        return self


def contradiction(param: str, reason: str) -> PydanticCustomError:
    """An error that names another field than the one pydantic is at."""
    return PydanticCustomError("contradiction", "{reason}", {"param": param, "reason": reason})


class FeedbackRequest(BaseModel):
    """The body of POST /v1/feedback."""

    model_config = _STRICT

    decision_id: Annotated[
        str, Field(min_length=1, max_length=128, description="The `x-acr-decision-id` of a reply.")
    ]
    score: Annotated[float, Field(ge=0, le=1, description="What the answer was worth: 1 is right.")]
