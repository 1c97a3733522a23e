"""From requests to gauges: what visits leave in the watch over drift, and what Ray's metrics take."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backends.verifiers.base import VerifySpec
from classifier.artifact import load
from classifier.predictor import DEFAULT_ARTIFACT, Prediction, Predictor
from classifier.tables import read_table
from router.assembly import Assembly, LocalClassifier
from router.cli.main import app
from router.config import AppConfig
from router.decisions.files import write_decisions
from router.decisions.log import BEGINNING, MemoryDecisionLog
from router.decisions.writer import DecisionWriter
from router.drift import gauges as named
from router.drift.gauges import COUNTERS, GAUGES, MemoryGauges
from router.drift.live import EVERY_S, DriftWatch
from router.tier_factory import TierFactory
from router.tiers import InProcessTiers
from tests.service import ACME, POLICY, TestService, request, start_service
from tests.tasks import says

TABLE = Path(__file__).parents[2] / "benchmarks/data/smollm2_135m.jsonl"
ARM = "direct/direct"
# Nothing from a cache.
ALONE = POLICY.replace("quality_target: 0.8", "quality_target: 0.8\n    cache: {mode: 'off'}")


async def watching(**parts: Any) -> tuple[TestService, DriftWatch, MemoryGauges]:
    """A service that decides by the shipped classifier and watches its drift."""
    gauges = MemoryGauges()
    watch = DriftWatch(load(DEFAULT_ARTIFACT), gauges, clock=lambda: 0.0)
    service = await start_service(
        classifier=LocalClassifier(Predictor.load()), policy=ALONE, drift=watch, **parts
    )
    return service, watch, gauges


def asked(count: int) -> list[str]:
    items = read_table(TABLE).items[:count]
    return [item.messages[-1]["content"] for item in items]


async def test_answers_with_a_check_move_the_gauges() -> None:
    service, watch, gauges = await watching(engine=says("Answer: no"))
    wrong = VerifySpec("regex", pattern="never")
    for text in asked(60):
        await service.pipeline.complete(ACME, request(text, verify=wrong, model="direct"))
    watch.tell()
    assert gauges.values[named.ROWS, None] == 60
    assert gauges.counts == {named.LABELLED: 60}
    assert (named.PSI, "chars") in gauges.values
    assert gauges.values[named.GAP, ARM] < 0.0  # not one was right
    assert gauges.values[named.TOKENS, ARM] < 0.0  # "Answer: no" is short


async def test_feedback_reaches_the_gauges_once_its_tenant_is_known() -> None:
    log = DecisionWriter(MemoryDecisionLog(), gather_s=0.0)
    service, watch, gauges = await watching(decisions=log)
    replies = [await service.pipeline.complete(ACME, request(text, model="direct")) for text in asked(30)]
    assert gauges.counts == {}
    for reply in replies:
        await service.pipeline.feedback(ACME, reply.receipt.decision_id, 0.0)
    watch.tell()
    assert gauges.counts == {named.LABELLED: 30}
    assert gauges.values[named.GAP, ARM] < 0.0
    await service.pipeline.aclose()


@pytest.mark.parametrize("name", ["log.jsonl.gz", "log.parquet"])
async def test_what_the_service_logged_is_what_acr_drift_reads(name: str, tmp_path: Path) -> None:
    kept = MemoryDecisionLog()
    log = DecisionWriter(kept, gather_s=0.0)
    service, _, _ = await watching(engine=says("Answer: no"), decisions=log)
    wrong = VerifySpec("regex", pattern="never")
    for text in asked(60):
        await service.pipeline.complete(ACME, request(text, verify=wrong, model="direct"))
    await service.pipeline.aclose()
    logged = [each.decision for each in await kept.after(BEGINNING, 1_000) if each.decision is not None]
    assert write_decisions(tmp_path / name, logged) == 60
    told = CliRunner().invoke(app, ["drift", "--log", str(tmp_path / name), "--window", "60", "--json"])
    assert told.exit_code == 1, told.output  # nothing was right, and every answer was short
    found = json.loads(told.stdout)
    assert [each["rows"] for each in found["windows"]] == [60]
    assert found["verdict"] == "drifted"


async def test_drift_is_watched_without_a_decision_log_and_holds_no_prompt() -> None:
    service, watch, _ = await watching()
    assert service.pipeline._parts.decisions is None
    await service.pipeline.complete(ACME, request("the secret word is ocelot", model="direct"))
    assert watch._ood
    assert "ocelot" not in repr([vars(watch), [pane._pending for pane in watch._panes]])


@pytest.mark.parametrize("logged", [False, True])
async def test_a_service_without_gauges_answers(logged: bool) -> None:
    log = DecisionWriter(MemoryDecisionLog(), gather_s=0.0) if logged else None
    service = await start_service(classifier=LocalClassifier(Predictor.load()), policy=ALONE, decisions=log)
    reply = await service.pipeline.complete(ACME, request(model="direct"))
    assert reply.receipt.decision_id
    assert service.pipeline._parts.drift is None
    await service.pipeline.aclose()


async def test_decisions_of_another_classifier_are_not_counted() -> None:
    gauges = MemoryGauges()
    watch = DriftWatch(load(DEFAULT_ARTIFACT), gauges, clock=lambda: 0.0)
    service = await start_service(drift=watch)  # decides by the scripted one
    await service.pipeline.complete(ACME, request())
    watch.tell()
    assert gauges.values == {(named.ROWS, None): 0.0}


class Slow:
    """The shipped classifier, after a while."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self._local = LocalClassifier(Predictor.load())

    async def predict(self, messages: list[dict[str, str]]) -> Prediction:
        found = await self._local.predict(messages)
        self.waits.set()
        return found


