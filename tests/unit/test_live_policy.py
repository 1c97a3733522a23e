"""A replica follows what is published, between requests, and keeps the last good policy whatever comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from policies.errors import PolicyError, PolicyFileError, StoreUnavailable
from policies.loader import parse_policy
from policies.memory_versions import MemoryVersions
from policies.published import Published
from policies.publishing import Document, Publisher
from policies.schema import Policy
from policies.versions import Report
from router.following import RETRY_S
from router.live_policy import Boot, LivePolicy
from router.ruling import Ruling

TEXT = """\
version: 1
name: {name}
arms:
  direct/direct: {{tier: direct, strategy: direct}}
  search/mcts: {{tier: search, strategy: mcts, max_samples: 4}}
tenants:
  acme: {{quality_target: {target}}}
"""


def document(name: str, target: float = 0.5) -> Document:
    text = TEXT.format(name=name, target=target)
    return Document(parse_policy(text, f"{name}.yaml"), text)


BOOT, A, B = document("boot"), document("a"), document("b")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Store(MemoryVersions):
    """May fail, and counts who reads documents."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: BaseException | None = None
        self.fails_on_documents: BaseException | None = None
        self.read = 0

    async def raw_state(self) -> bytes:
        if self.fails is not None:
            raise self.fails
        return await super().raw_state()

    async def document(self, version: str) -> str:
        self.read += 1
        if self.fails_on_documents is not None:
            raise self.fails_on_documents
        return await super().document(version)

    def break_document(self, version: str, text: str) -> None:
        self._documents[version] = text

    def turn_back(self, raw: bytes) -> None:
        self._state = raw


class Replica:
    def __init__(self, store: Store, boot: Document = BOOT) -> None:
        self.store = store
        self.clock = Clock()
        self.rulings: list[Ruling] = []
        self.cannot: set[str] = set()
        self.live = LivePolicy(
            store,
            Boot(boot.policy, (), boot.text),
            self.rulings.append,
            runnable=self.runnable,
            replica="r1",
            local_keys={"0" * 64: ("acme", "local")},
            clock=self.clock,
        )

    async def runnable(self, policy: Policy) -> tuple[Policy, Mapping[str, str]]:
        lacks = {arm: "no prefixes" for arm in policy.arms if arm in self.cannot}
        if len(lacks) == len(policy.arms):
            raise PolicyFileError(policy.source, 1, "arms", "no tier can run any of them")
        return policy.without(list(lacks)), lacks

    async def look(self, after_s: float = 0.5) -> Ruling:
        self.clock.now_s += after_s
        await self.live.look()
        return self.live.ruling

    async def report(self) -> Any:
        (report,) = await self.store.reports()
        return report


@pytest.fixture
def replica() -> Replica:
    return Replica(Store())


@pytest.fixture
def publisher(replica: Replica) -> Publisher:
    return Publisher(replica.store, "ann")


async def test_the_boot_policy_decides_until_one_is_published(replica: Replica, publisher: Publisher) -> None:
    assert (await replica.look()).policy is BOOT.policy
    assert replica.live.trouble is None
    await publisher.push(A)
    assert (await replica.look()).policy.version == A.version
    assert replica.rulings[-1] is replica.live.ruling
    assert replica.live.ruling.keys.lookup("x") is None


async def test_nothing_is_read_again_while_nothing_changes(replica: Replica, publisher: Publisher) -> None:
    await publisher.push(A)
    first = await replica.look()
    for _ in range(5):
        assert await replica.look(10.0) is first
    assert replica.store.read == 1
    await publisher.canary(B, 50, None)
    await replica.look()
    assert replica.store.read == 2


async def test_the_boot_policy_can_be_shown_and_come_back(replica: Replica, publisher: Publisher) -> None:
    await replica.look()
    assert await replica.store.document(BOOT.version) == BOOT.text
    await publisher.push(A)
    await replica.look()
    await publisher.rollback("boot")
    assert (await replica.look()).policy is BOOT.policy


