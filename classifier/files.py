"""Outcome tables in files: JSON lines, packed or not, and Parquet; told apart by their first bytes."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from classifier.errors import InvalidRow, TableError
from classifier.rows import Row

_GZIP, _PARQUET, _MARK = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"
_NEEDED = ("prompt_id", "arm", "score", "completion_tokens")
_WANTED = (*_NEEDED, "messages", "prompt", "family", "prompt_tokens", "charged_tokens", "samples")
_BATCH_ROWS = 4_096
_LOOKED_AT = 4_096
# A row of 10 MB is odd but can be read; a packed file may pretend to any size.
MAX_ROW_BYTES = 64 * 2**20
MAX_UNPACKED_BYTES = 2 * 2**30


def read_rows(path: str | Path) -> tuple[Iterable[Row], str]:
    """The rows of a file and the sha256 of its bytes, one row in memory at a time.

    Raises TableError for what is neither kind of table, at once or when the rows are gone through.
    """
    place = Path(path)
    try:
        if not place.is_file():
            kind = "it is not a plain file" if place.exists() else "it does not exist"
            raise TableError(f"{path} cannot be read: {kind}; give a table in JSON lines or Parquet")
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            first = file.read(_LOOKED_AT)
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror}") from error
    if first[:4] == _PARQUET:
        return _parquet_rows(place), digest
    if packed := first[:2] == _GZIP:
        return _line_rows(place, packed), digest
    try:
        # other kinds of file are told at their beginning, whatever their first line may look like
        codecs.getincrementaldecoder("utf-8")().decode(first)
    except UnicodeDecodeError as error:
        raise TableError(f"{path} cannot be read as JSON lines in UTF-8: {error}") from error
    return _line_rows(place, packed), digest


def json_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Numbered from 1 as editors do; blank lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Row.parse(number, line)


def _line_rows(path: Path, packed: bool) -> Iterator[Row]:
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            yield from json_rows(_lines(path, file, packed))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TableError(f"{path} cannot be read as JSON lines in UTF-8: {error}") from error


def _lines(path: Path, file: gzip.GzipFile | BufferedReader, packed: bool) -> Iterator[str]:
    """Ended by line feeds alone: U+2028 and its kin may stand unescaped inside a JSON string."""
    number = total = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number, total = number + 1, total + len(line)
        if len(line) > MAX_ROW_BYTES:
            raise InvalidRow(
                f"is longer than {MAX_ROW_BYTES >> 20} MiB; is it one JSON object a line?", number
            )
        if packed and total > MAX_UNPACKED_BYTES:
            raise TableError(
                f"{path} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB; unpack it yourself"
            )
        yield (line.removeprefix(_MARK) if number == 1 else line).decode("utf-8")


def _parquet_rows(path: Path) -> Iterator[Row]:
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
        with parquet.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            if missing := [name for name in _NEEDED if name not in there]:
                raise TableError(f"{path} lacks the columns {', '.join(map(repr, missing))}; add them")
            # other people's columns may be large, and none of them is looked at
            wanted = [name for name in _WANTED if name in there]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(number, row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise TableError(f"{path} cannot be read as Parquet: {error}") from error
