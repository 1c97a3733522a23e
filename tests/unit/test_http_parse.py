from __future__ import annotations

import asyncio
import json

import pytest

from router.errors import InvalidRequest
from router.http.auth import bearer
from router.http.errors import ClientLeft, HttpRefusal
from router.http.headers import RequestHead, read_head, safe_value
from router.http.parse import MAX_DEPTH, check_head, parse_json, read_body
from router.http.settings import HttpSettings

SETTINGS = HttpSettings(max_body_bytes=1000, body_timeout_s=30)


def nested(levels: int, opening: str = "[", closing: str = "]") -> bytes:
    """An object with `levels` levels in all, itself included."""
    inner = opening * (levels - 1) + closing * (levels - 1)
    return b'{"a":' + inner.encode() + b"}"


BAD_JSON = {
    "empty": b"",
    "not JSON": b"model=auto",
    "cut off": b'{"a":',
    "an array": b"[]",
    "a string": b'"a"',
    "null": b"null",
    "duplicate keys": b'{"a":1,"a":1}',
    "duplicate keys below": b'{"a":[{"b":1,"b":2}]}',
    "duplicate keys by escape": b'{"a":1,"\\u0061":2}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":-Infinity}',
    "1e999": b'{"a":1e999}',
    "-1e999": b'{"a":[-1e999]}',
    "too many digits": b'{"a":' + b"9" * 5000 + b"}",
    "lone high surrogate": b'{"a":"\\ud800"}',
    "lone low surrogate": b'{"a":"\\uDC00x"}',
    "surrogates in the wrong order": b'{"a":"\\udc00\\ud800"}',
    "lone surrogate in a key": b'{"\\ud800":1}',
    "raw surrogate": b'{"a":"\xed\xa0\x80"}',
    "invalid UTF-8": b'{"a":"\xff"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"a":1}',
    "trailing bytes": b'{"a":1}x',
    "two values": b'{"a":1}{"a":1}',
    "trailing NUL": b'{"a":1}\x00',
    "trailing comma": b'{"a":1,}',
    "comment": b'{"a":1/**/}',
    "single quotes": b"{'a':1}",
    "raw newline in a string": b'{"a":"x\ny"}',
    "leading zero": b'{"a":01}',
    "hexadecimal": b'{"a":0x1}',
    "65 levels of arrays": nested(65),
    "65 levels of objects": nested(65, '{"b":', "}").replace(b'"b":}', b'"b":1}'),
    "100,000 levels": b'{"a":' + b"[" * 100_000,
    "closed 10,000 levels": nested(10_000),
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_json_is_refused(body: bytes):
    with pytest.raises(InvalidRequest) as refusal:
        parse_json(body)
    assert refusal.value.code == "invalid_json"
    assert refusal.value.status == 400


GOOD_JSON = {
    "plain": b'{"a":1}',
    "spaces around": b' \r\n\t{"a":1}\n',
    "a pair of surrogates": b'{"a":"\\ud83d\\ude00"}',
    "an escaped backslash before u": b'{"a":"\\\\ud800"}',
    "64 levels": nested(64),
    "many brackets, not deep": b'{"a":[' + b"[]," * 200 + b"[]]}",
    "brackets in a string": b'{"a":"' + b"[" * 200 + b'"}',
    "a large integer": b'{"a":123456789012345678901234567890}',
    "a small number": b'{"a":1e-999}',
    "the same key in two objects": b'{"a":{"x":1},"b":{"x":1}}',
}


@pytest.mark.parametrize("body", GOOD_JSON.values(), ids=GOOD_JSON.keys())
def test_good_json_reads_as_python_reads_it(body: bytes):
    assert parse_json(body) == json.loads(body)


def test_the_limit_on_depth_is_exact():
    assert parse_json(nested(MAX_DEPTH))
    with pytest.raises(InvalidRequest, match="64 levels"):
        parse_json(nested(MAX_DEPTH + 1))


def test_refusals_do_not_quote_the_body():
    with pytest.raises(InvalidRequest) as refusal:
        parse_json(b'{"secret words": secret words}')
    assert "secret" not in refusal.value.message


class Body:
    """An ASGI receive that delivers these parts, and then waits for ever."""

    def __init__(self, *parts: bytes, then: dict[str, object] | None = None) -> None:
        self.messages: list[dict[str, object]] = [
            {"type": "http.request", "body": part, "more_body": True} for part in parts
        ]
        self.messages.append(then or {"type": "http.request", "body": b"", "more_body": False})
        self.taken = 0

    async def __call__(self) -> dict[str, object]:
        if self.taken == len(self.messages):
            await asyncio.Event().wait()
        self.taken += 1
        return self.messages[self.taken - 1]


async def test_a_body_in_parts_is_joined():
    assert await read_body(Body(b'{"a"', b":1", b"}"), SETTINGS) == b'{"a":1}'


async def test_a_body_may_have_exactly_the_limit():
    assert len(await read_body(Body(b"x" * 600, b"x" * 400), SETTINGS)) == 1000


async def test_a_body_over_the_limit_is_refused_while_it_comes():
    body = Body(*[b"x" * 100] * 50)
    with pytest.raises(HttpRefusal) as refusal:
        await read_body(body, SETTINGS)
    assert (refusal.value.status, refusal.value.code) == (413, "request_too_large")
    assert body.taken == 11


async def test_a_large_first_part_is_refused_too():
    only = {"type": "http.request", "body": b"x" * 1001, "more_body": False}
    with pytest.raises(HttpRefusal):
        await read_body(Body(then=only), SETTINGS)


async def test_a_client_that_leaves_within_its_body_is_no_error_to_answer():
    with pytest.raises(ClientLeft):
        await read_body(Body(b"{", then={"type": "http.disconnect"}), SETTINGS)


async def test_a_body_that_never_ends_times_out():
    endless = Body(b"{", then={"type": "http.request", "body": b"", "more_body": True})
    with pytest.raises(HttpRefusal) as refusal:
        await read_body(endless, HttpSettings(body_timeout_s=0.01))
    assert (refusal.value.status, refusal.value.code) == (408, "request_timeout")


def head(**known: object) -> RequestHead:
    return RequestHead("req", 100, **({"content_type": b"application/json"} | known))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"',
        b"application/json ; profile=x",
    ],
)
def test_json_content_types_are_taken(content_type: bytes):
    check_head(head(content_type=content_type), SETTINGS)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/jsonp",
        b"application/json, text/plain",
        b"application/json; charset=utf-16",
        b"application/json; charset=latin-1",
    ],
)
def test_other_content_types_are_not(content_type: bytes | None):
    with pytest.raises(HttpRefusal) as refusal:
        check_head(head(content_type=content_type), SETTINGS)
    assert (refusal.value.status, refusal.value.code) == (415, "unsupported_media_type")