async def test_a_bad_document_is_told_once_and_the_last_good_stays(
    replica: Replica, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    await publisher.push(A)
    await replica.look()
    await publisher.push(B)
    replica.store.break_document(B.version, B.text.replace("0.5", "5"))
    with caplog.at_level(logging.INFO):
        for _ in range(30):
            assert (await replica.look()).policy.version == A.version
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert f"policy {B.version}:7: tenants.acme.quality_target: " in said[0]
    assert f"policy {A.version} stays in force" in said[0]
    assert (await replica.report()).trouble == replica.live.trouble
    replica.store.break_document(B.version, B.text)
    assert (await replica.look(RETRY_S)).policy.version == B.version
    assert replica.live.trouble is None


async def test_a_bad_document_is_not_read_twice_a_second(replica: Replica, publisher: Publisher) -> None:
    await publisher.push(A)
    replica.store.break_document(A.version, "version: 2\n")
    for _ in range(20):
        await replica.look(0.5)
    assert replica.store.read <= 3


async def test_a_document_that_is_missing_or_runs_nowhere(replica: Replica, publisher: Publisher) -> None:
    await publisher.push(A)
    replica.cannot = {"direct/direct", "search/mcts"}
    assert (await replica.look()).policy is BOOT.policy
    assert "no tier can run any of them" in str(replica.live.trouble)
    raw = await replica.store.raw_state()
    replica.store.turn_back(replica.store.opened(raw).with_shadow("f" * 12).model_dump_json().encode())
    await replica.look()
    assert "no policy ffffffffffff" in str(replica.live.trouble)


async def test_arms_that_no_tier_can_run_are_left_out_and_named(
    replica: Replica, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    replica.cannot = {"search/mcts"}
    await publisher.push(A)
    with caplog.at_level(logging.WARNING):
        assert set((await replica.look()).policy.arms) == {"direct/direct"}
    assert f"arm search/mcts of policy {A.version} is left out: no prefixes" in caplog.text
    assert (await replica.report()).left_out == ("search/mcts",)


@pytest.mark.parametrize(
    "failure", [StoreUnavailable("the store is away"), TimeoutError(), ZeroDivisionError("a bug")]
)
async def test_store_trouble_keeps_what_is_in_force_and_is_told_once(
    replica: Replica, publisher: Publisher, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    await publisher.push(A)
    await replica.look()
    await publisher.push(B)
    replica.store.fails = failure
    with caplog.at_level(logging.INFO):
        for _ in range(10):
            assert (await replica.look()).policy.version == A.version
        assert replica.live.trouble is not None
        replica.store.fails = None
        assert (await replica.look()).policy.version == B.version
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert replica.live.trouble is None


async def test_a_store_that_takes_no_reports_is_followed_all_the_same(
    replica: Replica, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(report: Report) -> None:
        raise StoreUnavailable("the store is full")

    replica.store.report = full  # type: ignore[method-assign]
    await publisher.push(A)
    for _ in range(10):
        assert (await replica.look(1.0)).policy.version == A.version
        assert replica.live.trouble is None
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["this replica cannot report which policy it runs: the store is full"]


async def test_trouble_that_passes_without_a_change_is_over_at_once(replica: Replica) -> None:
    await replica.look()
    replica.store.fails = StoreUnavailable("away")
    await replica.look()
    replica.store.fails = None
    await replica.look()
    assert replica.live.trouble is None


async def test_a_document_that_the_store_could_not_give_is_asked_for_again(
    replica: Replica, publisher: Publisher
) -> None:
    await publisher.push(A)
    replica.store.fails_on_documents = StoreUnavailable("away")
    assert (await replica.look()).policy is BOOT.policy
    replica.store.fails_on_documents = None
    assert (await replica.look()).policy.version == A.version


async def test_a_reader_that_breaks_does_not_break_the_service(
    replica: Replica, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    await publisher.push(A)
    replica.store.fails_on_documents = RecursionError("deep")
    for _ in range(5):
        assert (await replica.look(0.1)).policy is BOOT.policy
    assert replica.store.read == 1
    assert caplog.text.count("Traceback") == 1
    assert replica.live.trouble == "reading it failed (RecursionError)"


async def test_the_store_going_back_in_time_is_not_followed(replica: Replica, publisher: Publisher) -> None:
    await publisher.push(A)
    old = await replica.store.raw_state()
    await publisher.push(B)
    await replica.look()
    for raw, said in ((old, "an older publication"), (b"", "gone from the store")):
        replica.store.turn_back(raw)
        assert (await replica.look()).policy.version == B.version
        assert said in str(replica.live.trouble)
    later = Published(number=1, at_ms=2**50, current=A.version)  # a store begun anew, and a push
    replica.store.turn_back(later.model_dump_json().encode())
    assert (await replica.look()).policy.version == A.version
    assert replica.live.trouble is None


async def test_a_canary_that_cannot_be_read_ends_and_the_current_one_changes(
    replica: Replica, publisher: Publisher
) -> None:
    await publisher.push(A)
    await publisher.canary(B, 100, None)
    assert (await replica.look()).trial is not None
    replica.store.break_document(B.version, "nonsense")
    await publisher.rollback()
    assert (await replica.look()).trial is None
    other = document("c")
    await publisher.canary(other, 100, None)
    replica.store.break_document(other.version, "nonsense")
    ruling = await replica.look()
    assert (ruling.policy.version, ruling.trial) == (A.version, None)
    assert other.version in str(replica.live.trouble)


async def test_a_rollback_to_what_cannot_be_read_still_ends_the_canary(
    replica: Replica, publisher: Publisher
) -> None:
    await publisher.push(A)
    await publisher.push(B)
    await publisher.canary(document("c"), 100, None)
    assert (await replica.look()).trial is not None
    await publisher.rollback(A.version)
    replica.store.break_document(A.version, "nonsense")
    replica.live._loaded.clear()
    ruling = await replica.look()
    assert (ruling.policy.version, ruling.trial) == (B.version, None)


async def test_a_shadow_goes_on_counting_while_others_change(replica: Replica, publisher: Publisher) -> None:
    await publisher.push(A)
    await publisher.shadow(B)
    first = (await replica.look()).shadow
    assert first is not None
    await publisher.push(document("c"))
    assert (await replica.look()).shadow is first
    await publisher.push(B)
    assert (await replica.look()).shadow is None


async def test_a_report_says_what_runs(replica: Replica, publisher: Publisher) -> None:
    await publisher.push(A)
    await publisher.canary(B, 30, "acme")
    await replica.look()
    report = await replica.report()
    assert (report.boot, report.current, report.canary) == (BOOT.version, A.version, B.version)
    assert (report.number, report.trouble, report.shadow) == (2, None, None)


async def test_it_follows_in_the_background_and_ends(replica: Replica, publisher: Publisher) -> None:
    live = LivePolicy(
        replica.store,
        Boot(BOOT.policy),
        replica.rulings.append,
        runnable=replica.runnable,
        replica="r2",
        poll_s=0.005,
    )
    await publisher.push(A)
    await live.start()
    assert live.ruling.policy.version == A.version
    await publisher.push(B)
    async with asyncio.timeout(20):
        while live.ruling.policy.version != B.version:
            await asyncio.sleep(0.005)
    await live.aclose()
    await publisher.push(A)
    await asyncio.sleep(0.05)
    assert live.ruling.policy.version == B.version


async def test_a_round_that_hangs_is_given_up(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.following.LOOK_TIMEOUT_S", 0.01)

    async def hang() -> bytes:
        await asyncio.sleep(60)
        raise PolicyError("never")

    replica.store.raw_state = hang  # type: ignore[method-assign]
    await replica.live.look()
    assert replica.live.trouble == "the store took too long to answer"


async def test_cancelling_a_round_is_not_swallowed(replica: Replica) -> None:
    replica.store.fails = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await replica.live.look()
