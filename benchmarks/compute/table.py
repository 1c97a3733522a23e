"""A recorded outcome table with its single samples, as matrices.

The reader of outcome tables checks the rows; here their samples are checked and kept too.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.errors import TableError
from classifier.rows import Row
from classifier.tables import OutcomeTable, parse_table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NO_ANSWER = -1
_VOTE = re.compile(r"sc\d+")


@dataclass(frozen=True, slots=True)
class Pools:
    """Single samples of each of n prompts in launch order, at most `width` of them; `count` (n,) are there.

    `answers` (n, width) are numbers equal for equal answers of a prompt, NO_ANSWER for none. `scores` in
    [0, 1], `tokens` (completion) and `logprobs` (mean a token, -inf where the engine told none) are
    (n, width); columns from `count` on mean nothing.
    """

    count: Ints
    answers: Ints
    scores: Floats
    tokens: Floats
    logprobs: Floats


@dataclass(frozen=True, slots=True)
class Recording:
    """A table: its prompts and arms, the samples of its largest vote, and what its rows were charged.

    `kinds` name each prompt's family, as `family/difficulty` where the table tells both.
    `prompt_tokens` (n,) are of one call of that vote. `charged` (n, arms) are the tokens that a budget pays
    for: all completions and, with every call, the prompt. Where `charged_known` is False a row does not tell
    (column `charged_tokens`), and a lower bound stands for it: one call a listed sample.
    """

    table: OutcomeTable
    kinds: tuple[str, ...]
    pools: Pools
    prompt_tokens: Floats
    charged: Floats
    charged_known: NDArray[np.bool_]

    @property
    def searches(self) -> tuple[str, ...]:
        """Arms of tier `search`."""
        return tuple(arm for arm in self.table.arms if arm.startswith("search/"))

    @property
    def recorded(self) -> tuple[str, ...]:
        """Arms taken as they were recorded; votes are replayed from their samples instead."""
        return tuple(arm for arm in self.table.arms if not is_vote(arm))


def is_vote(arm: str) -> bool:
    """Whether an arm is named as self-consistency is: its rows list samples that no stop cut short."""
    return _VOTE.fullmatch(arm.rpartition("/")[2]) is not None


def read_recording(*paths: str | Path) -> Recording:
    """Read tables in JSON lines as one. Raises TableError or a subclass, naming row and column.

    Rows are counted through all of them.
    """
    text = "\n".join(_text(path) for path in paths)
    table = parse_table(text.split("\n"), sha256=hashlib.sha256(text.encode()).hexdigest())
    row_of = {item.prompt_id: i for i, item in enumerate(table.items)}
    column_of = {arm: i for i, arm in enumerate(table.arms)}
    drawn: list[list[dict[str, Any]]] = [[] for _ in table.items]
    kinds = [item.family for item in table.items]
    prompt_tokens = np.zeros(len(table.items))
    charged = np.full(table.scores.shape, np.nan)
    known = np.zeros(table.scores.shape, dtype=np.bool_)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = Row.parse(number, line)
        at, arm = row_of[row.text("prompt_id")], row.text("arm")
        prompt = row.number("prompt_tokens", maximum=math.inf, default=0.0)
        told = json.loads(line)
        kinds[at] = _kind(row, table.items[at].family, told.get("difficulty") or "")
        samples = _samples(row, told.get("samples", []))
        if is_vote(arm) and len(samples) > len(drawn[at]):
            drawn[at], prompt_tokens[at] = samples, prompt
        paid = row.number("charged_tokens", maximum=math.inf, default=0.0)
        known[at, column_of[arm]] = paid > 0
        least = table.tokens[at, column_of[arm]] + prompt * max(1, len(samples))
        charged[at, column_of[arm]] = paid if paid > 0 else least
    return Recording(table, tuple(kinds), _pools(drawn), prompt_tokens, charged, known)


def _text(path: str | Path) -> str:
    try:
        data = Path(path).read_bytes()
        return (gzip.decompress(data) if str(path).endswith(".gz") else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read as JSON lines in UTF-8: {error}") from error


def _kind(row: Row, family: str, difficulty: object) -> str:
    if not isinstance(difficulty, str):
        row.fail("difficulty", "must be a string")
    return f"{family}/{difficulty}" if difficulty else family


def _samples(row: Row, samples: list[Any]) -> list[dict[str, Any]]:
    """The row's samples, checked; those of votes stand in launch order."""
    for index, sample in enumerate(samples):
        if not isinstance(sample, dict):
            row.fail("samples", f"sample {index} must be an object {{answer, score, completion_tokens}}")
        if not isinstance(sample.get("answer"), str | None):
            row.fail("samples", f"the answer of sample {index} must be a string or null")
        for name, most in (("score", 1.0), ("completion_tokens", math.inf)):
            if not _is_number(sample.get(name)) or not 0.0 <= sample[name] <= most:
                span = "in [0, 1]" if most == 1.0 else "not negative"
                row.fail("samples", f"{name} of sample {index} must be a number, {span}")
        if sample.get("mean_logprob") is not None and not _is_number(sample["mean_logprob"]):
            row.fail("samples", f"mean_logprob of sample {index} must be a number or null")
    return samples


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _pools(drawn: list[list[dict[str, Any]]]) -> Pools:
    count = np.array([len(samples) for samples in drawn], dtype=np.int64)
    shape = (len(drawn), int(count.max(initial=0)))
    answers = np.full(shape, NO_ANSWER, dtype=np.int64)
    scores, tokens, logprobs = np.zeros(shape), np.zeros(shape), np.full(shape, -np.inf)
    for at, samples in enumerate(drawn):
        numbers: dict[str, int] = {}
        for i, sample in enumerate(samples):
            if sample.get("answer") is not None:
                answers[at, i] = numbers.setdefault(sample["answer"], len(numbers))
            scores[at, i] = sample["score"]
            tokens[at, i] = sample["completion_tokens"]
            if sample.get("mean_logprob") is not None:
                logprobs[at, i] = sample["mean_logprob"]
    return Pools(count, answers, scores, tokens, logprobs)
