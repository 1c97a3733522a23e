"""Who is decided by what: swaps between requests, canaries, shadows, revoked keys."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.keys import KeyRing, hash_key
from policies.loader import parse_policy
from policies.published import Canary
from policies.schema import Policy
from router.errors import AuthenticationFailed, RouterError
from router.http.errors import error_wire
from router.request import Caller
from router.ruling import Ruling, Trial
from router.shadow import Shadow
from tests.service import ACME, KEY, POLICY, TestService, request, start_service
from tests.tasks import says


def policy(text: str = POLICY, **swaps: str) -> Policy:
    for old, new in swaps.items():
        text = text.replace(old, new)
    return parse_policy(text.replace("name: test", "name: other"), "other.yaml")


OTHER = policy()
CHEAPER = policy(POLICY.replace("quality_target: 0.8", "quality_target: 0.8\n    tiers: [direct]"))


def ruling(current: Policy, **parts: Any) -> Ruling:
    return Ruling(current, KeyRing(current), **parts)


def trial(of: Policy, percent: float = 100.0, tenant: str | None = None) -> Trial:
    return Trial(Canary(version=of.version, percent=percent, tenant=tenant), of)


async def test_a_request_keeps_the_policy_that_it_began_with() -> None:
    service = await start_service(says("Answer: 7", delay_s=0.05))
    before = service.policy.version
    work = asyncio.create_task(service.pipeline.complete(ACME, request()))
    await asyncio.sleep(0.01)
    service.pipeline.rule(ruling(OTHER))
    assert (await work).receipt.policy_version == before
    assert (await service.pipeline.complete(ACME, request())).receipt.policy_version == OTHER.version


async def test_a_stream_names_one_version_from_its_head_to_its_receipt() -> None:
    service = await start_service(says("Answer: 7"))
    stream = await service.pipeline.stream(ACME, request())
    service.pipeline.rule(ruling(OTHER))
    events = [event async for event in stream.events]
    assert stream.head["x-acr-policy"] == events[-1].receipt.policy_version == service.policy.version  # type: ignore[union-attr]


async def test_a_revoked_key_is_refused_and_what_it_began_settles() -> None:
    service = await start_service(says("Answer: 7", delay_s=0.05))
    assert service.pipeline.authenticate(KEY) == ACME
    work = asyncio.create_task(service.pipeline.complete(ACME, request()))
    await asyncio.sleep(0.01)
    service.pipeline.rule(ruling(policy(POLICY.replace(hash_key(KEY), "ab" * 32))))
    with pytest.raises(AuthenticationFailed):
        service.pipeline.authenticate(KEY)
    reply = await work
    assert reply.receipt.charged_tokens > 0
    gauges = await service.gauges()
    assert (gauges["minute"].used, gauges["minute"].held) == (reply.receipt.charged_tokens, 0)


async def test_a_tenant_that_is_gone_is_refused_between_key_and_request() -> None:
    service = await start_service()
    service.pipeline.rule(ruling(policy(POLICY.replace("  acme:", "  acme-two:"))))
    for call in (service.pipeline.complete, service.pipeline.explain, service.pipeline.stream):
        with pytest.raises(AuthenticationFailed, match="not in the policy any more"):
            await call(ACME, request())
    with pytest.raises(AuthenticationFailed):
        service.pipeline.models(ACME)


async def test_a_canary_decides_for_its_keys_and_is_named() -> None:
    service = await start_service()
    service.pipeline.rule(ruling(OTHER, trial=trial(CHEAPER)))
    reply = await service.pipeline.complete(ACME, request())
    assert reply.receipt.policy_version == CHEAPER.version
    assert service.pipeline.models(ACME) == ("auto", "direct")
    explained = await service.pipeline.explain(ACME, request())
    assert explained["policy_version"] == CHEAPER.version
    service.pipeline.rule(ruling(OTHER))
    assert (await service.pipeline.complete(ACME, request())).receipt.policy_version == OTHER.version
    assert service.pipeline.models(ACME) == ("auto", "direct", "consistency", "search")


async def test_a_canary_of_one_tenant_leaves_the_others() -> None:
    service = await start_service()
    service.pipeline.rule(ruling(OTHER, trial=trial(CHEAPER, tenant="cheap")))
    assert (await service.pipeline.complete(ACME, request())).receipt.policy_version == OTHER.version


@pytest.mark.parametrize(
    "other",
    [
        policy(POLICY.replace("  acme:", "  acme-two:")),
        policy(POLICY.replace("id: k1", "id: k9")),
        policy(POLICY.replace("  acme:\n", "  acme:\n    organisation: o\n") + "organisations: {o: {}}\n"),
    ],
    ids=["without the tenant", "without the key", "under an organisation"],
)
async def test_a_canary_that_would_count_elsewhere_does_not_decide(other: Policy) -> None:
    """A key's budgets must not begin from nothing because its key is written otherwise in the canary."""
    assert not ruling(OTHER, trial=trial(other)).tries(ACME)
    assert ruling(OTHER, trial=trial(CHEAPER)).tries(ACME)


