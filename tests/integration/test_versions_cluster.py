"""Published policies on a Redis Cluster: all of them in one slot, from whichever node one begins."""

from __future__ import annotations

from policies.publishing import Publisher
from policies.redis_versions import RedisVersions
from policies.store import connect
from policies.versions import Report, Tally
from tests.contract.test_versions_contract import A, B
from tests.integration.test_ledger_cluster import cluster, url_of
from tests.servers import ValkeyServer

__all__ = ["cluster"]


async def test_push_follow_and_roll_back_through_any_node(cluster: list[ValkeyServer]) -> None:
    for number, node in enumerate(cluster):
        client = connect(url_of(node), command_timeout_s=10.0, decode_responses=False)
        versions = RedisVersions(client, b"secret")
        publisher = Publisher(versions, "ann")
        await publisher.push(A)
        await publisher.push(B)
        await publisher.rollback()
        state = versions.opened(await versions.raw_state())
        assert (state.current, state.number) == (A.version, 3 + 2 * number)
        assert await versions.document(B.version) == B.text
        assert len(await versions.history()) == state.number
        for name in ("r1", "r2"):
            await versions.report(Report(replica=name, number=1, boot="b", current="b"))
            await versions.tally(B.version, name, Tally(planned=1))
        assert [report.replica for report in await versions.reports()] == ["r1", "r2"]
        assert (await versions.tallied(B.version)).planned == 2
        await client.aclose()
