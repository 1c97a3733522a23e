"""The log of a real service: an answer's decision is there, and its feedback joined to it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import Running

SECRET_WORD = "zyzzyva"


def post(service: Running, path: str, body: dict[str, Any], tenant: str = "demo") -> httpx.Response:
    return httpx.post(
        f"{service.base_url}{path}",
        json=body,
        headers={"Authorization": f"Bearer {service.keys[tenant]}"},
        timeout=120,
        trust_env=False,
    )


def exported(service: Running, out: Path, decision_id: str) -> dict[str, Any] | None:
    """The exported record of a decision; written soon after its reply."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done = service.acr("decisions", "export", "--out", str(out), "--tenant", "demo")
        assert done.returncode == 0, done.stderr
        for line in out.read_text().splitlines():
            found: dict[str, Any] = json.loads(line)
            if found["decision_id"] == decision_id:
                return found
        time.sleep(0.2)
    return None


def test_a_decision_is_logged_without_text_and_judged(service: Running, tmp_path: Path) -> None:
    asked = {"messages": [{"role": "user", "content": f"Spell {SECRET_WORD}."}], "max_completion_tokens": 8}
    reply = post(service, "/v1/chat/completions", {"model": "auto", **asked})
    assert reply.status_code == 200, reply.text
    decision_id = reply.headers["x-acr-decision-id"]
    receipt = reply.json()["usage"]["compute"]
    assert receipt["decision_id"] == decision_id

    feedback = {"decision_id": decision_id, "score": 0.25}
    assert post(service, "/v1/feedback", feedback).json() == {"object": "feedback", **feedback}
    stranger = post(service, "/v1/feedback", feedback, "batch")
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (404, "decision_not_found")

    out = tmp_path / "log.jsonl"
    decision = exported(service, out, decision_id)
    assert decision is not None
    assert (decision["outcome"], decision["score"], decision["messages"]) == ("answered", 0.25, None)
    assert decision["policy_version"] == reply.headers["x-acr-policy"]
    assert decision["starts"] == {decision["plan"][0]: 1.0}
    assert decision["plan"][0] in decision["arms"]
    assert decision["tokens"] == reply.json()["usage"]["total_tokens"]
    assert len(decision["features"]) == 16
    assert SECRET_WORD not in out.read_text()

    tail = service.acr("decisions", "tail", "-n", "100", "--seconds", "0")
    assert tail.returncode == 0, tail.stderr
    assert any(decision_id in line and "score 0.25" in line for line in tail.stdout.splitlines())
