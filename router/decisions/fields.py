"""Reads the fields of a decision that came from elsewhere; every failure names its line and field."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from router.decisions.errors import InvalidDecision

MAX_CHARS = 200  # of a name or a code
MAX_ITEMS = 10_000  # of a list or a mapping
LARGEST = 1e15


class Fields:
    """One JSON object; `within` is the path of fields that leads to it."""

    def __init__(self, values: Any, line: int | None = None, within: str = "") -> None:
        self.line = line
        self._within = within
        if not isinstance(values, Mapping):
            raise InvalidDecision("must be a JSON object", within, line)
        self._values = values

    def fail(self, name: str, problem: str) -> NoReturn:
        raise InvalidDecision(problem, self._path(name), self.line)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def only(self, known: Collection[str]) -> None:
        for name in self._values:
            if name not in known:
                self.fail(str(name), f"is unknown here; there are {', '.join(known)}")

    def text(self, name: str, *, most: int = MAX_CHARS) -> str:
        value = self._needed(name)
        if not isinstance(value, str) or not value:
            self.fail(name, "must be a non-empty string")
        if len(value) > most:
            self.fail(name, f"must have at most {most} characters")
        return self._writable(name, value)

    def content(self, name: str, most: int) -> str:
        """Text that may be empty."""
        value = self._needed(name)
        if not isinstance(value, str) or len(value) > most:
            self.fail(name, f"must be a string of at most {most} characters")
        return self._writable(name, value)

    def maybe_text(self, name: str) -> str | None:
        return self.text(name) if self.has(name) else None

    def number(self, name: str, most: float = LARGEST, least: float = 0.0) -> float:
        value = self._needed(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(name, "must be a number")
        # Compared before it is converted: a whole number of any length may come.
        if not least <= value <= most or not math.isfinite(value):
            self.fail(name, f"must be a number from {least:g} to {most:g}")
        return float(value)

    def maybe_number(self, name: str, most: float = LARGEST, least: float = 0.0) -> float | None:
        return self.number(name, most, least) if self.has(name) else None

    def whole(self, name: str, default: int | None = None) -> int:
        if default is not None and not self.has(name):
            return default
        value = self.number(name)
        if value != int(value):
            self.fail(name, "must be a whole number")
        return int(value)

    def maybe_whole(self, name: str) -> int | None:
        return self.whole(name) if self.has(name) else None

    def flag(self, name: str) -> bool:
        """False where there is none."""
        return bool(self.maybe_flag(name))

    def maybe_flag(self, name: str) -> bool | None:
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            self.fail(name, "must be true or false")
        return value

    def items(self, name: str) -> list[Any]:
        """A list, empty where there is none."""
        value = self._values.get(name)
        value = [] if value is None else value
        if not isinstance(value, list | tuple) or len(value) > MAX_ITEMS:
            self.fail(name, f"must be a list of at most {MAX_ITEMS}")
        return list(value)

    def texts(self, name: str) -> tuple[str, ...]:
        each = self.items(name)
        numbered = Fields({str(i): value for i, value in enumerate(each)}, self.line, self._path(name))
        return tuple(numbered.text(str(i)) for i in range(len(each)))

    def numbers(self, name: str) -> tuple[float, ...]:
        each = self.items(name)
        numbered = Fields({str(i): value for i, value in enumerate(each)}, self.line, self._path(name))
        return tuple(numbered.number(str(i), least=-LARGEST) for i in range(len(each)))

    def objects(self, name: str) -> Iterator[Fields]:
        for i, value in enumerate(self.items(name)):
            yield Fields(value, self.line, f"{self._path(name)}.{i}")

    def inner(self, name: str) -> Fields:
        """A mapping, empty where there is none."""
        value = self._values.get(name)
        found = Fields({} if value is None else value, self.line, self._path(name))
        if len(found._values) > MAX_ITEMS:
            self.fail(name, f"must have at most {MAX_ITEMS} entries")
        return found

    def named(self) -> Iterator[tuple[str, Fields]]:
        """The values that are mappings themselves, by name."""
        for name, value in self._values.items():
            yield self._name(name), Fields(value, self.line, self._path(str(name)))

    def names(self) -> tuple[str, ...]:
        return tuple(self._name(name) for name in self._values)

    def _name(self, name: Any) -> str:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_CHARS:
            self.fail(str(name), f"a name has 1 to {MAX_CHARS} characters")
        return self._writable(name, name)

    def _writable(self, name: str, text: str) -> str:
        """JSON can spell halves of characters, which no file and no terminal takes."""
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(name, "has half a character (a lone surrogate)")
        return text

    def _needed(self, name: str) -> Any:
        value = self._values.get(name)
        if value is None:
            self.fail(name, "is missing")
        return value

    def _path(self, name: str) -> str:
        return f"{self._within}.{name}" if self._within else name
