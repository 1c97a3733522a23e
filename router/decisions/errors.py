"""Errors of the decision log.

DecisionLogError
├── InvalidDecision      a value in a log that no decision can have; names file, line and field
├── LogUnreadable        a file that is no log, or that cannot be read or written
└── LogUnavailable       the store with the log did not answer

All are picklable.
"""

from __future__ import annotations


class DecisionLogError(Exception):
    """Base of everything that the decision log raises on purpose; the message is one sentence."""


class InvalidDecision(DecisionLogError):
    """`line` counts from 1 (a row, in Parquet); `field` is a dotted path; "" and None where not known."""

    def __init__(self, problem: str, field: str = "", line: int | None = None, file: str = "") -> None:
        super().__init__(problem, field, line, file)
        self.problem = problem
        self.field = field
        self.line = line
        self.file = file

    def __str__(self) -> str:
        """One printable line: a field's name may be what a stranger wrote."""
        where = [self.file] if self.file else []
        where += [f"line {self.line}"] if self.line is not None else []
        where += [f"field {self.field[:100]!r}"] if self.field else []
        said = f"{', '.join(where)}: {self.problem}" if where else self.problem
        return "".join(each if each.isprintable() else "?" for each in said)


class LogUnreadable(DecisionLogError):
    """A file cannot be read or written as a log of decisions; the message says what to do."""


class LogUnavailable(DecisionLogError):
    """The store with the log did not answer; whether a write ran is unknown."""
