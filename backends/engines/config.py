"""What an engine is built from: cold configuration, checked when the service starts.

Names of environment variables stand where secrets would be; no secret is ever part of a configuration.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveSeconds = Annotated[float, Field(gt=0)]


class _EngineConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class LlamaCppConfig(_EngineConfig):
    """llama.cpp in this process.

    `model_path` None is the pinned default model in the cache folder. `context_tokens` is what one request
    may use (prompt + completion); the key-value cache holds `parallel` times as much. `threads` None is
    every core this process may run on but one. `gpu_layers` -1 puts all layers on a GPU where the build has
    one. `prompt_cache_mib` of main memory let one completion's prompt serve the next ones in other slots; for
    large models give it what all slots hold: parallel x context_tokens x bytes of keys and values a token.
    """

    kind: Literal["llamacpp"] = "llamacpp"
    model_path: str | None = None
    model: str | None = None
    context_tokens: int = Field(default=4096, ge=64)
    parallel: int = Field(default=8, ge=1, le=256)
    threads: int | None = Field(default=None, ge=1)
    gpu_layers: int = Field(default=-1, ge=-1)
    prompt_cache_mib: int = Field(default=512, ge=0)
    logprobs: bool = True
    stall_timeout_s: PositiveSeconds = 600.0


Dialect = Literal["openai", "vllm", "llamacpp"]


class OpenAIHTTPConfig(_EngineConfig):
    """A server that speaks `POST {base_url}/chat/completions`.

    `dialect` says what else it can do.
    vllm: prefixes, log-probabilities, cache salts, exact prompt counts, the stop string that ended a
    completion; cached tokens if it runs with --enable-prompt-tokens-details, else all count as computed.
    llamacpp: prefixes, exact prompt counts and cached tokens.
    openai: none of it. Prompts are then bounded by their bytes, and `template_tokens` is what the server's
    chat template may add to them (a default system prompt).

    `api_key_env` names the environment variable that holds the key.
    """

    kind: Literal["openai_http"] = "openai_http"
    base_url: str = Field(pattern=r"^https?://\S+$")
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    dialect: Dialect = "openai"
    context_tokens: int = Field(ge=64)
    parallel: int = Field(default=8, ge=1)
    logprobs: bool | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    template_tokens: int = Field(default=64, ge=0)
    connect_timeout_s: PositiveSeconds = 5.0
    stall_timeout_s: PositiveSeconds = 120.0

    @model_validator(mode="after")
    def _logprobs_exist(self) -> Self:
        if self.logprobs and self.dialect == "llamacpp":
            raise ValueError(
                "llama.cpp's OpenAI endpoint leaves tokens without log-probabilities: drop logprobs"
            )
        return self

    @property
    def wants_logprobs(self) -> bool:
        """`logprobs`, or what the dialect is known to give."""
        return self.dialect == "vllm" if self.logprobs is None else self.logprobs


class FakeAnswer(_EngineConfig):
    """One thing the fake may say, and how often against the others of its list."""

    text: str
    weight: float = Field(default=1.0, gt=0)


class FakeFailure(_EngineConfig):
    """What goes wrong: after `after_tokens` generated tokens, in the first `times` calls (None: in all).

    unavailable: EngineUnavailable. protocol: EngineProtocolError. hang: never ends. empty: the reply holds
    nothing, which is an EngineProtocolError. wrong_usage: the completion counts fewer tokens than were sent.
    """

    kind: Literal["unavailable", "protocol", "hang", "empty", "wrong_usage"]
    after_tokens: int = Field(default=0, ge=0)
    times: int | None = Field(default=None, ge=1)


class FakeConfig(_EngineConfig):
    """A scripted engine without a model, for tests and for measuring overhead.

    `answers` maps a part of the last message to what may be answered to it; the first part found counts.
    `token_delay_s` 0 delivers each completion in one chunk.
    """

    kind: Literal["fake"] = "fake"
    model: str = "fake"
    context_tokens: int = Field(default=4096, ge=1)
    parallel: int = Field(default=64, ge=1)
    token_delay_s: float = Field(default=0.0, ge=0)
    answers: dict[str, tuple[FakeAnswer, ...]] = Field(default_factory=dict)
    continues_prefix: bool = True
    logprobs: bool = True
    seeds: bool = True
    fail: FakeFailure | None = None


EngineConfig = Annotated[LlamaCppConfig | OpenAIHTTPConfig | FakeConfig, Field(discriminator="kind")]
