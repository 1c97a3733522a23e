"""Tables as files: what they hold decides how they are read, and junk is refused by name."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from classifier import files
from classifier.errors import DuplicateRow, InvalidRow, MissingArms, TableError
from classifier.files import read_rows
from classifier.tables import parse_table, read_table
from tests.outcomes import row

LINES = [
    row("q1", "one?", "small", 0.0, 3),
    row("q1", "one?", "big ✓", 1.0, 30),
    row("q2", "two?", "small", 0.5, 4, family="other"),
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_parquet_and_json_lines_are_the_same_table(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in LINES]
    read = read_table(written(tmp_path / "t.parquet", [{**r, "remark": "ignored"} for r in rows]))
    expected = parse_table(LINES)
    assert (read.items, read.arms) == (expected.items, expected.arms)
    np.testing.assert_array_equal(read.scores, expected.scores)
    np.testing.assert_array_equal(read.tokens, expected.tokens)
    assert len(read.sha256) == 64


def test_the_first_bytes_decide_and_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress("\n".join(LINES).encode()))
    written(tmp_path / "columns.jsonl", [json.loads(line) for line in LINES])
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(LINES).encode())
    for path in tmp_path.iterdir():
        assert read_table(path).arms == ("big ✓", "small")


def test_nulls_in_parquet_are_absent(tmp_path: Path) -> None:
    rows = [{**json.loads(line), "family": None, "samples": None} for line in LINES]
    assert read_table(written(tmp_path / "t", rows)).families == ("all",)


def test_a_text_column_stands_for_messages(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": str(i), "prompt": f"{i}?", "arm": a, "score": 0.5, "completion_tokens": 7}
        for i in range(2)
        for a in "ab"
    ]
    table = read_table(written(tmp_path / "t", rows))
    assert table.items[1].messages == ({"role": "user", "content": "1?"},)


@pytest.mark.parametrize(
    ("column", "value"), [("score", float("nan")), ("score", 2.0), ("score", None), ("completion_tokens", -1)]
)
def test_a_wrong_value_in_parquet_names_row_and_column(tmp_path: Path, column: str, value: object) -> None:
    rows = [json.loads(line) for line in LINES]
    rows[1][column] = value
    with pytest.raises(InvalidRow) as caught:
        read_table(written(tmp_path / "t", rows))
    assert (caught.value.row, caught.value.column) == (2, column)


def test_columns_that_parquet_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="'score', 'completion_tokens'"):
        read_table(written(tmp_path / "t", [{"prompt_id": "a", "arm": "b"}]))


@pytest.mark.parametrize(
    "junk",
    [b"PAR1 and nothing of the kind", b"\x1f\x8b\x08junk", b"\x00\xff\xfe\x80", bytes(range(256)) * 40],
)
def test_binary_junk_is_one_sentence(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "junk"
    path.write_bytes(junk)
    with pytest.raises(TableError, match="junk cannot be read") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "t", [json.loads(line) for line in LINES])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TableError, match=r"adaptive-compute-router\[parquet\]"):
        list(read_rows(path)[0])


def test_some_arms_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(LINES))
    assert read_table(path, arms=["small"]).arms == ("small",)
    assert len(read_table(path, arms=["big ✓"]).items) == 1
    with pytest.raises(MissingArms, match="'huge'"):
        read_table(path, arms=["small", "huge"])


def test_a_prompt_of_ten_megabytes_is_read_and_its_copy_found(tmp_path: Path) -> None:
    long = "9" * 10_000_000
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join([row("q", long, "a", 1.0), row("q", long, "b", 0.0)]))
    table = read_table(path)
    assert len(table.items[0].messages[0]["content"]) == 10_000_000
    path.write_text("\n".join([row("q", long, "a", 1.0), row("q", long, "a", 0.0)]))
    with pytest.raises(DuplicateRow, match="row 2"):
        read_table(path)


def test_conversations_in_parquet_may_be_json(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in LINES]
    flat = [{**r, "messages": json.dumps(r["messages"])} for r in rows]
    assert read_table(written(tmp_path / "t", flat)).items == parse_table(LINES).items


@pytest.mark.parametrize(
    ("column", "value"),
    [("score", "1.0"), ("score", True), ("score", {"v": 1.0}), ("arm", b"a"), ("messages", "no list")],
)
def test_odd_types_in_parquet_name_row_and_column(tmp_path: Path, column: str, value: object) -> None:
    rows = [{**json.loads(line), column: value} for line in LINES]
    with pytest.raises(InvalidRow) as caught:
        read_table(written(tmp_path / "t", rows))
    assert (caught.value.row, caught.value.column) == (1, column)


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 2**20)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"\n" * 2**21))
    with pytest.raises(TableError, match="unpacks to more than"):
        read_table(path)
    # a file that takes its room on the disk is read, however large
    (tmp_path / "plain").write_text("\n" * 2**21 + "\n".join(LINES))
    assert read_table(tmp_path / "plain").rows == 3


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_a_line_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 2**16)
    path = tmp_path / "t"
    path.write_bytes(pack(("\n".join(LINES) + "\n" + "x" * 2**17).encode()))
    with pytest.raises(InvalidRow, match="row 4: is longer than"):
        read_table(path)


def test_a_gzip_that_breaks_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(gzip.compress("\n".join(LINES * 50).encode())[:-20])
    with pytest.raises(TableError):
        read_table(path)


def test_pipes_and_folders_are_no_tables(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "none"):
        with pytest.raises(TableError, match="cannot be read: it"):
            read_table(place)
