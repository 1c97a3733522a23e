"""How a request's tokens are drawn: the manager's per-request temperature and top_p, exact greedy draws, and
log-probabilities of the model itself.

Imports torch and transformers: only to be imported when an engine starts.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingTopKLogitsWarper,
    ContinuousBatchingTopPLogitsWarper,
)


def base_generation(vocabulary: int, ends: frozenset[int]) -> Any:
    """The manager's base configuration.

    What a request may set must differ from its default here, or the manager makes no processor for it. Each
    request sets all three, so these values are never drawn with.
    """
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=0.5,
        top_k=vocabulary,
        top_p=0.5,
        eos_token_id=sorted(ends) or -1,
    )


class GreedyOrAll(ContinuousBatchingTopKLogitsWarper):
    """top_k as far as it is used here: 1 is greedy, anything else leaves all tokens in.

    The class it stands for keeps every token that ties with the best one, which bfloat16 logits often do: a
    greedy reply would be a different one each time. It also sorts the vocabulary.
    """

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        greedy = (tensor_arg[: scores.size(0)] == 1).unsqueeze(-1)
        best = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.argmax(-1, keepdim=True), True)
        return scores.masked_fill(greedy & ~best, self.filter_value)


class NucleusOrAll(ContinuousBatchingTopPLogitsWarper):
    """top_p, without sorting the vocabulary where nobody in the batch asked for it.

    On a GPU it always sorts: that is cheap there, and looking would make the host wait for the device.
    """

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        if scores.device.type == "cpu":
            top_p = tensor_arg[: scores.size(0)].view(dtype=torch.float32)
            if bool((top_p >= 1.0).all()):
                return scores
        warped: torch.Tensor = super().__call__(scores, tensor_arg)
        return warped


class _RawLogprobs:
    """Keeps the logits of a step as the model gave them, and replaces the log-probabilities of its draws.

    The manager's own are those of the warped scores: 0 for every greedy token, and not to be compared
    between requests of different temperatures.
    """

    def __init__(self, sample: Any) -> None:
        self._sample = sample
        self._logits: torch.Tensor | None = None

    def keep(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._logits = scores
        return scores

    def sample(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        self._sample(scores, output_ids)
        logits, self._logits = self._logits, None
        if logits is None:
            raise RuntimeError("the manager drew tokens without running the logits processors")
        drawn = output_ids[0, : logits.size(0)].long().unsqueeze(-1)
        logprobs = (logits.gather(1, drawn).squeeze(-1) - logits.logsumexp(-1)).clamp(max=0.0)
        # The manager reads the bits of this row of integers as floats.
        output_ids[1, : logits.size(0)].copy_(logprobs.view(dtype=torch.int32))


def install(manager: Any, logprobs: bool) -> None:
    """Put the processors above in place of the manager's; before its thread starts, after its warm-up made
    the batch processor. Raises RuntimeError where this version of transformers is built otherwise.
    """
    processors = manager.logit_processor.logits_processor
    replaced = 0
    for i, processor in enumerate(processors):
        if isinstance(processor, ContinuousBatchingTopKLogitsWarper):
            processors[i] = GreedyOrAll(processor)  # type: ignore[arg-type]  # it has the same fields
            replaced += 1
        elif isinstance(processor, ContinuousBatchingTopPLogitsWarper):
            processors[i] = NucleusOrAll(processor)  # type: ignore[arg-type]
            replaced += 1
    runner = manager.batch_processor.model_runner
    if replaced != 2 or not callable(getattr(runner, "_sample", None)):
        raise RuntimeError("continuous batching of this transformers version draws tokens in another way")
    if logprobs:
        raw = _RawLogprobs(runner._sample)
        processors.insert(0, raw.keep)
        runner._sample = raw.sample
