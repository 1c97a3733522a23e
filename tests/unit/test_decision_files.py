"""Exported logs: every format gives back what went in, and bad files are refused by name, line and field."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.decisions import files
from router.decisions.errors import InvalidDecision, LogUnreadable
from router.decisions.files import read_decisions, to_line, write_decisions
from router.decisions.record import Decision
from tests.decisions import full, plain

pytestmark = pytest.mark.unit

NAMES = ("log.jsonl", "log.jsonl.gz", "log.parquet")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    decisions = [plain(), full(), plain(decision_id="dec-3", verified=True, score=0.0)]
    assert write_decisions(tmp_path / name, decisions) == 3
    assert list(read_decisions(tmp_path / name)) == decisions
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_log_is_a_log(tmp_path: Path, name: str) -> None:
    assert write_decisions(tmp_path / name, []) == 0
    assert list(read_decisions(tmp_path / name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_more_decisions_than_a_batch(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BATCH_ROWS", 7)
    decisions = [full(decision_id=f"dec-{i}") for i in range(23)]
    assert write_decisions(tmp_path / name, iter(decisions)) == 23
    assert list(read_decisions(tmp_path / name)) == decisions


@pytest.mark.parametrize("name", NAMES[:2])
def test_the_same_decisions_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    write_decisions(tmp_path / name, [full()])
    first = (tmp_path / name).read_bytes()
    write_decisions(tmp_path / name, [full()])
    assert (tmp_path / name).read_bytes() == first


def test_what_a_file_is_its_first_bytes_tell(tmp_path: Path) -> None:
    write_decisions(tmp_path / "log.jsonl.gz", [full()])
    (tmp_path / "log.txt").write_bytes((tmp_path / "log.jsonl.gz").read_bytes())
    assert list(read_decisions(tmp_path / "log.txt")) == [full()]


@pytest.mark.parametrize("name", NAMES)
def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    write_decisions(tmp_path / name, [plain()])

    def broken() -> Iterator[Decision]:
        yield full()
        raise ConnectionError("the store went away")

    with pytest.raises((ConnectionError, LogUnreadable)):
        write_decisions(tmp_path / name, broken())
    assert list(read_decisions(tmp_path / name)) == [plain()]
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_the_line_and_field_that_are_wrong_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    bad = json.dumps({**plain().to_json(), "tokens": "many"})
    path.write_text(f"\ufeff{to_line(plain())}\n\n{bad}\n", "utf-8")
    with pytest.raises(InvalidDecision) as caught:
        list(read_decisions(path))
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 3, "tokens")


def test_rows_before_the_bad_one_are_given(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f"{to_line(plain())}\n{{\n", "utf-8")
    rows = read_decisions(path)
    assert next(rows) == plain()
    with pytest.raises(InvalidDecision, match="line 2: is not JSON"):
        next(rows)


@pytest.mark.parametrize(
    "content",
    [b"[1]\n", b"\x00\xff\xfe binary\n", b"{" * 100_000 + b"\n", b'{"a": NaN}\n', b"1" * 5_000 + b"\n"],
)
def test_junk_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "junk").write_bytes(content)
    with pytest.raises(InvalidDecision):
        list(read_decisions(tmp_path / "junk"))


def test_a_line_has_a_bound_even_inside_a_packed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 10_000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"x" * 1_000_000))
    with pytest.raises(InvalidDecision, match="longer than 10000 bytes"):
        list(read_decisions(tmp_path / "bomb.gz"))


@pytest.mark.parametrize("name", ["cut.gz", "cut.parquet"])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, name: str) -> None:
    whole = tmp_path / ("log.parquet" if name.endswith("parquet") else "log.jsonl.gz")
    write_decisions(whole, [full()])
    (tmp_path / name).write_bytes(whole.read_bytes()[:-12])
    with pytest.raises(LogUnreadable, match=name):
        list(read_decisions(tmp_path / name))


def test_bad_json_in_a_parquet_column_is_named(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    row = {"decision_id": "d", "at_ms": 1, "tenant": "t", "policy_version": "v", "outcome": "answered"}
    parquet.write_table(
        pyarrow.Table.from_pylist([{**row, "arms": None}, {**row, "arms": "{"}]), tmp_path / "x.parquet"
    )
    with pytest.raises(InvalidDecision, match="line 2, field 'arms'"):
        list(read_decisions(tmp_path / "x.parquet"))


def test_parquet_of_something_else_says_what_is_missing(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"tenant": ["t"]}), tmp_path / "x.parquet")
    with pytest.raises(InvalidDecision, match="is missing"):
        list(read_decisions(tmp_path / "x.parquet"))


def test_a_name_without_a_format_or_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LogUnreadable, match="names no format"):
        write_decisions(tmp_path / "log.csv", [])
    with pytest.raises(LogUnreadable, match="cannot be written"):
        write_decisions(tmp_path / "nowhere" / "log.jsonl", [])
    with pytest.raises(LogUnreadable, match="cannot be read"):
        list(read_decisions(tmp_path / "nowhere.jsonl"))
    with pytest.raises(LogUnreadable, match="cannot be read"):
        list(read_decisions(tmp_path))
