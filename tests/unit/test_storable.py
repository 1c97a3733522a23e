"""Which answers may be given again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.answers import storable
from router.codec import decode_reply, encode_reply
from router.request import Choice
from tests.fakes_http import RECEIPT, REPLY


def test_a_whole_answer_is_kept():
    assert storable(REPLY)


@pytest.mark.parametrize(
    "receipt",
    [
        {"degraded": True},
        {"held_back": True},
        {"stop_reason": "deadline"},
        {"stop_reason": "budget"},
        {"stop_reason": "engine_error"},
    ],
)
def test_what_was_given_less_is_not(receipt: dict[str, Any]):
    assert not storable(replace(REPLY, receipt=replace(RECEIPT, **receipt)))


@pytest.mark.parametrize("finish", ["length", "content_filter", ""])
def test_what_is_cut_off_is_not_even_in_one_of_its_choices(finish: str):
    assert not storable(replace(REPLY, choices=(Choice("a", "stop"), Choice("b", finish))))


def test_an_answer_stored_before_there_were_these_fields_is_still_read():
    import json

    old = json.loads(encode_reply(REPLY))
    for name in ("held_back", "similarity"):
        del old["receipt"][name]
    assert decode_reply(json.dumps(old).encode()) == REPLY
