"""What an engine is built from: cold configuration, checked when the service starts.

Names of environment variables stand where secrets would be; no secret is ever part of a configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveSeconds = Annotated[float, Field(gt=0)]


class _EngineConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


CacheType = Literal["f32", "bf16", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
QUANTISED: frozenset[str] = frozenset({"q8_0", "q5_1", "q5_0", "q4_1", "q4_0"})


class LlamaCppConfig(_EngineConfig):
    """llama.cpp in this process.

    `model_path` None is the pinned default model in the cache folder. `context_tokens` is what one request
    may use (prompt + completion); the key-value cache holds `parallel` times as much. `threads` None is
    every core this process may run on but one. `gpu_layers` -1 puts all layers on a GPU where the build has
    one. `prompt_cache_mib` of main memory let one completion's prompt serve the next ones in other slots; for
    large models give it what all slots hold: parallel x context_tokens x bytes of keys and values a token.

    `cache_type_k` and `cache_type_v` quantise keys and values (values need flash attention). `split_mode` and
    `tensor_split`, each GPU's share, spread the model over several GPUs: by layers, or every layer by rows or
    tensors. `draft_model_path` is a small model of the same vocabulary that drafts `draft_tokens` at a time
    for this one to check: speculative decoding. Drafted tokens are not counted, and the server tells no
    log-probabilities of those it accepts, so the engine then tells none, whatever `logprobs` says. Quantised
    weights are another model file.
    """

    kind: Literal["llamacpp"] = "llamacpp"
    model_path: str | None = None
    model: str | None = None
    context_tokens: int = Field(default=4096, ge=64)
    parallel: int = Field(default=8, ge=1, le=256)
    threads: int | None = Field(default=None, ge=1)
    gpu_layers: int = Field(default=-1, ge=-1)
    prompt_cache_mib: int = Field(default=512, ge=0)
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    split_mode: Literal["none", "layer", "row", "tensor"] = "layer"
    tensor_split: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(
        default=(), max_length=16
    )
    draft_model_path: str | None = Field(default=None, min_length=1)
    draft_tokens: int = Field(default=4, ge=1, le=32)
    logprobs: bool = True
    stall_timeout_s: PositiveSeconds = 600.0

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.cache_type_v in QUANTISED and self.flash_attention == "off":
            raise ValueError(
                "a quantised cache_type_v needs flash attention: set flash_attention to auto or on"
            )
        if self.tensor_split and sum(self.tensor_split) == 0:
            raise ValueError(
                "tensor_split leaves every GPU without a share: give at least one a number above 0"
            )
        if self.draft_model_path is None and self.draft_tokens != 4:
            raise ValueError("draft_tokens needs a draft_model_path: set it, or leave draft_tokens out")
        return self

    @property
    def shares_prompts(self) -> bool:
        """Whether slots can take a prompt over from one another (through the cache in main memory)."""
        return self.parallel > 1 and self.prompt_cache_mib > 0

    @property
    def tells_logprobs(self) -> bool:
        """`logprobs`, but none with drafts."""
        return self.logprobs and self.draft_model_path is None


Dialect = Literal["openai", "vllm", "llamacpp"]


class OpenAIHTTPConfig(_EngineConfig):
    """A server that speaks `POST {base_url}/chat/completions`.

    `dialect` says what else it can do.
    vllm: prefixes, log-probabilities, cache salts, exact prompt counts, the stop string that ended a
    completion; cached tokens if it runs with --enable-prompt-tokens-details, else all count as computed.
    llamacpp: prefixes, exact prompt counts and cached tokens.
    openai: none of it. Prompts are then bounded by their bytes, and `template_tokens` is what the server's
    chat template may add to them (a default system prompt).

    `top_logprobs` is how many alternatives a token may be asked for. None: 19 with vllm, whose server answers
    with up to 20 unless --max-logprobs says otherwise and puts the drawn token among them; else 0.
    `settings` is what operators know of the server (its quantisation, say) and want shown.
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
    top_logprobs: int | None = Field(default=None, ge=0, le=100)
    settings: dict[str, str] = Field(default_factory=dict)
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
        if self.top_logprobs and not self.wants_logprobs:
            raise ValueError("top_logprobs needs logprobs: set logprobs: true, or drop it")
        return self

    @property
    def wants_logprobs(self) -> bool:
        """`logprobs`, or what the dialect is known to give."""
        return self.dialect == "vllm" if self.logprobs is None else self.logprobs

    @property
    def most_top_logprobs(self) -> int:
        """`top_logprobs`, or what the dialect is known to give."""
        if self.top_logprobs is not None:
            return self.top_logprobs
        return 19 if self.dialect == "vllm" and self.wants_logprobs else 0


