"""Errors of the classifier: tables that cannot be learnt from, artifacts that cannot be trusted.

ClassifierError
├── TableError                a table that cannot be used; names row and column where it can
│   ├── EmptyTable            no rows
│   ├── InvalidRow            a row is not JSON, lacks a column, or holds a wrong value
│   ├── DuplicateRow          the same (prompt, arm) twice
│   ├── MissingArms           fewer than two arms, or prompts without all arms where all are needed
│   ├── TooFewItems           too few prompts to fit or to hold any out
│   └── OneClassOnly          an arm is always right or always wrong
└── ArtifactError             a saved classifier that is not loaded or not written
    ├── ArtifactCorrupt       a file is missing, changed, or its numbers are not finite
    ├── ArtifactForbidden     pickles, symlinks, or files that the manifest does not list
    ├── ArtifactIncompatible  written by another format or with other features
    └── ArmsDiffer            it knows other arms than the table it is to be judged by

All are picklable: they cross process boundaries between deployments.
"""

from __future__ import annotations


class ClassifierError(Exception):
    """Base of everything that this package raises on purpose."""


class TableError(ClassifierError):
    """An outcome table that cannot be used; `row` counts from 1, as editors do."""

    def __init__(self, message: str, row: int | None = None, column: str | None = None) -> None:
        super().__init__(message, row, column)
        self.message = message
        self.row = row
        self.column = column

    def __str__(self) -> str:
        where = [f"row {self.row}"] if self.row is not None else []
        where += [f"column {self.column!r}"] if self.column is not None else []
        return f"{', '.join(where)}: {self.message}" if where else self.message


class EmptyTable(TableError):
    """The table has no rows."""


class InvalidRow(TableError):
    """A row is not a JSON object, lacks a column, or holds a value that the column cannot have."""


class DuplicateRow(TableError):
    """The same prompt and arm appear twice."""


class MissingArms(TableError):
    """There are fewer than two arms, or a prompt lacks an arm where all are needed."""


class TooFewItems(TableError):
    """Too few prompts, over all or with one arm, to fit a model and hold some out."""


class OneClassOnly(TableError):
    """An arm's scores are all 0 or all 1: nothing can be learnt about it."""


class ArtifactError(ClassifierError):
    """A saved classifier cannot be loaded or written; the message says what to do."""


class ArtifactCorrupt(ArtifactError):
    """A file is missing or differs from the manifest, or an array has a wrong shape or is not finite."""


class ArtifactForbidden(ArtifactError):
    """The directory holds a pickle, a symlink or a file that the manifest does not list."""


class ArtifactIncompatible(ArtifactError):
    """It was written in another format or for another version of the features."""


class ArmsDiffer(ArtifactError):
    """The classifier and an outcome table have fewer than two arms in common."""
