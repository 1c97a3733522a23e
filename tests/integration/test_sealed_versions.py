"""Who writes to the store without the secret: nothing of it is believed, whatever it is."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from policies.errors import NotSealed, StoreUnavailable
from policies.published import Entry, Published
from policies.publishing import Publisher
from policies.redis_versions import RedisVersions
from policies.store import connect
from policies.versions import Report, Tally
from tests.contract.test_versions_contract import A, B

PREFIX = "test-{seal}-"


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Any]:
    client = connect(valkey_url, decode_responses=False)
    yield client
    await client.aclose()


@pytest.fixture
def prefix() -> str:
    return f"{PREFIX}{secrets.token_hex(4)}:"


def versions(store: Any, prefix: str, secret: bytes = b"secret") -> RedisVersions:
    return RedisVersions(store, secret, prefix=prefix)


async def test_a_stranger_s_state_is_not_believed(store: Any, prefix: str) -> None:
    ours = versions(store, prefix)
    await Publisher(ours, "ann").push(A)
    good = await ours.raw_state()
    unsealed = Published(number=9, at_ms=2**50, current=B.version).model_dump_json().encode()
    theirs = versions(store, prefix, b"guess")
    await Publisher(theirs, "eve").push(B, force=True)
    forged = await theirs.raw_state()
    for raw in (unsealed, forged, b"x", b"\0" * 40, good[:-1], good + b" ", good[1:], good[:32] + unsealed):
        with pytest.raises(NotSealed, match="ACR_CACHE_SECRET"):
            ours.opened(raw)
    assert ours.opened(good).current == A.version


async def test_a_document_counts_only_under_its_own_version(store: Any, prefix: str) -> None:
    ours = versions(store, prefix)
    for each in (A, B):
        await ours.keep(each.version, each.text)
    sealed = await store.hget(prefix + "documents", A.version)
    await store.hset(prefix + "documents", B.version, sealed)
    with pytest.raises(NotSealed, match=f"the policy {B.version}"):
        await ours.document(B.version)
    await store.hset(prefix + "documents", A.version, A.text)
    with pytest.raises(NotSealed):
        await ours.document(A.version)


async def test_what_is_sealed_as_one_thing_is_not_another(store: Any, prefix: str) -> None:
    ours = versions(store, prefix)
    state = b'{"number": 3}'
    await ours.keep("0" * 12, state.decode())
    sealed = await store.hget(prefix + "documents", "0" * 12)
    with pytest.raises(NotSealed):
        ours.opened(sealed)


async def test_strangers_entries_reports_and_tallies_are_left_out(store: Any, prefix: str) -> None:
    ours, theirs = versions(store, prefix), versions(store, prefix, b"guess")
    await Publisher(ours, "ann").push(A)
    await store.lpush(prefix + "history", b"junk", b"")
    assert [entry.by for entry in await ours.history()] == ["ann"]
    await theirs.report(Report(replica="eve", number=1, boot="b", current="b"))
    await store.sadd(prefix + "replicas", b"\xff\xfe", b"nobody")
    await store.set(prefix + "replica:nobody", b"junk")
    await ours.report(Report(replica="r1", number=1, boot="b", current="b"))
    assert [report.replica for report in await ours.reports()] == ["r1"]
    await theirs.tally(A.version, "eve", Tally(planned=10**9))
    await ours.tally(A.version, "r1", Tally(planned=1))
    assert (await ours.tallied(A.version)).planned == 1


async def test_force_begins_anew_after_a_change_of_the_secret(store: Any, prefix: str) -> None:
    await Publisher(versions(store, prefix, b"old"), "ann").push(A)
    ours = versions(store, prefix, b"new")
    with pytest.raises(NotSealed, match="--force"):
        await Publisher(ours, "ann").push(B)
    await Publisher(ours, "ann").push(B, force=True)
    assert ours.opened(await ours.raw_state()).current == B.version
    assert await ours.document(B.version) == B.text


@pytest.mark.parametrize("key", ["state", "documents", "history"])
async def test_a_key_of_the_wrong_type_is_store_trouble(store: Any, prefix: str, key: str) -> None:
    ours = versions(store, prefix)
    await store.sadd(prefix + key, "x")
    with pytest.raises(StoreUnavailable):
        await Publisher(ours, "ann").push(A)
    entry = Entry(number=1, at_ms=1, by="x", action="push", version=A.version)
    with pytest.raises(StoreUnavailable):
        await ours.commit(b"", Published(number=1), entry, (A.version, A.text))
