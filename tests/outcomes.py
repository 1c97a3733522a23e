"""Outcome tables whose truth is known: sums whose p(success) depends on arm and digits alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from classifier.tables import OutcomeTable, parse_table

# p(success) for numbers of one, two and three digits
TRUTH: Mapping[str, tuple[float, float, float]] = {
    "direct": (0.80, 0.35, 0.05),
    "cot": (0.60, 0.55, 0.30),
    "sc/n8": (0.90, 0.70, 0.45),
}
TOKENS: Mapping[str, float] = {"direct": 10.0, "cot": 80.0, "sc/n8": 640.0, "cheap": 10.0, "dear": 100.0}
WORDINGS = ("What is {}?", "Calculate {}.", "Add these up: {}", "State the answer to: {}")


def question(rng: np.random.Generator, digits: int, wording: int | None = None) -> str:
    """A sum of two numbers of that many digits."""
    a, b = (int(rng.integers(10 ** (digits - 1), 10**digits)) for _ in range(2))
    return WORDINGS[int(rng.integers(len(WORDINGS))) if wording is None else wording].format(f"{a} + {b}")


def row(prompt_id: str, text: str, arm: str, score: float, tokens: float = 10.0, **more: object) -> str:
    """One line of a table."""
    messages = [{"role": "user", "content": text}]
    fields = {"prompt_id": prompt_id, "messages": messages, "family": "sums", "arm": arm, "score": score}
    return json.dumps({**fields, "prompt_tokens": 20, "completion_tokens": tokens, **more})


def sums(
    count: int,
    seed: int = 0,
    truth: Mapping[str, Sequence[float]] = TRUTH,
    *,
    soft: bool = False,
    families: int = 1,
) -> OutcomeTable:
    """`count` prompts, digits in turn, every arm of `truth`; `soft` records the mean of five tries."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        digits = 1 + i % 3
        text = question(rng, digits)
        for arm, p in truth.items():
            score = float(rng.binomial(5, p[digits - 1]) / 5 if soft else rng.random() < p[digits - 1])
            tokens = round(TOKENS.get(arm, 50.0) * digits * float(rng.lognormal(0.0, 0.3)), 1)
            lines.append(row(f"q{i}", text, arm, score, tokens, family=f"f{i // 3 % families}"))
    return parse_table(lines, sha256="0" * 64)


def digits_of(table: OutcomeTable) -> np.ndarray:
    """Digits (1, 2 or 3) of every item that `sums` made."""
    return 1 + np.array([int(item.prompt_id[1:]) % 3 for item in table.items])