def test_a_content_encoding_is_refused_but_identity():
    check_head(head(content_encoding=b"identity"), SETTINGS)
    with pytest.raises(HttpRefusal) as refusal:
        check_head(head(content_encoding=b"gzip"), SETTINGS)
    assert refusal.value.status == 415


@pytest.mark.parametrize("length", [b"1001", b"0001001", b"9" * 30, b"9" * 5000])
def test_a_declared_length_over_the_limit_is_refused_before_reading(length: bytes):
    with pytest.raises(HttpRefusal) as refusal:
        check_head(head(content_length=length), SETTINGS)
    assert refusal.value.status == 413


@pytest.mark.parametrize("length", [b"1000", b"0", b"-1", b"abc", None])
def test_any_other_declared_length_is_left_to_the_reading(length: bytes | None):
    check_head(head(content_length=length), SETTINGS)


def test_headers_over_the_limit_are_refused():
    with pytest.raises(HttpRefusal) as refusal:
        check_head(RequestHead("req", 40_000, content_type=b"application/json"), SETTINGS)
    assert (refusal.value.status, refusal.value.code) == (431, "headers_too_large")


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer abc", "abc"),
        (b"bearer abc", "abc"),
        (b"BEARER   abc ", "abc"),
        (b"Bearer", None),
        (b"Bearer ", None),
        (b"Basic abc", None),
        (b"abc", None),
        (b"Bearer a b", None),
        (b"Bearer \xe9", None),
        (b"Bearer a\x00b", None),
        (b"Bearer " + b"x" * 513, None),
        (b"", None),
        (None, None),
    ],
)
def test_bearer(value: bytes | None, token: str | None):
    assert bearer(value) == token


def read(*headers: tuple[bytes, bytes]) -> RequestHead:
    return read_head({"type": "http", "headers": list(headers)})


def test_a_second_authorization_header_makes_both_worthless():
    assert read((b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")).authorization == b""


@pytest.mark.parametrize("given", [b"abc", b"req_1.2:3/4+5=6@7~8-9", b"x" * 128])
def test_a_fit_request_id_is_kept(given: bytes):
    assert read((b"x-request-id", given)).request_id == given.decode()


@pytest.mark.parametrize(
    "given", [b"", b"x" * 129, b"a b", b"a\r\nb", b"a\n", b'a"b', b"\xe9", b"<script>", b"{}"]
)
def test_an_unfit_request_id_is_replaced(given: bytes):
    made = read((b"x-request-id", given)).request_id
    assert made.startswith("req_")
    assert made != read((b"x-request-id", given)).request_id


def test_several_lines_of_cache_control_are_one_list():
    head = read((b"cache-control", b"no-store"), (b"cache-control", b"max-age=3"))
    assert head.cache_control == b"no-store,max-age=3"


def test_two_idempotency_keys_are_none_that_could_be_taken():
    assert read((b"idempotency-key", b"a"), (b"idempotency-key", b"b")).idempotency_key == b""


TRACE = b"0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("value", "trace"),
    [
        (b"00-" + TRACE + b"-b7ad6b7169203331-01", TRACE.decode()),
        (b"01-" + TRACE + b"-b7ad6b7169203331-01-more", TRACE.decode()),
        (b"ff-" + TRACE + b"-b7ad6b7169203331-01", None),
        (b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", None),
        (b"00-" + TRACE.upper() + b"-b7ad6b7169203331-01", None),
        (b"nonsense", None),
    ],
)
def test_traceparent(value: bytes, trace: str | None):
    assert read((b"traceparent", value)).trace_id == trace


def test_the_size_of_the_head_is_the_sum_of_names_and_values():
    assert read((b"ab", b"cde"), (b"f", b"")).total_bytes == 6


@pytest.mark.parametrize(
    ("value", "safe"), [("p1", b"p1"), ("a\r\nset-cookie: x", b"a??set-cookie: x"), ("é", b"?"), ("", b"")]
)
def test_header_values_cannot_split_a_response(value: str, safe: bytes):
    assert safe_value(value) == safe
