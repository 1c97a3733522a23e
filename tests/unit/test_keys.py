from __future__ import annotations

import hashlib
import re

import pytest
from typer.testing import CliRunner

from policies.keys import KeyRing, create_key, hash_key
from policies.loader import parse_policy
from policies.schema import Policy
from router.cli.keys import app

TEMPLATE = """\
version: 1
name: test
arms:
  direct/direct: {{tier: direct, strategy: direct}}
tenants:
  demo:
    keys:
{keys}
  other: {{}}
"""


def policy_with(lines: str) -> Policy:
    return parse_policy(TEMPLATE.format(keys=lines), "policy.yaml")


@pytest.fixture
def made() -> tuple[str, Policy]:
    key, digest = create_key()
    return key, policy_with(f'      - {{id: laptop, sha256: "{digest}"}}')


def test_a_key_is_long_random_and_only_its_hash_is_given_away() -> None:
    key, digest = create_key()
    assert re.fullmatch(r"acr-[A-Za-z0-9_-]{43}", key)
    assert digest == hashlib.sha256(key.encode()).hexdigest()
    assert len({create_key()[0] for _ in range(100)}) == 100


def test_a_key_leads_to_its_tenant(made: tuple[str, Policy]) -> None:
    key, policy = made
    assert KeyRing(policy).lookup(key) == ("demo", "laptop")


def test_anything_else_leads_nowhere(made: tuple[str, Policy]) -> None:
    key, policy = made
    ring = KeyRing(policy)
    for wrong in ("", "acr-", key[:-1], key + " ", key.upper(), hash_key(key), "é", "\ud800", "x" * 10_000):
        assert ring.lookup(wrong) is None


def test_extra_keys_are_known_beside_the_policys(made: tuple[str, Policy]) -> None:
    key, policy = made
    local, digest = create_key()
    ring = KeyRing(policy, {digest: ("other", "local")})
    assert ring.lookup(local) == ("other", "local")
    assert ring.lookup(key) == ("demo", "laptop")


def test_the_policy_outranks_extra_keys(made: tuple[str, Policy]) -> None:
    key, policy = made
    assert KeyRing(policy, {hash_key(key): ("other", "local")}).lookup(key) == ("demo", "laptop")


def test_extra_keys_of_unknown_tenants_open_nothing(made: tuple[str, Policy]) -> None:
    local, digest = create_key()
    assert KeyRing(made[1], {digest: ("gone", "local")}).lookup(local) is None


def test_create_prints_a_key_and_lines_that_fit_the_policy() -> None:
    result = CliRunner().invoke(app, ["create", "--tenant", "demo", "--id", "laptop"])
    assert result.exit_code == 0
    key = re.search(r"acr-\S+", result.stdout)
    assert key is not None
    assert result.stdout.count(key[0]) == 1
    lines = result.stdout[result.stdout.index("      - id:") :]
    assert KeyRing(policy_with(lines)).lookup(key[0]) == ("demo", "laptop")


def test_create_makes_up_an_id() -> None:
    first, second = (CliRunner().invoke(app, ["create"]).stdout for _ in range(2))
    ids = [re.search(r'id: "(key-\w+)"', out) for out in (first, second)]
    assert ids[0] is not None
    assert ids[1] is not None
    assert ids[0][1] != ids[1][1]


def test_create_refuses_an_id_that_the_policy_would_refuse() -> None:
    result = CliRunner().invoke(app, ["create", "--id", "a b"])
    assert result.exit_code == 2
    assert "acr-" not in result.stdout
