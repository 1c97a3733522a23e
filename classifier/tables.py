"""Outcome tables: what each arm scored on each prompt, read strictly and kept as matrices."""

from __future__ import annotations

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
    TooFewItems,
)
from classifier.files import json_rows, read_rows
from classifier.rows import LARGEST, Row

MIN_ITEMS = 40
MIN_ITEMS_PER_ARM = 20
MIN_DISTINCT = 10


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

    def only_arms(self, arms: Sequence[str]) -> OutcomeTable:
        """These arms alone, and the items that have any of them. Raises MissingArms for one it lacks."""
        if absent := [arm for arm in arms if arm not in self.arms]:
            raise MissingArms(
                f"the table has no arm {', '.join(map(repr, absent))}; it has {', '.join(self.arms)}"
            )
        columns = [i for i, arm in enumerate(self.arms) if arm in arms]
        part = OutcomeTable(
            self.items,
            tuple(self.arms[i] for i in columns),
            self.scores[:, columns],
            self.tokens[:, columns],
            self.facts[:, columns],
            self.sha256,
        )
        return part.subset(np.flatnonzero(~np.isnan(part.scores).all(axis=1)))

    def fingerprints(self) -> NDArray[np.int64]:
        """One number an item, equal for equal conversations: what an artifact keeps to know them again."""
        told = (json.dumps([dict(m) for m in item.messages], sort_keys=True) for item in self.items)
        digests = [hashlib.sha256(text.encode()).digest()[:8] for text in told]
        return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)

    def hold_back(self, share: float) -> tuple[OutcomeTable, OutcomeTable]:
        """The table without about `share` of its prompts, and those. By the prompt's hash: the same prompt is
        held back from every table, and stays so when the share grows."""
        drawn = self.fingerprints().view(np.uint64) < share * 2.0**64
        return self.subset(np.flatnonzero(~drawn)), self.subset(np.flatnonzero(drawn))

    def content_groups(self) -> NDArray[np.intp]:
        """One integer an item, equal for equal conversations: split by it, or copies leak across a split."""
        seen: dict[str, int] = {}
        keys = [json.dumps([dict(m) for m in item.messages], sort_keys=True) for item in self.items]
        return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.intp)

    def check_enough(self) -> None:
        """Raise TooFewItems if no prompts could be held out."""
        if len(self.items) < MIN_ITEMS:
            raise TooFewItems(f"{len(self.items)} prompts; record at least {MIN_ITEMS}")
        if (distinct := len(np.unique(self.content_groups()))) < MIN_DISTINCT:
            raise TooFewItems(
                f"{len(self.items)} prompts, {distinct} of them different; record at least {MIN_DISTINCT}"
            )

    def check_trainable(self) -> None:
        """Raise MissingArms, TooFewItems or OneClassOnly if no classifier can be learnt from this."""
        if len(self.arms) < 2:
            raise MissingArms(f"only arm {self.arms[0]!r} was recorded; routing needs at least two")
        self.check_enough()
        for column, arm in enumerate(self.arms):
            if (rows := int(np.count_nonzero(~np.isnan(self.scores[:, column])))) < MIN_ITEMS_PER_ARM:
                raise TooFewItems(f"arm {arm!r} has {rows} prompts; record {MIN_ITEMS_PER_ARM} or more")
        self.check_two_classes()

    def check_two_classes(self) -> None:
        """Raise OneClassOnly for an arm, with rows enough to tell, that is always right or always wrong."""
        for column, arm in enumerate(self.arms):
            scores = self.scores[:, column]
            scores = scores[~np.isnan(scores)]
            if scores.size < MIN_ITEMS_PER_ARM:
                continue
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


def read_table(path: str | Path, arms: Sequence[str] | None = None) -> OutcomeTable:
    """Read a table in JSON lines (gzipped too) or Parquet; what a file is, its first bytes tell.

    `arms` keeps the rows of these arms alone. Raises TableError or a subclass, naming row and column.
    """
    return build_table(*read_rows(path), arms=arms)


def parse_table(lines: Iterable[str], sha256: str = "") -> OutcomeTable:
    """Parse lines of JSON; blank lines are skipped, unknown columns ignored. Raises as `read_table`."""
    return build_table(json_rows(lines), sha256)


def build_table(rows: Iterable[Row], sha256: str = "", arms: Sequence[str] | None = None) -> OutcomeTable:
    """From rows in any order. Raises as `read_table`."""
    items: dict[str, Item] = {}
    cells: dict[tuple[str, str], tuple[float, float]] = {}
    lone: dict[tuple[str, str], tuple[float, ...]] = {}
    voting: set[str] = set()
    for row in rows:
        arm = row.name("arm")
        if arms is not None and arm not in arms:
            continue
        item = Item(row.label("prompt_id"), row.messages(), row.label("family", "all"))
        known = items.setdefault(item.prompt_id, item)
        if known.messages != item.messages:
            row.fail("messages", f"prompt {item.prompt_id!r} had other messages in an earlier row")
        if known.family != item.family:
            row.fail("family", f"prompt {item.prompt_id!r} had family {known.family!r} in an earlier row")
        key = (item.prompt_id, arm)
        if key in cells:
            raise DuplicateRow(
                f"prompt {key[0]!r} with arm {key[1]!r} appears twice; keep one", row.at, "arm"
            )
        row.number("prompt_tokens", maximum=LARGEST, default=0.0)
        if (drawn := row.samples()) == 1:
            lone[key] = row.only_sample()
        elif drawn:
            voting.add(key[1])
        cells[key] = (row.number("score", maximum=1.0), row.number("completion_tokens", maximum=LARGEST))
    if not cells and not arms:
        raise EmptyTable("the table has no rows; record prompts first")
    found = tuple(sorted({arm for _, arm in cells}))
    if absent := [arm for arm in arms or () if arm not in found]:
        raise MissingArms(f"the table has no rows of {', '.join(map(repr, absent))}; name arms that it has")
    scores = np.full((len(items), len(found)), np.nan)
    tokens = np.full((len(items), len(found)), np.nan)
    row_of = {prompt_id: i for i, prompt_id in enumerate(items)}
    column_of = {arm: i for i, arm in enumerate(found)}
    for (prompt_id, arm), (score, count) in cells.items():
        scores[row_of[prompt_id], column_of[arm]] = score
        tokens[row_of[prompt_id], column_of[arm]] = count
    facts = np.full((len(items), len(found), FACTS), np.nan)
    for (prompt_id, arm), told in lone.items():
        if arm not in voting:
            facts[row_of[prompt_id], column_of[arm]] = told
    return OutcomeTable(tuple(items.values()), found, scores, tokens, _with_cuts(facts), sha256)


def _with_cuts(facts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the table does not say how samples ended, those of the greatest length were cut there."""
    tokens, cut = facts[..., 1], facts[..., 2]
    if not np.isnan(tokens).all():
        facts[..., 2] = np.where(np.isnan(cut) & ~np.isnan(tokens), tokens >= np.nanmax(tokens), cut)
    return facts
