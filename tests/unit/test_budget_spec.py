"""Budgets as operators write them: numbers, units, organisations, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.amounts import MAX_TOKENS, NOTHING, UNITS, Amount, in_words
from policies.budget_spec import Budgets
from policies.errors import PolicyFileError
from policies.loader import parse_policy
from policies.schema import Policy

HEAD = """version: 1
name: test
arms:
  direct/direct: {tier: direct, strategy: direct}
"""


def policy(text: str) -> Policy:
    return parse_policy(HEAD + text, "policy.yaml")


def refusal(text: str) -> PolicyFileError:
    with pytest.raises(PolicyFileError) as refused:
        policy(text)
    return refused.value


def budgets(said: Any) -> dict[str, dict[str, int]]:
    return {w: dict(units) for w, units in Budgets.model_validate(said).limits().items()}


def test_a_number_means_tokens_and_a_mapping_names_its_units() -> None:
    assert budgets({"minute": 5, "day": {"tokens": 50, "gpu_seconds": 1.5, "usd": 0.25}}) == {
        "minute": {"tokens": 5},
        "day": {"tokens": 50, "gpu_ms": 1500, "micro_usd": 250_000},
        "month": {},
    }
    assert budgets({"day": 7}) == budgets({"day": {"tokens": 7}})
    assert budgets({"day": {"usd": 5}})["day"] == {"micro_usd": 5_000_000}
    assert budgets({"day": {"usd": None}, "month": None}) == budgets({})


@given(cents=st.integers(0, 10**9))
def test_money_is_read_as_it_is_written(cents: int) -> None:
    """0.29 is 290,000 millionths, although 0.29 * 1e6 is a little less."""
    assert budgets({"day": {"usd": cents / 100}})["day"] == {"micro_usd": cents * 10_000}


def test_the_largest_numbers_stay_below_2_to_the_53() -> None:
    most = {"tokens": MAX_TOKENS, "gpu_seconds": MAX_TOKENS / 1000, "usd": MAX_TOKENS / 1e6}
    assert all(limit <= MAX_TOKENS for limit in budgets({"day": most})["day"].values())


@pytest.mark.parametrize(
    ("day", "field", "said"),
    [
        ("-1", "day", "greater than or equal to 0"),
        ("9007199254740992", "day", "less than or equal to"),
        (".nan", "day", "valid integer"),
        (".inf", "day", "valid integer"),
        ("1.5", "day", "valid integer"),
        ("true", "day", "valid integer"),
        ("[1]", "day", "valid integer"),
        ("{tokens: -1}", "day.tokens", "greater than or equal to 0"),
        ("{tokens: true}", "day.tokens", "valid integer"),
        ("{tokens: 1.5}", "day.tokens", "valid integer"),
        ("{tokens: 9007199254740992}", "day.tokens", "less than or equal to"),
        ("{gpu_seconds: -0.5}", "day.gpu_seconds", "greater than or equal to 0"),
        ("{gpu_seconds: .nan}", "day.gpu_seconds", "finite"),
        ("{gpu_seconds: true}", "day.gpu_seconds", "valid number"),
        ("{gpu_seconds: 1.0e+13}", "day.gpu_seconds", "less than or equal to"),
        ("{usd: .inf}", "day.usd", "finite"),
        ("{usd: '20'}", "day.usd", "valid number"),
        ("{usd: 1.0e+10}", "day.usd", "less than or equal to"),
        ("{usd: -1}", "day.usd", "greater than or equal to 0"),
        ("{joules: 3}", "day.joules", "unknown field"),
    ],
)
def test_a_refusal_names_line_and_field(day: str, field: str, said: str) -> None:
    error = refusal(f"tenants:\n  demo:\n    budgets:\n      day: {day}\n")
    assert (error.line, error.field) == (8, f"tenants.demo.budgets.{field}")
    assert said in error.problem
    error = refusal(f"organisations:\n  acme:\n    budgets:\n      day: {day}\ntenants:\n  demo:\n")
    assert (error.line, error.field) == (8, f"organisations.acme.budgets.{field}")


@pytest.mark.parametrize("unit", ["tokens", "gpu_seconds", "usd"])
def test_a_shorter_window_allows_no_more_than_a_longer_one(unit: str) -> None:
    error = refusal(
        f"tenants:\n  demo:\n    budgets:\n      minute: {{{unit}: 11}}\n      month: {{{unit}: 10}}\n"
    )
    assert "11 a minute is more than 10 a month" in error.problem
    assert error.line == 8
    if unit != "usd":
        policy(f"tenants:\n  demo:\n    budgets: {{minute: {{{unit}: 11}}, month: {{usd: 10}}}}\n")


# -- organisations

ACME = f"""organisations:
  acme: {{budgets: {{month: {{tokens: 1000, usd: 5}}}}}}
