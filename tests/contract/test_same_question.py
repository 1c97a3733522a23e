"""Bodies that mean the same make one key; bodies that do not never do. From the wire to the key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.http.convert import route_request
from router.http.headers import RequestHead
from router.http.parse import parse_json
from router.http.refusals import chat_request
from router.keys import cache_key

BASE: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "2 + 2?"}]}


def key(body: str) -> str:
    request = route_request(chat_request(parse_json(body.encode())), RequestHead("r", 0))
    return cache_key(
        b"s" * 32, tenant="a", policy_version="p", ceiling="high:high", engine_models="m", request=request
    )


def said(**fields: Any) -> str:
    return json.dumps({**BASE, **fields})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (said(temperature=1), said(temperature=1.0)),
        (said(temperature=0), said(temperature=0.0)),
        (said(seed=None, stop=None, top_p=None, n=None), said()),
        (said(stop="x"), said(stop=["x"])),
        (said(max_tokens=9), said(max_completion_tokens=9)),
        (said(n=1), said()),
        (said(stream=True), said()),
        (said(compute={"progress": True}), said()),
        (said(user="u1"), said(user="u2")),
        (json.dumps(BASE), json.dumps(dict(reversed(BASE.items())), indent=2)),
        (said(messages=[{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}]), said()),
        (said(messages=[{"content": "2 + 2?", "role": "user"}]), said()),
        (
            said(messages=[{"role": "user", "content": "\u00e9"}]),
            said(messages=[{"role": "user", "content": "é"}]),
        ),
    ],
)
def test_the_same_question(one: str, other: str):
    assert key(one) == key(other)


@pytest.mark.parametrize(
    "other",
    [
        said(temperature=0),
        said(temperature=1),
        said(seed=0),
        said(top_p=1),
        said(stop=["x", "y"]),
        said(n=2),
        said(model="direct"),
        said(reasoning_effort="high"),
        said(max_completion_tokens=9),
        said(compute={"max_samples": 4}),
        said(compute={"min_quality": 1}),
        said(compute={"allow_degrade": False}),
        said(compute={"strategy": "direct"}),
        said(compute={"verify": {"type": "number"}}),
        said(messages=[{"role": "system", "content": "2 + 2?"}]),
        said(messages=[{"role": "user", "content": "2 + 2? "}]),
        said(messages=[*BASE["messages"], *BASE["messages"]]),
    ],
)
def test_another_question(other: str):
    assert key(other) != key(said())
