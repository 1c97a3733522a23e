"""A request that nothing is predicted to help: the cheapest answer is given, and the receipt says so."""

from __future__ import annotations

import json
import logging

import pytest

from router.codec import decode_reply, encode_reply
from router.http.replies import usage
from router.http.schemas_out import Usage
from tests.service import ACME, HARD, request, start_service

HOPELESS = dict.fromkeys(HARD, 0.05)


async def test_the_receipt_says_that_it_was_hopeless(caplog: pytest.LogCaptureFixture) -> None:
    service = await start_service(p=HOPELESS)
    with caplog.at_level(logging.INFO, "acr.decisions"):
        reply = await service.pipeline.complete(ACME, request(effort="max"))
    receipt = reply.receipt
    assert (receipt.hopeless, receipt.arms_tried) == (True, ("direct/direct",))
    assert "to do better than the cheapest, direct/direct (0.05), so it answers" in receipt.reasons[0]
    assert not receipt.degraded  # nothing was kept from the caller: there was nothing to be had
    told = json.loads(json.dumps(usage(receipt)))
    assert told["compute"]["hopeless"] is True
    assert Usage.model_validate(told).compute.hopeless
    assert decode_reply(encode_reply(reply)) == reply
    assert json.loads(caplog.messages[-1])["hopeless"] is True


async def test_a_request_that_compute_helps_is_not(caplog: pytest.LogCaptureFixture) -> None:
    service = await start_service(p=HARD)
    reply = await service.pipeline.complete(ACME, request())
    assert not reply.receipt.hopeless
    assert usage(reply.receipt)["compute"]["hopeless"] is False