class SpeculativeDecoding(_EngineConfig):
    """Drafts that the model only checks: more tokens a step, from the same distribution (arXiv 2211.17192).

    ngram drafts from the prompt itself, by matches of `prompt_lookup_min` to `prompt_lookup_max` tokens; mtp
    from the model's own extra heads; the others from the draft model or heads in `model`.
    """

    method: Literal["ngram", "mtp", "draft_model", "eagle", "eagle3", "medusa", "mlp_speculator"]
    num_speculative_tokens: int = Field(ge=1, le=32)
    model: str | None = Field(default=None, min_length=1)
    prompt_lookup_max: int | None = Field(default=None, ge=1, le=32)
    prompt_lookup_min: int | None = Field(default=None, ge=1, le=32)

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        needs_model = self.method not in ("ngram", "mtp")
        if needs_model != (self.model is not None):
            must = "needs a" if needs_model else "takes no"
            raise ValueError(f"the speculative method {self.method} {must} model")
        if self.method != "ngram" and (self.prompt_lookup_max or self.prompt_lookup_min):
            raise ValueError("prompt_lookup_max and prompt_lookup_min belong to the method ngram")
        return self


class VLLMConfig(_EngineConfig):
    """vLLM in this process; needs the extra `vllm`.

    `model` is a hub id or the path of a folder. `context_tokens` is vLLM's max_model_len, `parallel` its
    max_num_seqs, `block_tokens` its block_size (prompts are cached in whole blocks; None: what suits the
    hardware), `top_logprobs` its max_logprobs. The other names are vLLM's own.
    """

    kind: Literal["vllm"] = "vllm"
    model: str = Field(min_length=1)
    served_model_name: str | None = None
    context_tokens: int = Field(ge=64)
    parallel: int = Field(default=64, ge=1, le=4096)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: str | None = Field(default=None, pattern=r"^[a-z0-9_\-]{1,32}$")
    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    speculative: SpeculativeDecoding | None = None
    enable_prefix_caching: bool = True
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    block_tokens: int | None = Field(default=None, ge=1, le=256)
    enforce_eager: bool = False
    logprobs: bool = True
    top_logprobs: int = Field(default=20, ge=0, le=100)
    stall_timeout_s: PositiveSeconds = 600.0


class TransformersConfig(_EngineConfig):
    """transformers' continuous batching in this process.

    `model` is a hub id, a local folder or the path of a GGUF file; None is the pinned default model in the
    cache folder. A GGUF file is unpacked to `dtype`, so its quantisation saves no memory here;
    `keep_unpacked` keeps a copy in the cache folder, from which the next start is 20 s quicker. `dtype` auto
    is bfloat16 on GPUs and on CPUs that multiply it, else float32.

    `context_tokens` is what one request may use (prompt + completion). `cache_blocks` of 16 tokens hold the
    keys and values; None: enough for `parallel` whole contexts. `step_tokens` bounds what is computed at a
    time, and so how long a cancelled prompt may still run; None: 128 on a CPU, 2048 on a GPU. `threads` None
    is what torch finds. `share_prefixes` False keeps requests, and so tenants, from sharing computed prompts.
    """

    kind: Literal["transformers"] = "transformers"
    model: str | None = Field(default=None, min_length=1)
    revision: str | None = Field(default=None, min_length=1)
    served_model_name: str | None = None
    context_tokens: int = Field(default=4096, ge=64)
    parallel: int = Field(default=8, ge=1, le=1024)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    attention: Literal["auto", "sdpa", "flash_attention_2", "flash_attention_3"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    cache_blocks: int | None = Field(default=None, ge=1)
    step_tokens: int | None = Field(default=None, ge=16)
    share_prefixes: bool = True
    logprobs: bool = True
    keep_unpacked: bool = True
    stall_timeout_s: PositiveSeconds = 600.0

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.cache_blocks is not None and self.cache_blocks * 16 <= self.context_tokens:
            raise ValueError("cache_blocks of 16 tokens must hold more than one context: raise cache_blocks")
        return self

    @property
    def gguf_path(self) -> Path | None:
        """The GGUF file that `model` names, if it names one."""
        named = self.model
        return Path(named).expanduser() if named is not None and named.endswith(".gguf") else None


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
    top_logprobs: int = Field(default=0, ge=0, le=20)
    fail: FakeFailure | None = None


EngineConfig = Annotated[
    LlamaCppConfig | OpenAIHTTPConfig | TransformersConfig | VLLMConfig | FakeConfig,
    Field(discriminator="kind"),
]
