"""The OpenAI chat protocol from the client's side: request bodies, streamed pieces, errors, by dialect."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.engines.base import Chunk, Completion, Generation, Message
from backends.engines.config import OpenAIHTTPConfig
from backends.engines.vllm_wire import cache_salt, likeliest
from backends.errors import ContextOverflow, EngineError, EngineProtocolError, EngineUnavailable

TOKENS_PER_MESSAGE = 8  # role, separators and end marks of any chat template in use
OVERFLOW_CODES = ("context_length_exceeded", "exceed_context_size_error")
OVERFLOW_WORDS = re.compile(r"context (length|size|window)|maximum input length", re.IGNORECASE)
NO_ROOM = re.compile(r"max_tokens must be at least 1, got 0\b")  # vLLM's words for a prompt that just fits
ERROR_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def chat_messages(messages: Sequence[Message], prefix: str) -> dict[str, Any]:
    """The `messages` of a request, with the fields that make the server continue `prefix` if there is one."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    if not prefix:
        return {"messages": turns}
    turns.append({"role": "assistant", "content": prefix})
    return {"messages": turns, "continue_final_message": True, "add_generation_prompt": False}


def chat_body(config: OpenAIHTTPConfig, generation: Generation) -> dict[str, Any]:
    """The body of `POST /chat/completions`; only fields that the dialect knows."""
    sampling = generation.sampling
    body: dict[str, Any] = {
        "model": config.model,
        **chat_messages(generation.messages, generation.prefix),
        "stream": True,
        "stream_options": {"include_usage": True},
        # vLLM refuses more than its context; what the prompt leaves of it, the server works out itself.
        config.max_tokens_field: min(sampling.max_tokens, config.context_tokens),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if config.wants_logprobs:
        body["logprobs"] = True
    alternatives = min(sampling.top_logprobs, config.most_top_logprobs)
    if alternatives:
        # vLLM lists the drawn token first, in a place of its own where it is none of the likeliest.
        body["top_logprobs"] = alternatives + (config.dialect == "vllm")
    if config.dialect == "vllm":
        body["stream_options"]["continuous_usage_stats"] = True
        # Otherwise the model's generation_config.json adds samplers that nobody asked for.
        body |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        if generation.cache_scope:
            body["cache_salt"] = cache_salt(generation.cache_scope)
    if config.dialect == "llamacpp":
        body["timings_per_token"] = True
        body["reasoning_format"] = "none"  # thoughts stay in the text, as with every other engine
        # No sampler but those asked for, and temperature first, as elsewhere.
        body["samplers"] = ["temperature", "top_p"]
    return body


def prompt_bound(messages: Sequence[Message], prefix: str, template_tokens: int) -> int:
    """No tokeniser makes more tokens than a text has UTF-8 bytes; the template's own come on top."""
    text = sum(len(message.content.encode()) for message in messages) + len(prefix.encode())
    return text + TOKENS_PER_MESSAGE * len(messages) + template_tokens


@dataclass(slots=True)
class StreamedCompletion:
    """Collects the events of one streamed chat completion (choice 0), `top_logprobs` alternatives a token."""

    engine: str
    stop: tuple[str, ...]
    top_logprobs: int = 0
    texts: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[tuple[tuple[float, ...], tuple[str, ...]]] = field(default_factory=list)
    finish: str | None = None
    stop_string: str | None = None
    usage: dict[str, Any] | None = None
    tokens: int = 0

    def take(self, event: dict[str, Any]) -> Chunk | None:
        """The chunk that an event brings, if it brings text. Raises EngineProtocolError."""
        try:
            usage = event.get("usage")
            if isinstance(usage, dict):
                self.usage = usage
            choices = event.get("choices") or []
            text = self._take_choice(choices[0]) if choices else ""
            # The server's running count where it gives one; else at least one token a piece of text.
            told = (usage or {}).get("completion_tokens") or (event.get("timings") or {}).get("predicted_n")
            self.tokens = max(int(told or 0), self.tokens + bool(text and not told))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise EngineProtocolError(
                f"{self.engine} sent an event that is no chat completion chunk"
            ) from error
        return Chunk(text, self.tokens) if text else None

    def _take_choice(self, choice: dict[str, Any]) -> str:
        text = (choice.get("delta") or {}).get("content") or ""
        if not isinstance(text, str):
            raise TypeError("content is not text")
        if text:
            self.texts.append(text)
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        for token in tokens:
            self.logprobs.append(float(token["logprob"]))
            others = token.get("top_logprobs")
            if self.top_logprobs and others:
                every = ((float(other["logprob"]), str(other["token"])) for other in others)
                self.alternatives.append(likeliest(every, self.top_logprobs))
        if choice.get("finish_reason") is not None:
            self.finish = str(choice["finish_reason"])
            reason = choice.get("stop_reason")  # vLLM: the string, a token's number, or null
            self.stop_string = reason if reason in self.stop else None
        return text

    def completion(self) -> Completion:
        """The whole completion. Raises EngineProtocolError where an ending or a count is missing."""
        if self.finish not in ("stop", "length"):
            how = "was cut off" if self.finish is None else f"ended with {self.finish[:32]!r}"
            raise EngineProtocolError(f"the completion of {self.engine} {how}")
        usage = self.usage or {}
        prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        if not prompt or completion is None or (self.texts and not completion):
            raise EngineProtocolError(f"{self.engine} sent no usage: the tokens it spent are unknown")
        cached = _count(usage.get("prompt_tokens_details") or {}, "cached_tokens") or 0
        told = self.alternatives if len(self.alternatives) == completion else []
        return Completion(
            text="".join(self.texts),
            finish="stop" if self.finish == "stop" else "length",
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=min(cached, prompt),
            stop_string=self.stop_string,
            logprobs=tuple(self.logprobs) if len(self.logprobs) == completion else (),
            top_logprobs=tuple(logprobs for logprobs, _ in told),
            top_tokens=tuple(texts for _, texts in told),
        )


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def refusal(engine: str, status: int, body: object, prompt_tokens: int, context_tokens: int) -> EngineError:
    """The error that a reply other than 200 stands for; its text is not repeated, it may quote the prompt.

    `prompt_tokens` is the bound to report for a prompt that is too long, where the reply does not tell.
    """
    error = body.get("error", body) if isinstance(body, dict) else {}
    error = error if isinstance(error, dict) else {}
    names = [str(error.get(key)) for key in ("code", "type")]
    message = str(error.get("message", ""))
    if status == 400 and NO_ROOM.search(message):
        return ContextOverflow(context_tokens, context_tokens)
    if status in (400, 413, 422) and (OVERFLOW_WORDS.search(message) or set(names) & set(OVERFLOW_CODES)):
        told = error.get("n_prompt_tokens")
        numbers = [int(number) for number in re.findall(r"\d{1,9}", message)]
        size = told if isinstance(told, int) else max(numbers, default=prompt_tokens)
        return ContextOverflow(size, int(error.get("n_ctx") or context_tokens))
    named = ", ".join(
        name for name in names if ERROR_NAME.fullmatch(name) and name not in ("None", str(status))
    )
    reason = f"{status} {named}".strip()
    if status in (401, 403, 404):
        return EngineUnavailable(f"{engine} refused ({reason}): check base_url, model and api_key_env")
    if status in (408, 409, 425, 429) or status >= 500:
        return EngineUnavailable(f"{engine} is overloaded or failing ({reason})")
    return EngineProtocolError(f"{engine} did not accept the request ({reason})")
