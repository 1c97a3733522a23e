"""Outcome tables: what each arm scored on each prompt, read strictly and kept as matrices."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifier.confidence import FACTS
from classifier.errors import (
    DuplicateRow,
    EmptyTable,
    MissingArms,
    OneClassOnly,
    TableError,
    TooFewItems,
)
from classifier.rows import Row

MIN_ITEMS = 40
MIN_ITEMS_PER_ARM = 20


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a table; `family` groups prompts of one kind."""

    prompt_id: str
    messages: tuple[Mapping[str, str], ...]
    family: str


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Items x arms: `scores` in [0, 1] and completion `tokens`, both (n, arms) and NaN where missing.

    `facts` (n, arms, FACTS) tell of the sample behind a score, where an arm draws one only: mean
    log-probability, completion tokens, cut at its length, answered (`confidence.SampleFacts`). Items keep the
    order of their first row; arms are sorted by name. `sha256` is of the file's bytes.
    """

    items: tuple[Item, ...]
    arms: tuple[str, ...]
    scores: NDArray[np.float64]
    tokens: NDArray[np.float64]
    facts: NDArray[np.float64]
    sha256: str

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families, sorted."""
        return tuple(sorted({item.family for item in self.items}))

    @property
    def rows(self) -> int:
        """Recorded (prompt, arm) pairs."""
        return int(np.count_nonzero(~np.isnan(self.scores)))

    def subset(self, index: Sequence[int] | NDArray[np.intp]) -> OutcomeTable:
        """The items at `index`, all arms."""
        chosen = np.asarray(index, dtype=np.intp)
        return OutcomeTable(
            tuple(self.items[int(i)] for i in chosen),
            self.arms,
            self.scores[chosen],
            self.tokens[chosen],
            self.facts[chosen],
            self.sha256,
        )

    def content_groups(self) -> NDArray[np.intp]:
        """One integer an item, equal for equal conversations: split by it, or copies leak across a split."""
        seen: dict[str, int] = {}
        keys = [json.dumps([dict(m) for m in item.messages], sort_keys=True) for item in self.items]
        return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.intp)

    def check_trainable(self) -> None:
        """Raise MissingArms, TooFewItems or OneClassOnly if no classifier can be learnt from this."""
        if len(self.arms) < 2:
            raise MissingArms(f"only arm {self.arms[0]!r} was recorded; routing needs at least two")
        if len(self.items) < MIN_ITEMS:
            raise TooFewItems(f"{len(self.items)} prompts; record at least {MIN_ITEMS}")
        for column, arm in enumerate(self.arms):
            scores = self.scores[:, column]
            scores = scores[~np.isnan(scores)]
            if scores.size < MIN_ITEMS_PER_ARM:
                raise TooFewItems(
                    f"arm {arm!r} has {scores.size} prompts; record {MIN_ITEMS_PER_ARM} or more"
                )
            if scores.min() == scores.max() and scores[0] in (0.0, 1.0):
                kind = "right" if scores[0] else "wrong"
                raise OneClassOnly(
                    f"arm {arm!r} is {kind} on every prompt: record prompts where it is not, or drop the arm"
                )

    def check_complete(self) -> None:
        """Raise MissingArms unless every prompt has every arm, as paired comparisons need."""
        for row, item in enumerate(self.items):
            missing = [arm for arm, s in zip(self.arms, self.scores[row], strict=True) if math.isnan(s)]
            if missing:
                raise MissingArms(
                    f"prompt {item.prompt_id!r} lacks {', '.join(map(repr, missing))}; record them"
                )


def read_table(path: str | Path) -> OutcomeTable:
    """Read a table in JSON lines (`.gz` too). Raises TableError or a subclass, naming row and column."""
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if str(path).endswith(".gz") else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read as JSON lines in UTF-8: {error}") from error
    # not splitlines: U+2028 and its kin may stand unescaped inside a JSON string
    return parse_table(text.split("\n"), sha256=hashlib.sha256(data).hexdigest())


def parse_table(lines: Iterable[str], sha256: str = "") -> OutcomeTable:
    """Parse lines of a table; blank lines are skipped, unknown columns ignored. Raises as `read_table`."""
    items: dict[str, Item] = {}
    cells: dict[tuple[str, str], tuple[float, float]] = {}
    lone: dict[tuple[str, str], tuple[float, ...]] = {}
    voting: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = Row(number, line)
        item = Item(row.text("prompt_id"), row.messages(), row.text("family", "all"))
        known = items.setdefault(item.prompt_id, item)
        if known.messages != item.messages:
            row.fail("messages", f"prompt {item.prompt_id!r} had other messages in an earlier row")
        if known.family != item.family:
            row.fail("family", f"prompt {item.prompt_id!r} had family {known.family!r} in an earlier row")
        key = (item.prompt_id, row.text("arm"))
        if key in cells:
            raise DuplicateRow(
                f"prompt {key[0]!r} with arm {key[1]!r} appears twice; keep one", number, "arm"
            )
        row.number("prompt_tokens", maximum=math.inf, default=0.0)
        if (drawn := row.samples()) == 1:
            lone[key] = row.only_sample()
        elif drawn:
            voting.add(key[1])
        cells[key] = (row.number("score", maximum=1.0), row.number("completion_tokens", maximum=math.inf))
    if not cells:
        raise EmptyTable("the table has no rows; record prompts first")
    arms = tuple(sorted({arm for _, arm in cells}))
    scores = np.full((len(items), len(arms)), np.nan)
    tokens = np.full((len(items), len(arms)), np.nan)
    row_of = {prompt_id: i for i, prompt_id in enumerate(items)}
    column_of = {arm: i for i, arm in enumerate(arms)}
    for (prompt_id, arm), (score, count) in cells.items():
        scores[row_of[prompt_id], column_of[arm]] = score
        tokens[row_of[prompt_id], column_of[arm]] = count
    facts = np.full((len(items), len(arms), FACTS), np.nan)
    for (prompt_id, arm), told in lone.items():
        if arm not in voting:
            facts[row_of[prompt_id], column_of[arm]] = told
    return OutcomeTable(tuple(items.values()), arms, scores, tokens, _with_cuts(facts), sha256)


def _with_cuts(facts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the table does not say how samples ended, those of the greatest length were cut there."""
    tokens, cut = facts[..., 1], facts[..., 2]
    if not np.isnan(tokens).all():
        facts[..., 2] = np.where(np.isnan(cut) & ~np.isnan(tokens), tokens >= np.nanmax(tokens), cut)
    return facts
