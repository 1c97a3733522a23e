"""Feedback from the caller to the export: whose decision it is, limits, the last word, and store trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from policies.keys import hash_key
from policies.limits import RedisLimits
from policies.store import connect
from router.decisions.digests import DecisionIds
from router.decisions.log import scores
from router.decisions.reading import Reader
from router.decisions.writer import DecisionWriter
from router.http.app import create_app
from tests.integration.test_decision_log_store import log_at
from tests.servers import ValkeyServer
from tests.service import KEY, POLICY, SECRET, TestService, start_service
from tests.tasks import until

pytestmark = pytest.mark.integration

OTHER_KEY = "acr-other-key"
TENANTS = POLICY.replace(
    "  cheap:\n", f"  cheap:\n    keys: [{{id: k2, sha256: {hash_key(OTHER_KEY)}}}]\n"
).replace(
    "default_effort: high", "default_effort: high\n    limits: {requests_per_minute: 5, concurrency: 2}"
)
ASKED = {"model": "auto", "messages": [{"role": "user", "content": "3 + 4?"}], "max_completion_tokens": 20}


class Api:
    def __init__(self, service: TestService, writer: DecisionWriter, client: httpx.AsyncClient) -> None:
        self.service = service
        self.writer = writer
        self._client = client

    async def ask(self, key: str = KEY) -> str:
        answer = await self.post("/v1/chat/completions", ASKED, key)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-acr-decision-id"]

    async def judge(self, decision_id: str, score: float, key: str = KEY) -> httpx.Response:
        return await self.post("/v1/feedback", {"decision_id": decision_id, "score": score}, key)

    async def post(self, path: str, body: object, key: str) -> httpx.Response:
        return await self._client.post(path, json=body, headers={"authorization": f"Bearer {key}"})


@pytest.fixture
def server(start_valkey: Callable[..., ValkeyServer]) -> ValkeyServer:
    return start_valkey()


@pytest.fixture
async def api(server: ValkeyServer) -> AsyncIterator[Api]:
    limits = connect(server.url, connect_timeout_s=0.3, command_timeout_s=0.3)
    async with log_at(server.url) as log:
        writer = DecisionWriter(log, gather_s=0.0)
        service = await start_service(
            policy=TENANTS,
            decisions=writer,
            limits=RedisLimits(limits),  # the limits of the service itself
        )
        transport = httpx.ASGITransport(create_app(service.pipeline))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield Api(service, writer, client)
        await service.pipeline.aclose()
    await limits.aclose()


async def test_the_last_feedback_is_joined_to_its_decision(api: Api) -> None:
    first, second = await api.ask(), await api.ask()
    for score in (1.0, 0.25):
        assert (await api.judge(first, score)).json() == {
            "object": "feedback",
            "decision_id": first,
            "score": score,
        }
    await until(lambda: api.writer.counts.written == 2)
    reader = Reader(api.writer.log, tenant="acme")
    await reader.open()
    page = await reader.page()
    assert page is not None
    assert {each.decision_id: (each.score, each.reward) for each in page} == {
        first: (0.25, 0.25),
        second: (None, None),
    }


async def test_only_the_tenant_whose_decision_it_was_may_judge_it(api: Api) -> None:
    mine = await api.ask()
    theirs = await api.ask(OTHER_KEY)
    for answer in (
        await api.judge(mine, 0.0, OTHER_KEY),
        await api.judge(theirs, 0.0),
        await api.judge("dec-" + "0" * 40, 0.0),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "decision_not_found"
        assert answer.json()["error"]["param"] == "decision_id"
        assert answer.headers["x-acr-policy"] == api.service.policy.version
    assert await scores(api.writer.log) == {}
    assert (await api.judge(theirs, 1.0, OTHER_KEY)).status_code == 200
    assert await scores(api.writer.log) == {theirs: 1.0}
    assert await scores(api.writer.log, "acme") == {}


async def test_another_replica_with_the_secret_knows_whose_it_is(api: Api) -> None:
    assert (await api.judge(DecisionIds(SECRET).new("acme"), 1.0)).status_code == 200
    assert (await api.judge(DecisionIds(b"other").new("acme"), 1.0)).status_code == 404


async def test_feedback_counts_as_a_request_but_holds_no_slot(api: Api) -> None:
    mine = await api.ask()
    left = [int((await api.judge(mine, 1.0)).headers["x-ratelimit-remaining-requests"]) for _ in range(4)]
    assert left == [3, 2, 1, 0]
    refused = await api.judge(mine, 1.0)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) > 0


async def test_a_busy_tenant_may_still_judge(api: Api) -> None:
    """Two requests at a time: judging is none of them."""
    mine = await api.ask()
    answers = await asyncio.gather(*(api.judge(mine, 1.0) for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4


async def test_a_store_that_is_away_is_503_with_a_time(api: Api, server: ValkeyServer) -> None:
    mine = await api.ask(OTHER_KEY)  # no limits: only the log's store is asked
    server.kill()
    answer = await api.judge(mine, 1.0, OTHER_KEY)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "decision_log_unavailable"
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
    limited = await api.judge(mine, 1.0)
    assert limited.status_code == 503
    assert limited.json()["error"]["code"] == "budget_store_unavailable"
    server.start()
    assert (await api.judge(mine, 1.0, OTHER_KEY)).status_code == 200


async def test_without_a_log_there_is_nothing_to_judge() -> None:
    service = await start_service()
    transport = httpx.ASGITransport(create_app(service.pipeline))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        api = Api(service, DecisionWriter(None), client)  # type: ignore[arg-type]
        answer = await api.judge(await api.ask(), 1.0)
    assert answer.status_code == 404
    assert "keeps no decision log" in answer.json()["error"]["message"]


async def test_a_refused_request_is_told_its_decision_too(api: Api) -> None:
    answer = await api.post("/v1/chat/completions", ASKED | {"model": "none"}, KEY)
    assert answer.status_code == 404
    decision_id = answer.headers["x-acr-decision-id"]
    assert (await api.judge(decision_id, 0.0)).status_code == 200
    await until(lambda: api.writer.counts.written == 1)
    (logged,) = await api.writer.log.last(1)
    assert logged.decision is not None
    assert (logged.decision.decision_id, logged.decision.outcome) == (decision_id, "refused")
