"""Exported logs: JSON lines, packed or not, and Parquet; a decision a row, in the order they were made.

What a file to read is, its first bytes tell; what a file to write becomes, its name does.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from router.decisions.errors import InvalidDecision, LogUnreadable
from router.decisions.record import COLUMNS, Decision, decision_from_json

MAX_LINE_BYTES = 4 * 1024 * 1024
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_BATCH_ROWS = 1_024
_NESTED = ("structural", "ask", "arms", "plan", "starts", "rungs", "messages")  # JSON text in Parquet
_KINDS = {
    "at_ms": "int64",
    **dict.fromkeys(("room_tokens", "tokens", "charged_tokens"), "int64"),
    **dict.fromkeys(("ood", "gpu_seconds", "cost_usd", "confidence", "score"), "float64"),
    **dict.fromkeys(("explored", "degraded", "hopeless", "held_back", "verified"), "bool_"),
}
_NO_PYARROW = (
    "{} is Parquet, for which pyarrow is missing: pip install 'adaptive-compute-router[parquet]', "
    "or use JSON lines (.jsonl.gz)"
)
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def read_decisions(path: str | Path) -> Iterator[Decision]:
    """The decisions of a file, one after the other: a log may be larger than memory.

    Raises LogUnreadable, and InvalidDecision with file, line and field.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(4)
            file.seek(0)
            yield from _parquet(path, file) if head == _PARQUET else _lines(path, file, head)
    except InvalidDecision as error:
        raise InvalidDecision(error.problem, error.field, error.line, str(path)) from error.__cause__
    except (OSError, EOFError, zlib.error) as error:
        raise LogUnreadable(f"{path} cannot be read as a log of decisions: {error}") from error


def write_decisions(path: str | Path, decisions: Iterable[Decision]) -> int:
    """Write them all, or leave what was there; gives how many. Raises LogUnreadable.

    The name says the format: .jsonl, .jsonl.gz or .parquet.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise LogUnreadable(f"{path} names no format; let it end with {', '.join(SUFFIXES[:-1])} or .parquet")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            count = (
                _write_parquet(path, file, decisions)
                if path.suffix == ".parquet"
                else (_write_lines(file, decisions, packed=path.suffix == ".gz"))
            )
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise LogUnreadable(f"{path} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return count


def to_line(decision: Decision) -> str:
    """One line of JSON, without its end. Raises InvalidDecision where JSON has no word for a value (NaN)."""
    try:
        return json.dumps(decision.to_json(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidDecision(f"decision {decision.decision_id} is not JSON: {error}") from error


def from_line(text: str | bytes, line: int | None = None) -> Decision:
    """Raises InvalidDecision."""
    try:
        # NaN is taken here and refused by its field
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidDecision(f"is not JSON: {error}", line=line) from error
    return decision_from_json(values, line)


# -- JSON lines


def _lines(path: str | Path, file: IO[bytes], head: bytes) -> Iterator[Decision]:
    packed = head[:2] == _GZIP
    source: Any = gzip.GzipFile(fileobj=file) if packed else file
    number = 0
    while line := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InvalidDecision(f"is longer than {MAX_LINE_BYTES} bytes", line=number)
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield from_line(line, number)


def _write_lines(file: IO[bytes], decisions: Iterable[Decision], *, packed: bool) -> int:
    count = 0
    # No name and mtime 0: the same decisions give the same bytes
    target: Any = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if packed else contextlib.nullcontext(file)
    with target as out:
        for decision in decisions:
            out.write(to_line(decision).encode("utf-8", "replace") + b"\n")
            count += 1
    return count


# -- Parquet


def _parquet(path: str | Path, file: IO[bytes]) -> Iterator[Decision]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise LogUnreadable(_NO_PYARROW.format(path)) from None
    number = 0
    try:
        table = parquet.ParquetFile(file)
        wanted = [name for name in table.schema_arrow.names if name in COLUMNS]
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield decision_from_json(_unpacked(row, number), number)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise LogUnreadable(f"{path} cannot be read as Parquet: {error}") from error


def _unpacked(row: dict[str, Any], number: int) -> dict[str, Any]:
    for name in _NESTED:
        if isinstance(text := row.get(name), str):
            try:
                row[name] = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InvalidDecision(f"is not JSON: {error}", name, number) from error
    return row


def _write_parquet(path: Path, file: IO[bytes], decisions: Iterable[Decision]) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise LogUnreadable(_NO_PYARROW.format(path)) from None
    schema = pyarrow.schema([(name, getattr(pyarrow, _KINDS.get(name, "string"))()) for name in COLUMNS])
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _batches(decisions):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            count += len(rows)
    return count


def _batches(decisions: Iterable[Decision]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for decision in decisions:
        rows.append(_packed(decision))
        if len(rows) == _BATCH_ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _packed(decision: Decision) -> dict[str, Any]:
    row = decision.to_json()
    for name in _NESTED:
        if row[name] is not None:
            row[name] = json.dumps(row[name], ensure_ascii=False, separators=(",", ":"))
    return row
