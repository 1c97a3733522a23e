from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from policies.errors import PolicyFileError
from policies.loader import MAX_BYTES, load_policy, parse_policy
from router.cli.policy import app

GOOD = """\
version: 1
name: test
arms:
  direct/direct: {tier: direct, strategy: direct}
defaults:
  quality_target: 0.5
tenants:
  demo:
    budgets:
      minute: 1_000
      day: 2000
"""

BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


def refusal(text: str) -> PolicyFileError:
    with pytest.raises(PolicyFileError) as caught:
        parse_policy(text, "policy.yaml")
    assert "\n" not in str(caught.value)
    return caught.value


def outcome(text: str) -> PolicyFileError | None:
    try:
        parse_policy(text, "policy.yaml")
    except PolicyFileError as error:
        return error
    return None


def test_a_good_file_is_read() -> None:
    policy = parse_policy(GOOD, "policy.yaml")
    assert policy.tenants["demo"].budgets.tokens("minute") == 1000
    assert policy.source == "policy.yaml"


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    error = refusal(BOMB)
    assert (error.line, error.field) == (1, "a")
    assert "anchors are refused (&a)" in str(error)


def test_aliases_and_merge_keys_are_refused() -> None:
    assert "aliases are refused (*x)" in str(refusal("a: *x\n"))
    assert "anchors are refused" in str(refusal(GOOD.replace("demo:", "demo: &d")))


@pytest.mark.parametrize(
    "tagged",
    [
        "!!python/object/apply:os.system [id]",
        "!!python/name:os.system",
        "!!str x",
        "!local x",
        "! x",
        "!!set {a: null}",
    ],
)
def test_tags_are_refused(tagged: str) -> None:
    error = refusal(f"name: ok\nversion: {tagged}\n")
    assert (error.line, error.field) == (2, "version")
    assert "tags are refused" in error.problem


def test_duplicate_keys_are_refused_where_they_come_again() -> None:
    error = refusal(GOOD + "      minute: 5\n")
    assert (error.line, error.field) == (12, "tenants.demo.budgets.minute")
    assert "twice" in error.problem
    assert refusal(GOOD + 'name: "test"\n').line == 12


def test_depth_is_bounded() -> None:
    assert "over 16 levels" in str(refusal("[" * 17 + "]" * 17))
    assert "over 16 levels" in str(refusal("{a: " * 50_000))
    assert "over 16 levels" in str(refusal("- " * 40_000 + "x"))
    assert "not a mapping" in str(refusal("[" * 16 + "]" * 16))


def test_size_is_bounded(tmp_path: Path) -> None:
    fits = GOOD + "#" * (MAX_BYTES - len(GOOD))
    assert parse_policy(fits, "policy.yaml").name == "test"
    assert "over 256 KiB" in str(refusal(fits + "#"))
    file = tmp_path / "big.yaml"
    file.write_text(fits + "#")
    with pytest.raises(PolicyFileError, match="over 256 KiB"):
        load_policy(file)


@pytest.mark.parametrize(
    ("text", "line", "field", "said"),
    [
        (GOOD.replace("day: 2000", "day: 999"), 10, "tenants.demo.budgets.minute", "1000 a minute is more"),
        (GOOD.replace("2000", "true"), 11, "tenants.demo.budgets.day", "valid integer"),
        (GOOD.replace("2000", '"2000"'), 11, "tenants.demo.budgets.day", "valid integer"),
        (GOOD.replace("0.5", ".nan"), 6, "defaults.quality_target", "finite"),
        (GOOD.replace("quality_target", "quality"), 6, "defaults.quality", "unknown field"),
        (GOOD.replace("version: 1", "version: 2"), 1, "version", "should be 1"),
        (GOOD.replace("name: test\n", ""), 1, "name", "missing"),
        (GOOD.replace("tier: direct, ", ""), 4, "arms.direct/direct.tier", "missing"),
        (GOOD.replace("demo:", "Demo:"), 8, "tenants.Demo", "pattern"),
        (GOOD.replace("  demo:\n", "  demo:\n    name: x\n"), 9, "tenants.demo.name", "unknown field"),
        (GOOD + "extra: 1\n", 12, "extra", "unknown field"),
        ("", 1, "", "empty"),
        ("# nothing\n", 1, "", "empty"),
        ("just words", 1, "", "not a mapping"),
        (GOOD + "---\n" + GOOD, 12, "", "several documents"),
        ("version: 1\nname: [a\narms: 1\n", 3, "name.0", "not YAML"),
        ("version: 1\n\tname: x\n", 2, "", "not YAML"),
        ("version: 1\nname: a\x07b\n", 2, "", "not YAML"),
        ("[a]: 1\n", 1, "", "a key must be a word"),
        ("? {a: 1}\n: 2\n", 1, "", "a key must be a word"),
    ],
)
def test_a_refusal_names_file_line_and_field(text: str, line: int, field: str, said: str) -> None:
    error = refusal(text)
    assert (error.file, error.line, error.field) == ("policy.yaml", line, field)
    assert said in error.problem
    assert str(error).startswith(f"policy.yaml:{line}: ")


