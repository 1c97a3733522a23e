"""Attention of one new token a sequence as two products a group of heads: several times quicker on a CPU.

The kernel behind torch's scaled_dot_product_attention repeats keys and values for every query head and works
through sequences one by one, which for a single query costs more than the model's weights do. Prompts go
through it as they always do.
"""

from __future__ import annotations

from typing import Any

import torch

NAME = "grouped"


def use_grouped_attention(model: Any) -> None:
    """Make a loaded model use it; any model whose attention transformers lets one replace."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """`query` (n, heads, q, d), `key` and `value` (n, groups, k, d) -> (n, q, heads, d), without weights."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    sequences, heads, queries, size = query.shape
    if queries > 1:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return out, None
    groups = key.shape[1]
    scores = torch.matmul(query.reshape(sequences, groups, heads // groups, size), key.transpose(2, 3))
    scores = scores * (size**-0.5 if scaling is None else scaling)
    if attention_mask is not None:  # (n, 1, 1, k), True where a key counts
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return torch.matmul(weights, value).reshape(sequences, 1, heads, size), None
