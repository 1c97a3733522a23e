"""Outcome tables in files: JSON lines, packed or not, and Parquet; told apart by their first bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from classifier.errors import TableError
from classifier.rows import Row

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_NEEDED = ("prompt_id", "arm", "score", "completion_tokens")
_WANTED = (*_NEEDED, "messages", "prompt", "family", "prompt_tokens", "charged_tokens", "samples")
_BATCH_ROWS = 4_096


def read_rows(path: str | Path) -> tuple[Iterable[Row], str]:
    """The rows of a file and the sha256 of its bytes. Raises TableError for what is neither kind of table."""
    try:
        data = Path(path).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if data[:4] == _PARQUET:
            return _parquet_rows(path, data), digest
        text = (gzip.decompress(data) if data[:2] == _GZIP else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TableError(f"{path} cannot be read as JSON lines in UTF-8: {error}") from error
    # not splitlines: U+2028 and its kin may stand unescaped inside a JSON string
    return json_rows(text.split("\n")), digest


def json_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Numbered from 1 as editors do; blank lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Row.parse(number, line)


def _parquet_rows(path: str | Path, data: bytes) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise TableError(
            f"{path} is Parquet, for which pyarrow is missing: "
            "pip install 'adaptive-compute-router[parquet]', or write the table as JSON lines"
        ) from None
    number = 0
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        there = set(file.schema_arrow.names)
        if missing := [name for name in _NEEDED if name not in there]:
            raise TableError(f"{path} lacks the columns {', '.join(map(repr, missing))}; add them")
        # other people's columns may be large, and none of them is looked at
        wanted = [name for name in _WANTED if name in there]
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield Row(number, _plain(row))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read as Parquet: {error}") from error


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Parquet has no absent values: a null family or prompt_tokens counts as one that is not there."""
    return {name: value for name, value in row.items() if value is not None}
