"""Ids that tell whose they are, the lots they draw, digests of arms."""

from __future__ import annotations

from collections import Counter

import pytest

from policies.loader import parse_policy
from router.decisions.digests import DecisionIds, draw_of, spec_digest
from tests.service import POLICY, SECRET

pytestmark = pytest.mark.unit


def test_an_id_tells_its_tenant_to_whoever_has_the_secret() -> None:
    ids = DecisionIds(SECRET)
    mine = ids.new("acme")
    assert ids.owns("acme", mine)
    assert DecisionIds(SECRET).owns("acme", mine)
    assert not ids.owns("cheap", mine)
    assert not DecisionIds(b"other").owns("acme", mine)
    assert len({ids.new("acme") for _ in range(100)}) == 100
    cut = ("", "dec-", mine[:-1], mine + "0", mine.upper(), "x" + mine[1:], mine[:-16] + "0" * 16, "é")
    for forged in cut:
        assert not ids.owns("acme", forged)


def test_draws_are_uniform_and_can_be_computed_again() -> None:
    ids = DecisionIds(SECRET)
    names = [ids.new("acme") for _ in range(4_000)]
    draws = [draw_of(name) for name in names]
    assert draws == [draw_of(name) for name in names]
    assert all(0.0 <= draw < 1.0 for draw in draws)
    tenths = Counter(int(draw * 10) for draw in draws)
    assert min(tenths.values()) > 300
    assert max(tenths.values()) < 500


def test_an_arms_digest_is_of_what_it_does() -> None:
    arms = parse_policy(POLICY, "x").arms
    other = parse_policy(POLICY.replace("max_samples: 8", "max_samples: 9"), "x").arms
    assert len({spec_digest(spec) for spec in arms.values()}) == 3
    assert spec_digest(arms["search/beam"]) == spec_digest(other["search/beam"])
    assert spec_digest(arms["consistency/sc8"]) != spec_digest(other["consistency/sc8"])
