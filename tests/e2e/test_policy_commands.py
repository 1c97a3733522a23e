"""Policies published to a real service: replies name the version, a bad file changes nothing, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import policies
from tests.e2e.conftest import Running

DEFAULT = Path(policies.__file__).with_name("default.yaml")


@pytest.fixture
def published(service: Running) -> Iterator[Running]:
    """The service, which is as it was afterwards."""
    yield service
    service.acr("policy", "rollback", "boot")
    service.acr("policy", "shadow", "--stop")


def ask(service: Running, key: str | None = None) -> httpx.Response:
    return httpx.post(
        f"{service.base_url}/v1/chat/completions",
        json={
            "model": "direct",
            "messages": [{"role": "user", "content": "Say yes."}],
            "max_completion_tokens": 8,
        },
        headers={"Authorization": f"Bearer {key or service.keys['demo']}"},
        timeout=120,
        trust_env=False,
    )


def state(service: Running) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(service.acr("policy", "list", "--json").stdout)
    return told


def test_push_canary_and_rollback_on_a_running_service(published: Running, tmp_path: Path) -> None:
    boot = ask(published).headers["x-acr-policy"]
    new = tmp_path / "new.yaml"
    new.write_text(DEFAULT.read_text().replace("name: default", "name: pushed"))
    pushed = published.acr("policy", "push", str(new), "--note", "a test", "--wait-s", "60")
    assert pushed.returncode == 0, pushed.stderr
    version = ask(published).headers["x-acr-policy"]
    assert version != boot
    assert f"{version} (pushed) is current" in pushed.stdout
    assert "1 of 1 replicas follow" in pushed.stdout
    assert published.acr("policy", "show", "live").stdout == new.read_text()
    assert published.acr("policy", "diff", "live", "boot").stdout == "~ name: pushed -> default\n"

    bad = tmp_path / "bad.yaml"
    bad.write_text(new.read_text().replace("quality_target: 0.8", "quality_target: 8"))
    refused = published.acr("policy", "push", str(bad))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "bad.yaml:" in refused.stderr
    assert ask(published).headers["x-acr-policy"] == version

    canary = tmp_path / "canary.yaml"
    canary.write_text(new.read_text().replace("name: pushed", "name: canary"))
    assert published.acr("policy", "push", str(canary), "--canary", "100", "--wait-s", "60").returncode == 0
    tried = ask(published).headers["x-acr-policy"]
    assert tried == state(published)["published"]["canary"]["version"] != version
    assert published.acr("policy", "rollback", "--wait-s", "60").returncode == 0
    assert ask(published).headers["x-acr-policy"] == version
    assert published.acr("policy", "rollback", "--wait-s", "60").returncode == 0
    assert ask(published).headers["x-acr-policy"] == boot


def test_a_key_that_is_pushed_works_until_it_is_taken_back(published: Running, tmp_path: Path) -> None:
    made = published.acr("keys", "create", "--tenant", "demo", "--id", "new").stdout
    key = next(line.strip() for line in made.splitlines() if line.strip().startswith("acr-"))
    digest = made.rpartition('sha256: "')[2].split('"')[0]
    new = tmp_path / "keys.yaml"
    keys = f"keys: [{{id: new, sha256: {digest}}}]"
    new.write_text(DEFAULT.read_text().replace("keys: [] ", keys + " ", 1))
    assert ask(published, key).status_code == 401
    assert published.acr("policy", "push", str(new), "--wait-s", "60").returncode == 0
    assert ask(published, key).status_code == 200
    assert published.acr("policy", "rollback", "--wait-s", "60").returncode == 0
    assert ask(published, key).status_code == 401


def test_a_shadow_counts_on_a_running_service(published: Running, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow.yaml"
    shadow.write_text(DEFAULT.read_text().replace("name: default", "name: shadow"))
    assert published.acr("policy", "push", str(shadow), "--shadow", "--wait-s", "60").returncode == 0
    ask(published)
    deadline = time.monotonic() + 60
    while json.loads(published.acr("policy", "shadow", "--json").stdout)["planned"] < 1:
        assert time.monotonic() < deadline
        httpx.post(
            f"{published.base_url}/v1/chat/completions",
            json={
                "model": "direct",
                "messages": [{"role": "user", "content": f"Say {time.monotonic()}."}],
                "max_completion_tokens": 4,
            },
            headers={"Authorization": f"Bearer {published.keys['demo']}"},
            timeout=120,
            trust_env=False,
        )
