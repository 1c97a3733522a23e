"""One suite over every place where published policies and classifiers are kept."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from policies.errors import NotSealed, PolicyFileError, PublicationRefused, StoreUnavailable, UnknownVersion
from policies.loader import parse_policy
from policies.memory_versions import MemoryVersions
from policies.published import Canary, Entry, Published
from policies.publishing import Document, Publisher
from policies.redis_versions import RedisVersions
from policies.store import connect
from policies.versions import (
    CLASSIFIERS,
    KEEP_VERSIONS,
    MAX_HISTORY,
    POLICIES,
    Report,
    Shelf,
    Tally,
    Versions,
)

TEXT = """\
version: 1
name: policy-{number}
arms:
  direct/direct: {{tier: direct, strategy: direct}}
tenants:
  demo: {{budgets: {{minute: {number}}}}}
"""


def document(number: int) -> Document:
    text = TEXT.format(number=number)
    return Document(parse_policy(text, "policy.yaml"), text)


A, B, C = document(1), document(2), document(3)


@pytest.fixture(params=["memory", "redis"])
async def versions(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[Versions]:
    if request.param == "memory":
        yield MemoryVersions()
        return
    client = connect(valkey_url, decode_responses=False)
    yield RedisVersions(client, b"secret", prefix=f"test-{secrets.token_hex(4)}:{{p}}:")
    await client.aclose()


def publisher(versions: Versions) -> Publisher:
    return Publisher(versions, "ann@desk")


async def state(versions: Versions) -> Published:
    return versions.opened(await versions.raw_state())


async def test_nothing_is_published_at_first(versions: Versions) -> None:
    assert await state(versions) == Published()
    assert await versions.history() == []
    assert await versions.known() == ()
    assert await versions.reports() == []


async def test_a_push_is_current_with_its_document_and_its_history(versions: Versions) -> None:
    change = await publisher(versions).push(A, "the first")
    assert change.changed
    now = await state(versions)
    assert (now, now.current, now.number, now.before) == (change.after, A.version, 1, (None,))
    assert await versions.document(A.version) == A.text
    (entry,) = await versions.history()
    assert (entry.by, entry.action, entry.version) == ("ann@desk", "push", A.version)
    assert (entry.name, entry.note, entry.at_ms) == ("policy-1", "the first", now.at_ms)
    assert abs(entry.at_ms - await versions.now_ms()) < 60_000


async def test_pushing_what_is_current_changes_nothing(versions: Versions) -> None:
    first = await publisher(versions).push(A)
    again = await publisher(versions).push(A, "again")
    assert not again.changed
    assert again.after == first.after
    assert len(await versions.history()) == 1


async def test_only_one_of_two_who_saw_the_same_commits(versions: Versions) -> None:
    raw = await versions.raw_state()
    entry = Entry(number=1, at_ms=1, by="x", action="push", version=A.version)
    states = [Published(number=1, at_ms=1, current=each.version) for each in (A, B)]
    assert await versions.commit(raw, states[0], entry, (A.version, A.text))
    assert not await versions.commit(raw, states[1], entry, (B.version, B.text))
    assert (await state(versions)).current == A.version
    assert await versions.known() == (A.version,)
    assert len(await versions.history()) == 1


async def test_publishers_at_the_same_time_all_get_through_or_say_so(versions: Versions) -> None:
    pushed = await asyncio.gather(
        *(publisher(versions).push(document(number)) for number in range(10, 15)), return_exceptions=True
    )
    won = [each for each in pushed if not isinstance(each, BaseException)]
    assert won
    assert all(isinstance(each, PublicationRefused) for each in pushed if isinstance(each, BaseException))
    assert (await state(versions)).number == len(won) == len(await versions.history())


async def test_the_time_of_changes_grows(versions: Versions) -> None:
    times = [(await publisher(versions).push(each)).after.at_ms for each in (A, B, A, B)]
    assert times == sorted(set(times))


async def test_canary_promote_and_the_way_back(versions: Versions) -> None:
    who = publisher(versions)
    await who.push(A)
    await who.canary(B, 10, "demo", "try it")
    assert (await state(versions)).canary == Canary(version=B.version, percent=10, tenant="demo")
    assert (await versions.history())[0].percent == 10
    await who.promote()
    now = await state(versions)
    assert (now.current, now.canary, now.before) == (B.version, None, (A.version, None))
    await who.rollback()
    assert (await state(versions)).current == A.version
    await who.rollback()
    assert (await state(versions)).current is None
    with pytest.raises(PublicationRefused, match="nothing was in force before"):
        await who.rollback()
    actions = [entry.action for entry in await versions.history()]
    assert actions == ["rollback", "rollback", "promote", "canary", "push"]


async def test_rollback_ends_a_canary_first(versions: Versions) -> None:
    who = publisher(versions)
    await who.push(A)
    await who.push(B)
    await who.canary(C, 50, None)
    change = await who.rollback()
    assert (change.after.current, change.after.canary) == (B.version, None)
    assert (await versions.history())[0].action == "end canary"
    assert (await versions.history())[0].version == C.version
    assert (await who.rollback()).after.current == A.version


async def test_rollback_to_a_version_by_its_beginning(versions: Versions) -> None:
    who = publisher(versions)
    for each in (A, B, C):
        await who.push(each)
    await who.canary(B, 50, None)
    change = await who.rollback(A.version[:6])
    assert (change.after.current, change.after.canary, change.after.before) == (A.version, None, (None,))
    assert (await who.rollback("boot")).after.current is None
    for unknown in ("ffffffffffff", "f", ""):
        with pytest.raises(UnknownVersion, match="acr policy list"):
            await who.rollback(unknown)


async def test_a_shadow_begins_and_ends(versions: Versions) -> None:
    who = publisher(versions)
    await who.push(A)
    await who.shadow(B)
    assert (await state(versions)).shadow == B.version
    assert (await who.end_shadow()).changed
    assert not (await who.end_shadow()).changed
    with pytest.raises(PublicationRefused, match="current already"):
        await who.shadow(A)


async def test_a_kept_document_that_cannot_be_read_is_not_rolled_back_to(
    versions: Versions,
) -> None:
    await versions.keep("0" * 12, "version: 2\n")
    with pytest.raises(PolicyFileError, match="policy 000000000000:1: "):
        await publisher(versions).rollback("0000")
    assert await state(versions) == Published()


async def test_the_name_of_a_version_is_the_one_it_was_published_as(versions: Versions) -> None:
    """A later release may resolve the same text to another hash."""
    await versions.keep("0" * 12, A.text)
    assert (await publisher(versions).read("0000")).version == "0" * 12


async def test_old_versions_go_and_what_is_needed_stays(versions: Versions) -> None:
    who = publisher(versions)
    await who.push(A)
    await who.shadow(B)
    await who.rollback("boot")
    await versions.report(Report(replica="r", number=1, boot="b" * 12, current="b" * 12))
    await versions.keep("b" * 12, A.text)
    numbers = range(100, 100 + KEEP_VERSIONS + 5)
    for number in numbers:
        await who.push(document(number))
    known = await versions.known()
    assert {B.version, "b" * 12} < set(known)
    assert A.version not in known
    assert {document(number).version for number in numbers[-KEEP_VERSIONS + 5 :]} < set(known)
    assert len(known) <= KEEP_VERSIONS + 2 + 20


async def test_the_history_is_bounded(versions: Versions) -> None:
    for number in range(MAX_HISTORY + 5):
        raw = await versions.raw_state()
        entry = Entry(number=number + 1, at_ms=1, by="x", action="push", version=A.version)
        assert await versions.commit(raw, Published(number=number + 1, current=A.version), entry)
    entries = await versions.history()
    assert (len(entries), entries[0].number) == (MAX_HISTORY, MAX_HISTORY + 5)
    assert len(await versions.history(3)) == 3


async def test_a_document_that_was_lost_is_kept_again_when_it_is_pushed_again(versions: Versions) -> None:
    await publisher(versions).push(A)
    raw = await versions.raw_state()
    entry = Entry(number=2, at_ms=2, by="x", action="push", version=A.version)
    await versions.commit(raw, Published(number=2, at_ms=2, current=A.version), entry, forget=[A.version])
    assert not (await publisher(versions).push(A)).changed
    assert await versions.document(A.version) == A.text


async def on_shelf(like: Versions, valkey_url: str, shelf: Shelf, name: str) -> AsyncIterator[Versions]:
    if isinstance(like, MemoryVersions):
        yield MemoryVersions(shelf=shelf)
        return
    client = connect(valkey_url, decode_responses=False)
    yield RedisVersions(client, b"secret", shelf, prefix=f"test-{name}:{{p}}:")
    await client.aclose()


async def test_a_shelf_says_how_many_are_kept_and_how_far_back_goes(
    versions: Versions, valkey_url: str
) -> None:
    async for models in on_shelf(versions, valkey_url, CLASSIFIERS, secrets.token_hex(4)):
        who = publisher(models)
        numbers = range(200, 200 + CLASSIFIERS.keep + 6)
        for number in numbers:
            change = await who.push(document(number))
        assert len(change.after.before) == CLASSIFIERS.way_back
        known = await models.known()
        assert document(numbers[0]).version not in known
        assert len(known) <= CLASSIFIERS.keep + CLASSIFIERS.way_back + 1
        for _ in range(CLASSIFIERS.way_back):
            await who.rollback()  # every step back is kept
        with pytest.raises(UnknownVersion, match=r"no classifier ffff.*acr model list"):
            await who.read("ffff")


async def test_what_is_sealed_for_one_shelf_means_nothing_on_another(valkey_url: str) -> None:
    """Whoever can write to the store copies the policies' state over the classifiers'."""
    client = connect(valkey_url, decode_responses=False)
    name = secrets.token_hex(4)
    kept = RedisVersions(client, b"secret", POLICIES, prefix=f"test-{name}-p:{{p}}:")
    models = RedisVersions(client, b"secret", CLASSIFIERS, prefix=f"test-{name}-m:{{p}}:")
    await publisher(kept).push(A)
    await client.copy(f"test-{name}-p:{{p}}:state", f"test-{name}-m:{{p}}:state")
    await client.copy(f"test-{name}-p:{{p}}:documents", f"test-{name}-m:{{p}}:documents")
    with pytest.raises(NotSealed, match="what is published"):
        models.opened(await models.raw_state())
    with pytest.raises(NotSealed, match="the classifier"):
        await models.document(A.version)
    await client.aclose()


async def test_tallies_of_replicas_add_up_and_count_once(versions: Versions) -> None:
    one = Tally(planned=3, differ=1, tokens=30, shadow_tokens=60)
    for _ in range(2):
        await versions.tally(A.version, "r1", one)
    await versions.tally(A.version, "r2", Tally(planned=1, errors=2))
    assert await versions.tallied(A.version) == Tally(
        planned=4, differ=1, errors=2, tokens=30, shadow_tokens=60
    )
    assert await versions.tallied(B.version) == Tally()


async def test_a_replica_reports_the_latest(versions: Versions) -> None:
    for number in (1, 2):
        await versions.report(Report(replica="r1", number=number, boot="b", current="b"))
    await versions.report(Report(replica="r2", number=1, boot="b", current="b", trouble="no"))
    assert [(r.replica, r.number, r.trouble) for r in await versions.reports()] == [
        ("r1", 2, None),
        ("r2", 1, "no"),
    ]


class Deaf(MemoryVersions):
    """Commits, or does not, and never says so."""

    def __init__(self, runs: Callable[[int], bool]) -> None:
        super().__init__()
        self._runs = runs
        self.commits = 0

    async def commit(self, *args: object, **kwargs: object) -> bool:
        self.commits += 1
        if self._runs(self.commits):
            await super().commit(*args, **kwargs)  # type: ignore[arg-type]
        raise StoreUnavailable("no answer")


async def test_a_commit_of_unknown_fate_is_looked_for() -> None:
    versions = Deaf(lambda _: True)
    change = await publisher(versions).push(A)
    assert (change.changed, change.before.number, change.after.number) == (True, 0, 1)
    assert versions.commits == len(await versions.history()) == 1


async def test_a_commit_that_did_not_run_is_tried_again_and_then_told() -> None:
    versions = Deaf(lambda attempt: attempt == 3)
    assert (await publisher(versions).push(A)).changed
    assert len(await versions.history()) == 1
    with pytest.raises(StoreUnavailable, match="unknown; look with `acr policy list`"):
        await publisher(Deaf(lambda _: False)).push(A)
