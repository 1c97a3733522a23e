"""What is said to llama.cpp's server and what it answers: bodies, completions, refusals, parameters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from backends.engines.base import Completion, Sampling
from backends.engines.config import LlamaCppConfig
from backends.engines.llamacpp_settings import apply_settings
from backends.errors import ContextOverflow, EngineError, EngineProtocolError, EngineUnavailable

NAME = "llama.cpp"
TOP_LOGPROBS = 20  # the server would tell more; this is what other engines tell too
RANDOM_SEED = 0xFFFFFFFF  # the server draws its own seed when it sees this one


def load_server(config: LlamaCppConfig, path: Path, key: str) -> Any:
    """Load the model and listen on a free port of 127.0.0.1; blocks for seconds. Raises RuntimeError."""
    import xllamacpp

    # One core is left to the rest of the process: oversubscribed, its spinning threads lose 90 % of their
    # speed.
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) - 1)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [key]
    params.ui = False
    params.verbosity = -1  # prints nothing
    params.n_parallel = config.parallel
    params.n_ctx = config.context_tokens * config.parallel
    params.kv_unified = False  # every slot has its own share, so one request's context is known
    params.fit_params = False  # the context is what was asked for, or loading fails
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    apply_settings(params, config)
    params.n_threads_http = config.parallel + 8
    params.cache_ram_mib = config.prompt_cache_mib
    if config.shares_prompts:
        # 0: always the slot used longest ago, filled from the prompt cache; see LlamaCppEngine._share.
        params.slot_prompt_similarity = 0.0
    params.prefill_assistant = False  # a prefix is appended after the template, not here
    return xllamacpp.Server(params)


def completion_body(prompt: str, sampling: Sampling, logprobs: bool) -> dict[str, Any]:
    """The body of `POST /completion`."""
    body: dict[str, Any] = {
        "prompt": prompt,
        "stream": True,
        "cache_prompt": True,
        "n_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # Temperature first, as other engines do, and no other sampler: the draw is what was asked for.
        "samplers": ["temperature", "top_p"],
        "n_probs": max(1, min(sampling.top_logprobs, TOP_LOGPROBS)) if logprobs else 0,
        "stop": list(sampling.stop),
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed % RANDOM_SEED
    return body


def completion(text: str, event: dict[str, Any], told: list[Any], alternatives: int) -> Completion:
    """The completion that the last event of a stream ends. Raises EngineProtocolError.

    `told` is what the server said of each token; `alternatives` is how many others a token were asked for.
    """
    stop_type = event.get("stop_type")
    if stop_type not in ("eos", "word", "limit"):
        raise EngineProtocolError(f"{NAME} ended a completion for an unknown reason: {stop_type!r}")
    try:
        tokens = int(event["tokens_predicted"])
        cached, computed = int(event["timings"]["cache_n"]), int(event["timings"]["prompt_n"])
    except (KeyError, TypeError, ValueError) as error:
        raise EngineProtocolError(f"{NAME} did not say how many tokens it processed") from error
    # The server reports one token for a character made of several; then they are not all known.
    known = told if len(told) == tokens else []
    try:
        tops = [token["top_logprobs"][:alternatives] for token in known] if alternatives else []
        logprobs = tuple(float(token["logprob"]) for token in known)
        top_logprobs = tuple(tuple(float(top["logprob"]) for top in place) for place in tops)
        top_tokens = tuple(tuple(str(top["token"]) for top in place) for place in tops)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineProtocolError(f"{NAME} sent log-probabilities that cannot be read") from error
    return Completion(
        text=text,
        finish="length" if stop_type == "limit" else "stop",
        prompt_tokens=cached + computed,
        completion_tokens=tokens,
        cached_tokens=cached,
        stop_string=event.get("stopping_word") if stop_type == "word" else None,
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        top_tokens=top_tokens,
    )


def refusal(status: int, body: dict[str, Any]) -> EngineError:
    """The error that a reply other than 200 (or an error inside a stream) stands for.

    Its message is not repeated: it may quote the prompt.
    """
    error = body.get("error")
    error = error if isinstance(error, dict) else {}
    if error.get("type") == "exceed_context_size_error":
        return ContextOverflow(int(error.get("n_prompt_tokens", 0)), int(error.get("n_ctx", 0)))
    kind = str(error.get("type", "no reason given"))[:64]
    if status >= 500 or status == 429:
        return EngineUnavailable(f"{NAME} failed ({status} {kind})")
    return EngineProtocolError(f"{NAME} refused the request ({status} {kind})")
