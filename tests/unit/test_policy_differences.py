from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.differences import Difference, differences
from policies.loader import load_policy, parse_policy
from policies.schema import Policy
from router.cli.policy_diff import told

POLICIES = Path(__file__).parents[2] / "policies"
SHA = "ab" * 32
TEXT = """\
version: 1
name: test
arms:
  direct/direct: {tier: direct, strategy: direct}
  search/mcts: {tier: search, strategy: mcts, max_samples: 4}
defaults:
  quality_target: 0.5
  budgets: {day: 1000}
tenants:
  acme:
    keys: [{id: k1, sha256: %s}]
  demo:
    quality_target: 0.9
""".replace("%s", SHA)


def policy(*swaps: tuple[str, str], text: str = TEXT) -> Policy:
    for old, new in swaps:
        assert old in text
        text = text.replace(old, new)
    return parse_policy(text, "policy.yaml")


def lines(*swaps: tuple[str, str]) -> list[str]:
    return [told(each) for each in differences(policy(), policy(*swaps))]


def test_the_same_meaning_written_otherwise_is_no_difference() -> None:
    reordered = TEXT.replace("budgets: {day: 1000}", "budgets:\n    day: {tokens: 1_000}") + "# a comment\n"
    assert differences(policy(), parse_policy(reordered, "x")) == []
    assert policy().version == parse_policy(reordered, "x").version


def test_a_default_is_told_once_with_who_inherits_it() -> None:
    found = differences(policy(), policy(("quality_target: 0.5", "quality_target: 0.6")))
    assert found == [Difference("defaults.quality_target", "changed", 0.5, 0.6, ("acme",))]
    assert told(found[0]) == "~ defaults.quality_target: 0.5 -> 0.6  (and so for acme)"


def test_a_tenant_s_own_change_is_its_own() -> None:
    assert lines(("0.9", "0.8")) == ["~ tenants.demo.quality_target: 0.9 -> 0.8"]


@pytest.mark.parametrize(
    ("swap", "line"),
    [
        (("name: test", "name: other"), "~ name: test -> other"),
        (("max_samples: 4", "max_samples: 8"), "~ arms.search/mcts.max_samples: 4 -> 8"),
        (("{id: k1,", "{id: k2,"), "- tenants.acme.keys.k1"),
        ((SHA, "cd" * 32), "~ tenants.acme.keys.k1.sha256: abababab... -> cdcdcdcd..."),
        (("day: 1000", "day: null"), "~ defaults.budgets.day.tokens: 1000 -> none  (and so for acme, demo)"),
        (("day: 1000", "day: {tokens: 1000, usd: 5}"), "~ defaults.budgets.day.usd: none -> 5.0"),
    ],
)
def test_each_kind_of_field(swap: tuple[str, str], line: str) -> None:
    said = lines(swap)
    assert any(each.startswith(line) for each in said), said


def test_whole_arms_and_tenants_come_and_go_with_what_they_say_themselves() -> None:
    said = lines(("  demo:\n    quality_target: 0.9\n", "  new:\n    quality_target: 0.7\n"))
    assert said == [
        "- tenants.demo\n    quality_target: 0.9",
        "+ tenants.new\n    quality_target: 0.7",
    ]
    (arm,) = lines(("  search/mcts: {tier: search, strategy: mcts, max_samples: 4}\n", ""))
    assert arm.startswith("- arms.search/mcts\n")
    assert "max_samples: 4" in arm


def test_a_key_that_goes_is_no_change_of_those_behind_it() -> None:
    two = ("keys: [{id: k1,", f"keys: [{{id: k0, sha256: {'01' * 32}}}, {{id: k1,")
    found = differences(policy(two), policy())
    assert [(each.field, each.change) for each in found] == [("tenants.acme.keys.k0", "removed")]
    assert found[0].before == {"sha256": "01" * 32}


def test_shipped_policies_differ_and_the_way_back_is_the_same() -> None:
    one, two = load_policy(POLICIES / "default.yaml"), load_policy(POLICIES / "examples" / "strict.yaml")
    there, back = differences(one, two), differences(two, one)
    assert there
    swapped = {"added": "removed", "removed": "added", "changed": "changed"}
    assert {(each.field, swapped[each.change]) for each in there} == {(e.field, e.change) for e in back}


@given(st.floats(0, 1), st.floats(0, 1))
def test_no_difference_exactly_where_the_version_is_the_same(one: float, two: float) -> None:
    first, second = (policy(("target: 0.9", f"target: {each!r}")) for each in (one, two))
    assert (differences(first, second) == []) == (first.version == second.version)
