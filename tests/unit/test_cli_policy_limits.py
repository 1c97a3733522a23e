"""What `acr policy check` says about limits, shares and pacing, and how it refuses bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from policies.keys import hash_key
from router.cli.main import app

POLICY = f"""
version: 1
name: checked
arms:
  direct/direct: {{tier: direct, strategy: direct, think: false, temperature: 0}}
tenants:
  acme:
    keys: [{{id: k1, sha256: {hash_key("acr-k")}, limits: {{concurrency: 2}}}}]
    budgets: {{day: 1000}}
    limits: {{requests_per_minute: 60}}
    tier_share: {{window: month, search: 0.25}}
    pacing: {{window: day}}
    exploration: {{rate: 0.05}}
    log_prompts: true
"""


def check(tmp_path: Path, text: str) -> tuple[int, str]:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["policy", "check", str(file)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_limits_shares_and_pacing_are_shown(tmp_path: Path) -> None:
    code, said = check(tmp_path, POLICY)
    assert code == 0
    for line in (
        "60 req/min",
        "of their own: 1 keys",
        "search 25% of a month",
        "paced over the day",
        "explores 5.0% of requests",
        "prompts are logged",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("right", "wrong", "where"),
    [
        ("search: 0.25", "search: 1.5", "policy.yaml:11: tenants.acme.tier_share.search"),
        ("search: 0.25", "gpu: 0.25", "policy.yaml:11: tenants.acme.tier_share.gpu"),
        ("concurrency: 2", "concurrency: -2", "policy.yaml:8: tenants.acme.keys.0.limits.concurrency"),
        ("minute: 60", "minute: .nan", "policy.yaml:10: tenants.acme.limits.requests_per_minute"),
        (
            "pacing: {window: day}",
            "pacing: {max_factor: 0}",
            "policy.yaml:12: tenants.acme.pacing.max_factor",
        ),
    ],
)
def test_bad_ones_are_refused_with_line_and_field(tmp_path: Path, right: str, wrong: str, where: str) -> None:
    assert right in POLICY
    code, said = check(tmp_path, POLICY.replace(right, wrong))
    assert code == 1
    assert where in said.replace("\n", "")