tenants:
  one: {{organisation: acme, budgets: {{day: 100}}}}
  two: {{organisation: acme, keys: [{{id: k, sha256: {"ab" * 32}, budgets: {{minute: 7}}}}]}}
  alone: {{budgets: {{day: 9}}}}
"""


def test_an_organisation_is_the_first_scope_of_its_tenants() -> None:
    tenants = policy(ACME).tenants
    shared = ("organisation", {"minute": {}, "day": {}, "month": {"tokens": 1000, "micro_usd": 5_000_000}})
    one, two, alone = (tenants[name] for name in ("one", "two", "alone"))
    assert one.scopes() == [shared, ("tenant:one", {"minute": {}, "day": {"tokens": 100}, "month": {}})]
    assert [name for name, _ in two.scopes("k")] == ["organisation", "tenant:two", "key:two:k"]
    assert [name for name, _ in alone.scopes()] == ["tenant"]
    assert one.account == two.account == "org.acme"
    assert alone.account == "alone"
    assert one.smallest_budget() == ("day", 100)
    assert two.smallest_budget() == ("month", 1000)


def test_no_tenant_can_be_named_like_an_organisations_account() -> None:
    assert "pattern" in refusal("tenants:\n  org.acme:\n").problem


def test_an_organisation_must_be_there() -> None:
    error = refusal("tenants:\n  demo:\n    organisation: acme\n")
    assert (error.line, error.field) == (7, "tenants.demo.organisation")
    assert "no such organisation" in error.problem


def test_defaults_may_name_no_organisation() -> None:
    assert "unknown field" in refusal("defaults:\n  organisation: acme\ntenants:\n  demo:\n").problem


# -- defaults


@pytest.mark.parametrize(
    ("base", "own", "day"),
    [
        ("5", "7", {"tokens": 7}),
        ("{tokens: 5, usd: 1}", "7", {"tokens": 7, "micro_usd": 1_000_000}),
        ("5", "{usd: 1}", {"tokens": 5, "micro_usd": 1_000_000}),
        ("{tokens: 5, usd: 1}", "{usd: 2}", {"tokens": 5, "micro_usd": 2_000_000}),
        ("{tokens: 5, usd: 1}", "null", {}),
        ("5", "{tokens: null}", {}),
    ],
)
def test_a_tenants_units_are_laid_over_the_defaults(base: str, own: str, day: dict[str, int]) -> None:
    """A tenant that overrides the tokens does not lose the limit of money by it."""
    text = f"defaults: {{budgets: {{day: {base}}}}}\ntenants:\n  demo: {{budgets: {{day: {own}}}}}\n"
    assert policy(text).tenants["demo"].budgets.limits()["day"] == day


# -- amounts


def test_amounts_add_up_unit_by_unit() -> None:
    one, other = Amount(1, 20, 3), Amount(10, 2, 3)
    assert one + other == Amount(11, 22, 6)
    assert one.beyond(other) == Amount(0, 18, 0)
    assert one.at_least(other) == other.at_least(one) == Amount(10, 20, 3)
    assert not NOTHING
    assert all(bool(Amount(**{unit: 1})) for unit in UNITS)


def test_a_bill_is_rounded_up() -> None:
    assert Amount.of(7, 0.0101, 0.0000001) == Amount(7, 11, 1)
    assert Amount.of(7) == Amount(7)


def test_units_in_words() -> None:
    assert in_words("tokens", 1200) == "1200 tokens"
    assert in_words("gpu_ms", 3500) == "3.5 GPU-seconds"
    assert in_words("micro_usd", 250_000) == "0.25 USD"
