"""From tokens to FLOPs, bytes, accelerator seconds and money.

FLOPs per token = 2 N + 4 L h s: the weights' multiply-adds, and attention over a context of s tokens.
A decode step takes max(memory, compute): the weights and every sequence's keys and values are read once, at
80 % of the bandwidth; FLOPs run at the peak. Computed prefill is billed, cached prefill is not.
(Kaplan et al., arXiv 2001.08361, section 2.1 for the FLOPs; Pope et al., arXiv 2211.05102, for the steps.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.hardware import Hardware, ModelShape
from backends.task import Spend

USABLE_BANDWIDTH = 0.8
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Cost:
    """What a spend comes to: FLOPs, bytes of keys and values written, accelerator seconds, USD."""

    flops: float = 0.0
    kv_bytes: float = 0.0
    gpu_seconds: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.kv_bytes + other.kv_bytes,
            self.gpu_seconds + other.gpu_seconds,
            self.usd + other.usd,
        )


def flops_per_token(model: ModelShape, context_tokens: float) -> float:
    """2 N + 4 L h s for one token that attends to `context_tokens` tokens."""
    return 2 * model.active_parameters + 4 * model.layers * model.hidden * context_tokens


def decode_step_s(model: ModelShape, hardware: Hardware, context_tokens: float, batch: float = 1) -> float:
    """Seconds of one step that gives each of `batch` sequences a token."""
    read = model.weight_bytes + batch * model.kv_bytes_per_token * context_tokens
    memory_s = read / (USABLE_BANDWIDTH * hardware.bandwidth_bytes_per_s)
    return max(memory_s, batch * flops_per_token(model, context_tokens) / hardware.peak_flops_per_s)


def cost(
    spend: Spend,
    model: ModelShape,
    hardware: Hardware,
    usd_per_hour: float | None = None,
    *,
    batch: float = 1,
) -> Cost:
    """What `spend` cost on one piece of `hardware`.

    A spend adds calls up, so its mean call stands for each: their contexts are taken as alike. `batch` is how
    many sequences were decoded together; each then bears its share of a step, on hardware that shares steps.
    `usd_per_hour` replaces the data sheet's price. A spend without calls costs nothing. Raises ValueError for
    a batch below 1.
    """
    if batch < 1:
        raise ValueError(f"a step decodes at least one sequence, not {batch}")
    if spend.calls == 0:
        return Cost()
    if not hardware.shares_steps:
        batch = 1
    prompt, cached = spend.prompt / spend.calls, spend.prompt_cached / spend.calls
    completion = spend.completion / spend.calls
    # A call's computed prompt tokens stand at positions cached+1 .. prompt, its completion's after them.
    prefill_flops = (prompt - cached) * flops_per_token(model, (cached + prompt + 1) / 2)
    decode_context = prompt + (completion + 1) / 2
    decode_flops = completion * flops_per_token(model, decode_context)
    read_s = model.weight_bytes / (USABLE_BANDWIDTH * hardware.bandwidth_bytes_per_s)
    prefill_s = max(read_s, prefill_flops / hardware.peak_flops_per_s) if prompt > cached else 0.0
    decode_s = completion * decode_step_s(model, hardware, decode_context, batch) / batch
    gpu_seconds = spend.calls * (prefill_s + decode_s)
    price = hardware.usd_per_hour if usd_per_hour is None else usd_per_hour
    return Cost(
        flops=spend.calls * (prefill_flops + decode_flops),
        kv_bytes=float(model.kv_bytes_per_token * (spend.prompt_computed + spend.completion)),
        gpu_seconds=gpu_seconds,
        usd=gpu_seconds / SECONDS_PER_HOUR * price,
    )


def most_gpu_seconds(
    tokens: int,
    model: ModelShape,
    hardware: Hardware,
    *,
    calls: int | None = None,
    completion_tokens: int | None = None,
) -> float:
    """No run of at most `tokens` tokens (`Spend.total`) takes longer, whatever calls it is made of.

    Every token, read or generated, costs at most a decode step of one sequence at the longest context that
    the tokens allow: a call's prompt has a token at least, and reading the weights once for it is no more
    than that. `calls` and `completion_tokens`, where both are bounded, give a closer bound: each call reads
    the weights once, and what is not generated is prefill at its peak. Grows with `tokens`.
    """
    step_s = decode_step_s(model, hardware, tokens + 1)
    loose = tokens * step_s
    if calls is None or completion_tokens is None:
        return loose
    generated = min(tokens, completion_tokens)
    read_s = model.weight_bytes / (USABLE_BANDWIDTH * hardware.bandwidth_bytes_per_s)
    prefill_s = (tokens - generated) * flops_per_token(model, tokens + 1) / hardware.peak_flops_per_s
    return min(loose, calls * read_s + prefill_s + generated * step_s)


def mean_overlap(spans: Sequence[tuple[float, float]]) -> float:
    """How many spans (start, end) run at a time on average, while any does; at least 1.

    As the batch of `cost` it makes n spans that run together as dear as the steps they shared.
    """
    total = sum(end - start for start, end in spans)
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return max(1.0, total / covered) if covered > 0 else 1.0
