"""Is a file a log of decisions or an outcome table? Its first row tells."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from classifier.errors import TableError
from classifier.files import read_rows
from router.replay.errors import NothingToReplay

Kind = Literal["log", "table"]


def kind_of(path: Path) -> Kind:
    """Raises NothingToReplay for what is neither, or empty, or cannot be read."""
    try:
        columns = _columns(path)
    except TableError as error:
        raise NothingToReplay(f"{path} is neither a log of decisions nor an outcome table: {error}") from None
    if "decision_id" in columns:
        return "log"
    if {"prompt_id", "arm", "score"} & columns:
        return "table"
    raise NothingToReplay(
        f"{path} is neither a log of decisions nor an outcome table: its first row has no decision_id and no "
        "prompt_id; export a log with acr decisions export, or record a table with acr record"
    )


def _columns(path: Path) -> set[str]:
    try:
        with path.open("rb") as file:
            packed = file.read(4) == b"PAR1"
    except OSError as error:
        raise NothingToReplay(f"{path} cannot be read: {error.strerror}; name a log or a table") from None
    if packed:
        return _parquet_columns(path)
    rows, _ = read_rows(path)
    first = next(iter(rows), None)
    if first is None:
        raise NothingToReplay(f"{path} is empty; export a log anew with acr decisions export")
    return {name for name in ("decision_id", "prompt_id", "arm", "score") if first.column(name) is not None}


def _parquet_columns(path: Path) -> set[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise NothingToReplay(
            f"{path} is Parquet, for which pyarrow is missing: "
            "pip install 'adaptive-compute-router[parquet]', or use JSON lines"
        ) from None
    try:
        return set(parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise TableError(f"it cannot be read as Parquet: {error}") from None
