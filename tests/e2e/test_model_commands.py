"""A classifier promoted to a real service while requests come, and rolled back: none fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from classifier.artifact import load, save
from classifier.predictor import DEFAULT_ARTIFACT
from router.profiles import fake_config
from tests.artifacts import write_artifact
from tests.e2e.conftest import Running, served

WAIT_S = 120.0


class Traffic(threading.Thread):
    """Asks one question after another, each of its own, and keeps which classifier decided."""

    def __init__(self, service: Running) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._over = threading.Event()
        self.failures: list[str] = []
        self.versions: list[str] = []

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._service.keys['demo']}"}
        url = f"{self._service.base_url}/v1/chat/completions"
        with httpx.Client(headers=headers, timeout=60, trust_env=False) as http:
            number = 0
            while not self._over.is_set():
                number += 1
                question = [{"role": "user", "content": f"What is {number} + {number % 7}?"}]
                body = {"model": "auto", "messages": question, "max_completion_tokens": 16}
                try:
                    reply = http.post(url, json=body)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if reply.status_code == 429:  # the tenant's own limit, not ours to fail by
                    time.sleep(0.2)
                elif reply.status_code != 200:
                    self.failures.append(reply.text)
                else:
                    self.versions.append(reply.json()["usage"]["compute"]["classifier_version"])

    def until(self, version: str) -> None:
        """Wait until that classifier has decided a request."""
        deadline_s = time.monotonic() + WAIT_S
        while not self.versions or self.versions[-1] != version:
            assert time.monotonic() < deadline_s, (version, self.versions[-3:], self.failures[:3])
            time.sleep(0.05)

    def end(self) -> None:
        self._over.set()
        self.join(WAIT_S)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose classifier has a deployment of its own."""
    folder = tmp_path_factory.mktemp("apart")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(fake_config("deployment").model_dump(mode="json")))
    (folder / "state").mkdir()
    with served(folder / "state", "--config", str(config)) as running:
        yield running


def test_a_promotion_and_its_rollback_under_traffic(apart: Running, tmp_path: Path) -> None:
    shipped = load(DEFAULT_ARTIFACT)
    new = save(tmp_path / "new", shipped.arms, shipped.weights, {**shipped.card, "date": "2030-01-01"})
    write_artifact(tmp_path / "other", 1, ("a", "b", "c"))
    traffic = Traffic(apart)
    traffic.start()
    try:
        traffic.until(shipped.version)
        promoted = apart.acr("model", "promote", str(tmp_path / "new"), "--force", "--wait-s", "60")
        assert promoted.returncode == 0, promoted.stderr
        assert f"{new} (4 arms, 2030-01-01) is live" in promoted.stdout
        assert "2 of 2 replicas follow" in promoted.stdout  # the classifier's, and the ingress for drift
        traffic.until(new)
        refused = apart.acr("model", "promote", str(tmp_path / "other"), "--force")
        assert refused.returncode == 2
        assert "is for other arms" in refused.stderr
        assert "live: " + new in apart.acr("model", "list").stdout
        back = apart.acr("model", "rollback", "--wait-s", "60")
        assert back.returncode == 0, back.stderr
        traffic.until(shipped.version)
    finally:
        traffic.end()
    assert traffic.failures == []
    assert set(traffic.versions) == {shipped.version, new}
