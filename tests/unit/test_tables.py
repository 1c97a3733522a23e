from __future__ import annotations

import gzip
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from classifier.errors import (
    DuplicateRow,
    EmptyTable,
    InvalidRow,
    MissingArms,
    OneClassOnly,
    TableError,
    TooFewItems,
)
from classifier.tables import MIN_ITEMS, parse_table, read_table
from tests.outcomes import row, sums


def changed(**fields: object) -> str:
    """A good row with some columns replaced; `...` removes one."""
    good = json.loads(row("q1", "1 + 1?", "a", 1.0))
    return json.dumps({k: v for k, v in {**good, **fields}.items() if v is not ...})


def test_items_by_arms_with_nan_where_nothing_was_recorded() -> None:
    table = parse_table(
        [
            row("q2", "two", "big", 0.5, 30),
            row("q2", "two", "small", 0.25, 3),
            row("q1", "one", "small", 1.0, 4, family="other"),
        ]
    )
    assert table.arms == ("big", "small")
    assert [item.prompt_id for item in table.items] == ["q2", "q1"]
    assert table.families == ("other", "sums")
    assert table.rows == 3
    np.testing.assert_array_equal(table.scores, [[0.5, 0.25], [math.nan, 1.0]])
    np.testing.assert_array_equal(table.tokens, [[30.0, 3.0], [math.nan, 4.0]])