async def test_a_canary_lets_nobody_in() -> None:
    service = await start_service()
    more = policy(POLICY.replace("{id: k1,", f"{{id: k2, sha256: {hash_key('new')}}}, {{id: k1,"))
    service.pipeline.rule(ruling(OTHER, trial=trial(more)))
    with pytest.raises(AuthenticationFailed):
        service.pipeline.authenticate("new")
    assert service.pipeline.authenticate(KEY) == ACME


def test_keys_of_this_machine_may_fall_on_the_canary_s_side() -> None:
    assert ruling(OTHER, trial=trial(CHEAPER)).tries(Caller("acme", "local"))


KEYS = [f"k{number}" for number in range(2000)]


@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0))
def test_a_key_stays_on_its_side_and_more_percent_takes_more_keys(one: float, two: float) -> None:
    small, large = (Canary(version="a" * 12, percent=each) for each in sorted((one, two)))
    for key in KEYS[:50]:
        assert small.takes("acme", key) == small.takes("acme", key)
        assert large.takes("acme", key) or not small.takes("acme", key)


def test_the_share_of_keys_is_about_the_percentage_and_each_canary_draws_anew() -> None:
    drawn = {}
    for version in ("a" * 12, "b" * 12):
        canary = Canary(version=version, percent=10)
        drawn[version] = {key for key in KEYS if canary.takes("acme", key)}
        assert 140 < len(drawn[version]) < 260
    first, second = drawn.values()
    assert len(first & second) < 60
    assert all(Canary(version="a" * 12, percent=100).takes("acme", key) for key in KEYS)


async def shadowed(service: TestService, other: Policy, count: int = 1, **fields: Any) -> Shadow:
    shadow = Shadow(other)
    service.pipeline.rule(ruling(service.policy, shadow=shadow))
    for _ in range(count):
        await service.pipeline.complete(ACME, request(**fields))
    return shadow


async def test_a_shadow_is_compared_and_changes_nothing() -> None:
    hard = {"direct/direct": 0.2, "consistency/sc8": 0.85, "search/beam": 0.9}
    alone = await start_service(says("Answer: 7"), hard)
    expected = await alone.pipeline.complete(ACME, request())
    service = await start_service(says("Answer: 7"), hard)
    shadow = await shadowed(service, CHEAPER)
    assert (shadow.tally.planned, shadow.tally.differ, shadow.tally.refused) == (1, 1, 0)
    assert 0 < shadow.tally.shadow_tokens < shadow.tally.tokens
    used = [(await each.gauges())["minute"].used for each in (service, alone)]
    assert used == [expected.receipt.charged_tokens] * 2
    assert expected.receipt.policy_version == service.policy.version


async def test_a_shadow_that_would_do_the_same_says_so() -> None:
    shadow = await shadowed(await start_service(), OTHER, 3)
    assert (shadow.tally.planned, shadow.tally.differ, shadow.tally.errors) == (3, 0, 0)
    assert shadow.tally.tokens == shadow.tally.shadow_tokens > 0


async def test_a_shadow_that_would_refuse_counts_as_that() -> None:
    without = policy(POLICY.replace("  acme:", "  acme-two:"))
    shadow = await shadowed(await start_service(), without)
    assert (shadow.tally.planned, shadow.tally.differ, shadow.tally.refused) == (1, 1, 1)
    shadow = await shadowed(await start_service(), CHEAPER, model="search")
    assert (shadow.tally.planned, shadow.tally.refused) == (1, 1)


async def test_a_shadow_that_breaks_is_counted_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    service = await start_service()
    broken = Shadow(replace(CHEAPER, document=None))  # type: ignore[arg-type]
    service.pipeline.rule(ruling(service.policy, shadow=broken))
    with caplog.at_level(logging.WARNING, "acr.shadow"):
        reply = await service.pipeline.complete(ACME, request())
    assert reply.choices[0].text == "Answer: 7"
    assert (broken.tally.errors, broken.tally.planned) == (1, 0)
    assert "AttributeError" in caplog.text


async def test_a_shadow_s_line_has_both_plans_and_no_prompt(caplog: pytest.LogCaptureFixture) -> None:
    service = await start_service()
    with caplog.at_level(logging.INFO, "acr.shadow"):
        await shadowed(service, OTHER, text="a very private question")
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "acr.shadow"]
    assert line["arm"] == line["shadow_arm"] == "direct/direct"
    assert (line["policy_version"], line["shadow_version"]) == (service.policy.version, OTHER.version)
    assert line["decision_id"].startswith("dec-")
    assert "private" not in caplog.text


async def test_refusals_name_the_policy_too() -> None:
    service = await start_service()
    with pytest.raises(RouterError) as caught:
        await service.pipeline.complete(ACME, request(model="nowhere"))
    assert caught.value.policy_version == service.policy.version
    headers = dict(error_wire(caught.value, "req_1").headers)
    assert headers[b"x-acr-policy"] == service.policy.version.encode()
    with pytest.raises(RouterError) as caught:
        await service.pipeline.complete(ACME, request(max_completion_tokens=10**6))
    assert caught.value.policy_version == service.policy.version
