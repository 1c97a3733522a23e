"""What is said to vLLM and what it answers, without importing it: arguments, sampling fields, outputs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.engines.base import Chunk, Completion, EngineInfo, Sampling
from backends.engines.config import VLLMConfig
from backends.errors import EngineProtocolError, EngineUnavailable

NAME = "vLLM"


def cache_salt(scope: str) -> str | None:
    """The salt of a scope's prefix cache, None for no scope.

    Hashed, since vLLM refuses salts of more than 128 characters or with `@`, `/` or a backslash in them.
    """
    return hashlib.sha256(scope.encode()).hexdigest() if scope else None


def engine_args(config: VLLMConfig) -> dict[str, Any]:
    """The fields of vLLM's `AsyncEngineArgs`."""
    args: dict[str, Any] = {
        "model": os.path.expanduser(config.model),
        "max_model_len": config.context_tokens,
        "max_num_seqs": config.parallel,
        "dtype": config.dtype,
        "quantization": config.quantization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enable_prefix_caching": config.enable_prefix_caching,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enforce_eager": config.enforce_eager,
        "max_logprobs": config.top_logprobs,
        "disable_log_stats": True,
    }
    if config.block_tokens is not None:
        args["block_size"] = config.block_tokens
    if config.speculative is not None:
        args["speculative_config"] = config.speculative.model_dump(exclude_none=True)
    return args


def settings(config: VLLMConfig) -> dict[str, str]:
    """What operators ask about, as they set it."""
    draft = config.speculative
    said = "off" if draft is None else f"{draft.method}, {draft.num_speculative_tokens} tokens"
    return {
        "dtype": config.dtype,
        "quantization": config.quantization or "as the model is stored",
        "tensor_parallel_size": str(config.tensor_parallel_size),
        "speculative_decoding": said,
        "prefix_caching": "on" if config.enable_prefix_caching else "off",
    }


def engine_info(config: VLLMConfig) -> EngineInfo:
    """What the engine is and can do; a local folder is named without the way to it."""
    local = config.model.startswith(("/", "./", "../", "~"))
    return EngineInfo(
        model=config.served_model_name or (Path(config.model).name if local else config.model),
        context_tokens=config.context_tokens,
        logprobs=config.logprobs,
        parallel=config.parallel,
        top_logprobs=config.top_logprobs if config.logprobs else 0,
        settings=settings(config),
    )


def sampling_fields(sampling: Sampling, room_tokens: int, config: VLLMConfig) -> dict[str, Any]:
    """The fields of vLLM's `SamplingParams`; `room_tokens` is what the context leaves to the completion."""
    return {
        "max_tokens": min(sampling.max_tokens, room_tokens),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        # 0 is the token's own alone; None is none.
        "logprobs": min(sampling.top_logprobs, config.top_logprobs) if config.logprobs else None,
    }


def likeliest(places: Iterable[tuple[float, str]], most: int) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Log-probabilities and texts of the `most` likeliest tokens of one place, in falling order.

    vLLM lists the token that was drawn too, even where it is none of the likeliest.
    """
    ranked = sorted(places, key=lambda place: -place[0])[:most]
    return tuple(logprob for logprob, _ in ranked), tuple(text for _, text in ranked)


@dataclass(slots=True)
class CollectedOutput:
    """Collects the deltas (`RequestOutput`) of one request; `top_logprobs` alternatives are kept a token."""

    stop: tuple[str, ...]
    top_logprobs: int = 0
    texts: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[tuple[tuple[float, ...], tuple[str, ...]]] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    finish: str | None = None
    stop_string: str | None = None

    def take(self, output: Any) -> Chunk | None:
        """The chunk that an output brings, if it brings text. Raises EngineProtocolError."""
        try:
            piece = output.outputs[0]
            self.prompt_tokens = len(output.prompt_token_ids)
            self.cached_tokens = output.num_cached_tokens or self.cached_tokens
            self.tokens += len(piece.token_ids)
            for token, place in zip(piece.token_ids, piece.logprobs or (), strict=False):
                self._take_place(token, place)
            if piece.finish_reason is not None:
                self.finish = str(piece.finish_reason)
                self.stop_string = piece.stop_reason if piece.stop_reason in self.stop else None
            text = piece.text
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise EngineProtocolError(f"{NAME} sent an output in a form that is not known here") from error
        if not text:
            return None
        self.texts.append(text)
        return Chunk(text, self.tokens)

    def _take_place(self, token: int, place: Any) -> None:
        self.logprobs.append(float(place[token].logprob))
        if self.top_logprobs:
            every = ((float(other.logprob), other.decoded_token or "") for other in place.values())
            self.alternatives.append(likeliest(every, self.top_logprobs))

    def completion(self) -> Completion:
        """The whole completion. Raises EngineUnavailable, EngineProtocolError."""
        if self.finish in ("abort", "error"):
            raise EngineUnavailable(f"{NAME} gave the completion up: it was closed, or failed inside")
        if self.finish not in ("stop", "length"):
            raise EngineProtocolError(f"{NAME} ended a completion for an unknown reason: {self.finish!r}")
        if not self.tokens:
            raise EngineProtocolError(f"{NAME} ended a completion without a token")
        told = self.alternatives if len(self.alternatives) == self.tokens else []
        return Completion(
            text="".join(self.texts),
            finish="stop" if self.finish == "stop" else "length",
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.tokens,
            cached_tokens=min(self.cached_tokens, self.prompt_tokens),
            stop_string=self.stop_string,
            logprobs=tuple(self.logprobs) if len(self.logprobs) == self.tokens else (),
            top_logprobs=tuple(logprobs for logprobs, _ in told),
            top_tokens=tuple(texts for _, texts in told),
        )
