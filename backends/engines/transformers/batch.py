"""Sequences decoded together: left-padded to one length, so that all of them end in the same column."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

SPARE_COLUMNS = 32  # room for as many steps before keys and values are copied to a larger place
DEAD_SHARE = 0.15  # of the rows may be over before the others are moved together, which copies everything
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

    @property
    def over(self) -> bool:
        return self.ended or self.gone


R = TypeVar("R", bound=Row)


class Batch(Generic[R]):
    """Rows with their keys and values. `ends` are the tokens that end a reply. Used from one thread.

    Rows that are over are computed along for a while: to move the others together costs more.
    """

    def __init__(self, model: Any, ends: frozenset[int]) -> None:
        self._model = model
        self._ends = ends
        self._rows: list[R] = []
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long)
        self._logits = torch.zeros(0, 0)

    @property
    def rows(self) -> list[R]:
        """The rows that still get tokens."""
        return [row for row in self._rows if not row.over]

    @torch.inference_mode()
    def join(self, fresh: Sequence[R]) -> None:
        """Compute the prompts of `fresh`, equal ones once, and put them beside what is running."""
        if fresh:
            self._keep()
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
        """One token for every row; returns the rows that got one."""
        served = self.rows
        if len(served) < (1 - DEAD_SHARE) * len(self._rows) or not served:
            self._keep()
        if not served:
            return []
        tokens, logprobs = _draw(self._logits, self._rows)
        for row, token, logprob in zip(self._rows, tokens, logprobs, strict=True):
            if not row.over:
                row.tokens.append(token)
                row.logprobs.append(logprob)
                row.ended = token in self._ends or len(row.tokens) >= row.draw.max_tokens
        if self.rows:
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
            self._logits = self._forward(
                torch.tensor([[token] for token in tokens], device=self._mask.device),
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
        device, width = self._model.device, max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt, device=device)
            mask[i, width - len(prompt) :] = 1
        cache = _empty_cache(self._model)
        logits = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        chosen = torch.tensor(owners, device=device)
        cache.batch_select_indices(chosen)
        logits, mask = logits[chosen], mask[chosen]
        if self._rows:
            width = max(width, self._mask.shape[1])
            for mine, new in zip(self._cache.layers, cache.layers, strict=True):
                mine.keys = torch.cat([_widened(mine.keys, width), _widened(new.keys, width)])
                mine.values = torch.cat([_widened(mine.values, width), _widened(new.values, width)])
            self._mask = torch.cat([_widened(self._mask, width), _widened(mask, width)])
            self._logits = torch.cat([self._logits, logits])
        else:
            self._cache, self._mask, self._logits = cache, mask, logits
        self._rows = [*self._rows, *rows]

    def _keep(self) -> None:
        """Move the rows that go on together, and drop columns that only the others had used."""
        kept = [i for i, row in enumerate(self._rows) if not row.over]
        if len(kept) == len(self._rows):
            return
        chosen = torch.tensor(kept, dtype=torch.long, device=self._mask.device)
        self._rows = [self._rows[i] for i in kept]
        self._mask, self._logits = self._mask[chosen], self._logits[chosen]
        first = int(self._mask.any(0).int().argmax()) if kept else 0
        self._mask = self._mask[:, first:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[chosen, :, first:], layer.values[chosen, :, first:]


def _empty_cache(model: Any) -> Any:
    """A DynamicCache whose layers have room to grow."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class Roomy(DynamicLayer):  # type: ignore[no-untyped-call]
        """Keys and values as the front part of a larger place, so that a step writes one column."""

        keys: Any
        values: Any
        _place: tuple[torch.Tensor, torch.Tensor] | None = None

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **more: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if not self.is_initialized or self.keys.numel() == 0 or key_states.shape[2] > 1:
                whole: tuple[torch.Tensor, torch.Tensor] = super().update(
                    key_states, value_states, *args, **more
                )
                return whole
            columns, place = self.keys.shape[2], self._place
            fits = place is not None and place[0].shape[2] > columns
            if place is None or not fits or place[0].data_ptr() != self.keys.data_ptr():
                place = self._place = _larger(self.keys), _larger(self.values)
            place[0][:, :, columns] = key_states[:, :, 0]
            place[1][:, :, columns] = value_states[:, :, 0]
            self.keys, self.values = place[0][:, :, : columns + 1], place[1][:, :, : columns + 1]
            return self.keys, self.values

    cache: Any = DynamicCache()
    make: Any = Roomy
    cache.layers = [make() for _ in range(model.config.get_text_config().num_hidden_layers)]
    return cache


def _larger(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, 0, 0, SPARE_COLUMNS))


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