def test_a_stranger_needs_only_text_scores_and_tokens() -> None:
    line = changed(family=..., prompt_tokens=..., remark="unknown columns are ignored", arm="gpt-9 @ 🌋")
    table = parse_table([line, "", "   "])
    assert table.arms == ("gpt-9 @ 🌋",)
    assert table.items[0].family == "all"
    assert dict(table.items[0].messages[0]) == {"role": "user", "content": "1 + 1?"}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("prompt_id", ...),
        ("prompt_id", ""),
        ("prompt_id", 7.5),
        ("prompt_id", True),
        ("messages", ...),
        ("messages", []),
        ("messages", "1 + 1?"),
        ("messages", ["1 + 1?"]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("family", ""),
        ("family", [3]),
        ("arm", ...),
        ("arm", ["a"]),
        ("arm", "a\tb"),
        ("arm", "a\u202eb"),
        ("arm", "a" * 201),
        ("score", ...),
        ("score", None),
        ("score", "1"),
        ("score", True),
        ("score", -0.1),
        ("score", 1.1),
        ("completion_tokens", ...),
        ("completion_tokens", -1),
        ("completion_tokens", 10**400),
        ("completion_tokens", 1e300),
        ("prompt_tokens", "many"),
        ("samples", {}),
    ],
)
def test_a_wrong_value_names_row_and_column(column: str, value: object) -> None:
    with pytest.raises(InvalidRow) as caught:
        parse_table([row("q0", "0?", "a", 0.0), "", changed(**{column: value})])
    assert (caught.value.row, caught.value.column) == (3, column)
    assert f"row 3, column '{column}'" in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[]", "7", "null", "[" * 100_000])
def test_a_line_that_is_no_object_names_its_row(line: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        parse_table([line])
    assert caught.value.row == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("column", ["score", "completion_tokens"])
def test_numbers_that_are_not_finite_are_refused(number: str, column: str) -> None:
    line = changed(**{column: 0.125}).replace("0.125", number)
    with pytest.raises(InvalidRow) as caught:
        parse_table([line])
    assert (caught.value.row, caught.value.column) == (1, column)


def test_the_same_prompt_and_arm_twice() -> None:
    with pytest.raises(DuplicateRow) as caught:
        parse_table([row("q1", "x", "a", 1.0), row("q1", "x", "b", 1.0), row("q1", "x", "a", 0.0)])
    assert caught.value.row == 3


@pytest.mark.parametrize(
    ("second", "column"),
    [(row("q1", "another text", "b", 1.0), "messages"), (row("q1", "x", "b", 1.0, family="g"), "family")],
)
def test_a_prompt_id_means_one_prompt(second: str, column: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        parse_table([row("q1", "x", "a", 1.0), second])
    assert caught.value.column == column


@pytest.mark.parametrize("lines", [[], ["", "\t"]])
def test_an_empty_table(lines: list[str]) -> None:
    with pytest.raises(EmptyTable):
        parse_table(lines)


def test_one_arm_gives_nothing_to_choose() -> None:
    table = parse_table([row(f"q{i}", f"{i}?", "only", float(i % 2)) for i in range(MIN_ITEMS)])
    with pytest.raises(MissingArms, match="only"):
        table.check_trainable()


def test_too_few_prompts() -> None:
    with pytest.raises(TooFewItems, match=str(MIN_ITEMS)):
        sums(MIN_ITEMS - 1).check_trainable()


def test_too_few_prompts_with_one_arm() -> None:
    lines = [row(f"q{i}", f"{i}?", "a", float(i % 2)) for i in range(60)]
    table = parse_table([*lines, row("q1", "1?", "rare", 1.0), row("q2", "2?", "rare", 0.0)])
    with pytest.raises(TooFewItems, match="rare"):
        table.check_trainable()


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_an_arm_that_is_always_right_or_wrong(constant: float) -> None:
    table = parse_table(
        [row(f"q{i}", f"{i}?", a, s) for i in range(60) for a, s in (("a", float(i % 2)), ("b", constant))]
    )
    with pytest.raises(OneClassOnly, match="'b'"):
        table.check_trainable()


def test_soft_scores_that_never_reach_an_end_are_fine() -> None:
    lines = [row(f"q{i}", f"{i}?", a, 0.25 + 0.5 * (i % 2)) for i in range(60) for a in "ab"]
    parse_table(lines).check_trainable()


def test_completeness_names_what_is_missing() -> None:
    sums(6).check_complete()
    table = parse_table([row("q1", "1?", "a", 1.0), row("q1", "1?", "b", 1.0), row("q2", "2?", "b", 1.0)])
    with pytest.raises(MissingArms, match="'q2' lacks 'a'"):
        table.check_complete()


def test_copies_of_a_prompt_fall_into_one_group() -> None:
    lines = [row(i, text, "a", 1.0) for i, text in (("q1", "same"), ("q2", "other"), ("q3", "same"))]
    assert parse_table(lines).content_groups().tolist() == [0, 1, 0]


def test_a_subset_keeps_arms_and_order() -> None:
    table = sums(9)
    part = table.subset([4, 2])
    assert [item.prompt_id for item in part.items] == ["q4", "q2"]
    np.testing.assert_array_equal(part.scores, table.scores[[4, 2]])
    assert part.arms == table.arms


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_files_plain_and_packed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    # a line separator of Unicode inside a string is not the end of a row
    data = "\n".join([row("q1", "a\u2028b", "x", 1.0), row("q1", "a\u2028b", "y", 0.0)]).encode()
    data = data.replace(b"\\u2028", "\u2028".encode())
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    table = read_table(path)
    assert table.items[0].messages[0]["content"] == "a\u2028b"
    assert len(table.sha256) == 64


@pytest.mark.parametrize("data", [None, b"\xff\xfe\x00"])
def test_files_that_cannot_be_read(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "table.jsonl"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(TableError, match=r"table\.jsonl cannot be read"):
        read_table(path)


def test_a_damaged_archive_is_a_table_error(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl.gz"
    path.write_bytes(gzip.compress(row("q1", "x", "a", 1.0).encode())[:-12])
    with pytest.raises(TableError):
        read_table(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


# a loaded machine is slow, not wrong
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@UNHURRIED
@given(st.dictionaries(st.sampled_from(sorted(json.loads(row("q", "x", "a", 1.0)))), json_values))
def test_any_row_is_read_or_refused_by_name(fields: dict[str, object]) -> None:
    try:
        table = parse_table([changed(**fields)])
    except TableError as error:
        assert error.row == 1
        assert isinstance(error, InvalidRow)
    else:
        assert 0.0 <= table.scores[0, 0] <= 1.0
        assert math.isfinite(table.tokens[0, 0])


@UNHURRIED
@given(st.text(max_size=40))
def test_any_line_is_read_or_refused_by_name(line: str) -> None:
    with pytest.raises(TableError):
        parse_table([line])


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(InvalidRow("is missing", 3, "score")))  # noqa: S301
    assert (str(error), error.row, error.column) == ("row 3, column 'score': is missing", 3, "score")


def test_numbers_may_stand_for_names_and_null_for_no_family() -> None:
    table = parse_table([changed(prompt_id=7, family=None), changed(prompt_id=8, family=3)])
    assert [item.prompt_id for item in table.items] == ["7", "8"]
    assert table.families == ("3", "all")


def test_a_conversation_may_be_written_as_json() -> None:
    turns = [{"role": "user", "content": "1 + 1?"}]
    assert parse_table([changed(messages=json.dumps(turns))]).items[0].messages == tuple(turns)


def test_one_prompt_again_and_again_cannot_be_held_out() -> None:
    same = parse_table([row(f"q{i}", f"{i % 9}?", a, float(i % 2)) for i in range(60) for a in "ab"])
    with pytest.raises(TooFewItems, match="60 prompts, 9 of them different"):
        same.check_trainable()
    parse_table(
        [row(f"q{i}", f"{i % 10}?", a, float(i % 3 == 0)) for i in range(60) for a in "ab"]
    ).check_trainable()
