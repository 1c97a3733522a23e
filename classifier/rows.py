"""One row of an outcome table, checked column by column."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from classifier.errors import InvalidRow

_TURN = ("role", "content")
LARGEST = 1e9  # tokens, or nats below nothing: beyond this something else was written down
_LONGEST_NAME = 200


class Row:
    """Reads columns of one row; every failure is an InvalidRow that names row and column."""

    def __init__(self, number: int, row: Mapping[str, Any]) -> None:
        self.at = number
        self._row = row

    @classmethod
    def parse(cls, number: int, line: str) -> Row:
        """From a line of JSON."""
        try:
            # NaN is taken here and refused by its column
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidRow(f"is not JSON: {error}", number) from error
        if not isinstance(row, dict):
            raise InvalidRow("must be a JSON object", number)
        return cls(number, row)

    def fail(self, column: str, message: str) -> NoReturn:
        raise InvalidRow(message, self.at, column)

    def text(self, column: str, default: str | None = None) -> str:
        value = self._row.get(column, default)
        if value is None:
            self.fail(column, "is missing")
        if not isinstance(value, str) or not value:
            self.fail(column, "must be a non-empty string")
        return value

    def label(self, column: str, default: str | None = None) -> str:
        """A text, or a whole number that stands for one, as other people's tables have them."""
        value = self._row.get(column)
        if value is None and default is not None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
            return str(value)
        return self.text(column)

    def name(self, column: str) -> str:
        """A text that can be printed in a table."""
        value = self.text(column)
        if len(value) > _LONGEST_NAME or not value.isprintable():
            self.fail(column, f"must be at most {_LONGEST_NAME} characters that can be printed")
        return value

    def number(self, column: str, maximum: float, default: float | None = None) -> float:
        value = self._row.get(column, default)
        if value is None:
            self.fail(column, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(column, "must be a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or not 0.0 <= number <= maximum:
            span = "in [0, 1]" if maximum == 1.0 else f"in [0, {maximum:.0e}]"
            self.fail(column, f"must be {span}, not {str(value)[:20]}")
        return number

    def messages(self) -> tuple[Mapping[str, str], ...]:
        """The conversation; a table with a text column `prompt` in its place has one user's turn a row."""
        value = self._row.get("messages")
        if value is None and isinstance(self._row.get("prompt"), str):
            return ({"role": "user", "content": self._row["prompt"]},)
        if isinstance(value, str):
            value = self._unpacked(value)
        if not isinstance(value, list) or not value:
            self.fail("messages", "must be a non-empty list of {role, content}")
        turns = []
        for turn in value:
            role, content = (
                (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
            )
            if not isinstance(role, str) or not isinstance(content, str):
                self.fail("messages", "every message needs a role and a content that are strings")
            turns.append({"role": role, "content": content})
        return tuple(turns)

    @staticmethod
    def _unpacked(text: str) -> Any:
        """Tables of flat columns hold a conversation as JSON; None for any other text."""
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None

    def samples(self) -> int:
        """How many samples the row tells of."""
        samples = self._row.get("samples")
        if samples is None:
            return 0
        if not isinstance(samples, list):
            self.fail("samples", "must be a list")
        return len(samples)

    def column(self, name: str) -> Any:
        """The value as it was written, None where there is none; for readers that check it themselves."""
        return self._row.get(name)

    def with_column(self, name: str, value: Any) -> Row:
        """The same row with another value in one column."""
        return Row(self.at, {**self._row, name: value})

    def only_sample(self) -> tuple[float, float, float, float]:
        """Of a row with one sample: mean log-probability, completion tokens, cut at its length (0 or 1),
        answered (0 or 1); NaN for what the row does not tell."""
        sample = self._row["samples"][0]
        if not isinstance(sample, dict):
            self.fail("samples", "must hold objects {answer, score, completion_tokens, mean_logprob}")
        finish = sample.get("finish")
        return (
            self._fact(sample, "mean_logprob"),
            self._fact(sample, "completion_tokens"),
            math.nan if finish is None else float(finish == "length"),
            float(sample["answer"] is not None) if "answer" in sample else math.nan,
        )

    def _fact(self, sample: Mapping[str, Any], name: str) -> float:
        value = sample.get(name)
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
            self.fail("samples", f"{name} must be a number or null")
        return float(value)
