"""Sequences decoded together: left-padded to one length, so that all of them end in the same column."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

PREFILL_TOKENS = 8192  # padded prompt tokens computed at a time: bounds the memory of their activations
COLDEST = 1e-4  # logits divided by less would overflow


@dataclass(frozen=True, slots=True)
class Draw:
    """How a row's tokens are drawn; temperature 0 is greedy."""

    max_tokens: int
    temperature: float
    top_p: float
    rng: random.Random


class Row:
    """One sequence. `tokens` and `logprobs` grow by one a step until `ended`; `gone` makes it leave."""

    def __init__(self, prompt: tuple[int, ...], draw: Draw) -> None:
        self.prompt = prompt
        self.draw = draw
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.ended = False
        self.gone = False


R = TypeVar("R", bound=Row)


class Batch(Generic[R]):
    """Rows with their keys and values. `ends` are the tokens that end a reply. Used from one thread."""

    def __init__(self, model: Any, ends: frozenset[int]) -> None:
        self._model = model
        self._ends = ends
        self.rows: list[R] = []
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long)
        self._logits = torch.zeros(0, 0)

    @torch.inference_mode()
    def join(self, fresh: Sequence[R]) -> None:
        """Compute the prompts of `fresh`, equal ones once, and put them beside what is running."""
        pending = sorted(fresh, key=lambda row: len(row.prompt))
        while pending:
            prompts: dict[tuple[int, ...], int] = {}
            part: list[R] = []
            for row in pending:
                padded = len(row.prompt) * (len(prompts) + (row.prompt not in prompts))
                if part and padded > PREFILL_TOKENS:
                    break
                prompts.setdefault(row.prompt, len(prompts))
                part.append(row)
            pending = pending[len(part) :]
            self._prefill(list(prompts), part, [prompts[row.prompt] for row in part])

    @torch.inference_mode()
    def step(self) -> list[R]:
        """One token for every row; returns the rows that got one. Those that ended, or are gone, leave."""
        if not self.rows:
            return []
        served = self.rows
        tokens, logprobs = _draw(self._logits, served)
        for row, token, logprob in zip(served, tokens, logprobs, strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.ended = token in self._ends or len(row.tokens) >= row.draw.max_tokens
        kept = [i for i, row in enumerate(served) if not row.ended and not row.gone]
        if len(kept) < len(served):
            self._keep(kept)
        if self.rows:
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
            self._logits = self._forward(
                torch.tensor([[row.tokens[-1]] for row in self.rows], device=self._mask.device),
                self._mask,
                self._mask.sum(1, keepdim=True) - 1,
                self._cache,
            )
        return served

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        out = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def _prefill(self, prompts: list[tuple[int, ...]], rows: list[R], owners: list[int]) -> None:
        from transformers import DynamicCache

        device, width = self._model.device, max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt, device=device)
            mask[i, width - len(prompt) :] = 1
        cache: Any = DynamicCache()
        logits = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        chosen = torch.tensor(owners, device=device)
        cache.batch_select_indices(chosen)
        logits, mask = logits[chosen], mask[chosen]
        if self.rows:
            width = max(width, self._mask.shape[1])
            for mine, new in zip(self._cache.layers, cache.layers, strict=True):
                mine.keys = torch.cat([_widened(mine.keys, width), _widened(new.keys, width)])
                mine.values = torch.cat([_widened(mine.values, width), _widened(new.values, width)])
            self._mask = torch.cat([_widened(self._mask, width), _widened(mask, width)])
            self._logits = torch.cat([self._logits, logits])
        else:
            self._cache, self._mask, self._logits = cache, mask, logits
        self.rows = [*self.rows, *rows]

    def _keep(self, kept: list[int]) -> None:
        chosen = torch.tensor(kept, dtype=torch.long, device=self._mask.device)
        self.rows = [self.rows[i] for i in kept]
        self._mask = self._mask[chosen]
        # Columns that only longer sequences had used go with them.
        first = int(self._mask.any(0).int().argmax()) if kept else 0
        self._mask = self._mask[:, first:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[chosen][:, :, first:], layer.values[chosen][:, :, first:]


def _draw(logits: torch.Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """A token a row by inverse transform sampling, with its log-probability before temperature and top_p."""
    heat = torch.tensor([[row.draw.temperature] for row in rows], device=logits.device)
    p = torch.softmax(logits / heat.clamp(min=COLDEST), -1)
    for i, row in enumerate(rows):
        if row.draw.top_p < 1.0:
            ranked, order = p[i].sort(descending=True)
            p[i, order[ranked.cumsum(0) - ranked >= row.draw.top_p]] = 0.0
    mass = p.cumsum(-1)
    aim = torch.tensor([[row.draw.rng.random()] for row in rows], device=logits.device) * mass[:, -1:]
    drawn = torch.searchsorted(mass, aim, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
    tokens = torch.where(heat.squeeze(1) > 0, drawn, logits.argmax(-1))
    logprobs = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)
    return tokens.tolist(), logprobs.tolist()


def _widened(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Padded on the left of the sequence axis: the last of a mask, the one before the last of keys."""
    axis = 1 if tensor.dim() == 2 else 2
    missing = width - tensor.shape[axis]
    return torch.nn.functional.pad(tensor, (missing, 0) if axis == 1 else (0, 0, missing, 0))