async def test_a_cancelled_visit_is_seen_without_an_outcome() -> None:
    classifier = Slow()
    gauges = MemoryGauges()
    watch = DriftWatch(load(DEFAULT_ARTIFACT), gauges, clock=lambda: 0.0)
    service = await start_service(
        says("one two three four", delay_s=0.5), classifier=classifier, policy=ALONE, drift=watch
    )
    call = asyncio.create_task(service.pipeline.complete(ACME, request(model="direct")))
    await classifier.waits.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await service.pipeline.aclose()
    watch.tell()
    assert gauges.values[named.ROWS, None] == 1
    assert gauges.counts == {}


@pytest.mark.parametrize("watched", [False, True])
async def test_a_replica_watches_drift_where_it_is_given_gauges(
    watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(ALONE)
    tier = {"engine": {"kind": "fake"}, "hardware": "CPU", "shape": "SmolLM2-135M-Instruct"}
    config = AppConfig.model_validate(
        {"policy": str(policy), "tiers": dict.fromkeys(("direct", "consistency", "search"), tier)}
    )
    monkeypatch.setenv("ACR_REDIS_URL", "redis://127.0.0.1:1")  # a replica starts before its stores
    runners = {name: await TierFactory(name, config)() for name in config.tiers}
    assembly = Assembly(config, InProcessTiers(runners), gauges=MemoryGauges() if watched else None)
    await assembly.start()
    try:
        assert (assembly._pipeline._parts.drift is not None) == watched
    finally:
        await assembly.aclose()


def test_rays_metrics_take_every_gauge_and_label() -> None:
    """Without a cluster Ray keeps the values to itself; a wrong tag or a wrong kind of value raises."""
    from router.ingress import RayGauges

    gauges = RayGauges()
    for name, (_, label) in GAUGES.items():
        gauges.set(name, 0.5, "some label" if label else None)
    for name in COUNTERS:
        gauges.add(name, 1)
    with pytest.raises(KeyError):
        gauges.set("acr_unknown", 1.0)


async def test_the_gauges_are_set_by_the_decisions_themselves_when_it_is_time() -> None:
    now_s = 0.0
    gauges = MemoryGauges()
    watch = DriftWatch(load(DEFAULT_ARTIFACT), gauges, clock=lambda: now_s)
    service = await start_service(classifier=LocalClassifier(Predictor.load()), policy=ALONE, drift=watch)
    await service.pipeline.complete(ACME, request(model="direct"))
    assert not gauges.values
    now_s = EVERY_S
    await service.pipeline.complete(ACME, request(model="direct"))
    assert gauges.values[named.ROWS, None] == 2


async def test_a_watch_that_breaks_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryGauges):
        def set(self, name: str, value: float, key: str | None = None) -> None:
            raise ValueError("no such gauge")

    watch = DriftWatch(load(DEFAULT_ARTIFACT), Broken(), every_s=0.0)
    service = await start_service(classifier=LocalClassifier(Predictor.load()), policy=ALONE, drift=watch)
    reply = await service.pipeline.complete(ACME, request(model="direct"))
    assert reply.choices
    assert "drift gauges leave decision" in caplog.text
