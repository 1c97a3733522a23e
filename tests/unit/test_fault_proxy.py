"""The proxy knows where a reply ends: else its faults would hit others than it says."""

from __future__ import annotations

import pytest

from tests.fault_proxy import reply_end

REPLIES = [
    b"+OK\r\n",
    b":12\r\n",
    b"-ERR no\r\n",
    b"$5\r\nhello\r\n",
    b"$4\r\n\r\n\r\n\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*3\r\n$2\r\nok\r\n:7\r\n*2\r\n$-1\r\n+a\r\n",
]


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_ends_where_it_ends_and_not_before(reply: bytes) -> None:
    assert reply_end(reply + b":1\r\n") == len(reply)
    assert all(reply_end(reply[:length]) is None for length in range(len(reply)))


def test_replies_in_a_row() -> None:
    stream, ends = b"".join(REPLIES), []
    while (end := reply_end(stream, ends[-1] if ends else 0)) is not None:
        ends.append(end)
    assert len(ends) == len(REPLIES)
    assert ends[-1] == len(stream)