def test_a_tenants_problem_that_comes_from_defaults_points_there() -> None:
    text = GOOD.replace("quality_target: 0.5", "deadline_s: {default: 50}")
    error = refusal(text.replace("  demo:\n", "  demo:\n    deadline_s: {cap: 20}\n"))
    assert (error.line, error.field) == (6, "tenants.demo.deadline_s.default")


def test_values_are_not_quoted() -> None:
    """A refusal ends up in logs; a key pasted by mistake must not."""
    text = GOOD.replace("    budgets:", "    keys: [{id: a, sha256: acr-secret}]\n    budgets:")
    assert "acr-secret" not in str(refusal(text))


def test_plain_words_are_words() -> None:
    """YAML 1.1 would read these as booleans, a sexagesimal number, an octal number and a date."""
    policy = parse_policy(GOOD.replace("quality_target: 0.5", "cache: {mode: off}"), "policy.yaml")
    assert policy.tenants["demo"].cache.mode == "off"
    for word in ("yes", "no", "on", "1:30", "017", "2026-01-01", "0x10", "1e", "+", "_1"):
        assert "valid number" in refusal(GOOD.replace("0.5", word)).problem
    for number in ("1", "0", "1e-1", ".5", "0.50"):
        parse_policy(GOOD.replace("0.5", number), "policy.yaml")
    digits = "12" * 32
    keys = GOOD.replace("    budgets:", f"    keys: [{{id: a, sha256: {digits}}}]\n    budgets:")
    assert parse_policy(keys, "policy.yaml").tenants["demo"].keys[0].sha256 == digits


def test_a_number_of_many_digits_costs_nothing() -> None:
    assert "valid integer" in refusal(GOOD.replace("2000", "9" * 100_000)).problem


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="No such file"):
        load_policy(tmp_path / "none.yaml")
    with pytest.raises(PolicyFileError, match="Is a directory"):
        load_policy(tmp_path)
    file = tmp_path / "latin.yaml"
    file.write_bytes(GOOD.encode() + b"# caf\xe9\n")
    with pytest.raises(PolicyFileError, match=r"latin\.yaml:12: it is not UTF-8"):
        load_policy(file)


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@,? \n\t#0.~\\", max_size=60))
def test_any_text_is_refused_in_one_line_or_read(text: str) -> None:
    error = outcome(text)
    assert error is None or (error.line >= 1 and "\n" not in str(error))


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.text(max_size=8))
def test_a_damaged_file_is_refused_in_one_line_or_read(start: int, end: int, junk: str) -> None:
    error = outcome(GOOD[: min(start, end)] + junk + GOOD[max(start, end) :])
    assert error is None or "\n" not in str(error)


def test_check_says_ok_with_the_version(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD)
    result = CliRunner().invoke(app, ["check", str(file)])
    assert result.exit_code == 0
    assert f"version {load_policy(file).version}" in result.stdout
    assert "demo" in result.stdout
    assert "direct/direct" in result.stdout


def test_check_refuses_in_one_line_without_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD.replace("0.5", "5"))
    result = CliRunner().invoke(app, ["check", str(file)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "policy.yaml:6: defaults.quality_target:" in result.stderr
