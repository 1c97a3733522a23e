"""From the socket to a JSON object, strictly and within bounds."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any

from starlette.types import Receive

from router.errors import InvalidRequest
from router.http.errors import ClientLeft, HttpRefusal
from router.http.headers import RequestHead
from router.http.settings import HttpSettings

MAX_DEPTH = 64
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def check_head(head: RequestHead, settings: HttpSettings) -> None:
    """Everything that can be refused before a byte of the body is read: 431, 415, 413."""
    if head.total_bytes > settings.max_header_bytes:
        message = f"Send at most {settings.max_header_bytes} bytes of headers."
        raise HttpRefusal(431, "headers_too_large", message)
    if not _is_json(head.content_type):
        message = "Send the body as UTF-8 JSON with content-type application/json."
        raise HttpRefusal(415, "unsupported_media_type", message)
    if head.content_encoding not in (None, b"identity"):
        raise HttpRefusal(415, "unsupported_media_type", "Send the body without a content-encoding.")
    length = head.content_length
    if length is not None and length.isdigit() and _exceeds(length, settings.max_body_bytes):
        raise _too_large(settings.max_body_bytes)


def _is_json(content_type: bytes | None) -> bool:
    if content_type is None:
        return False
    media, _, parameters = content_type.lower().partition(b";")
    if media.strip() != b"application/json":
        return False
    name, _, charset = parameters.strip().partition(b"=")
    return name.strip() != b"charset" or charset.strip(b' "') in (b"utf-8", b"utf8")


def _exceeds(digits: bytes, limit: int) -> bool:
    # Ten digits are past any limit here; int() of thousands of digits would be work for nothing.
    return len(digits.lstrip(b"0")) > 10 or int(digits) > limit


def _too_large(max_bytes: int) -> HttpRefusal:
    return HttpRefusal(413, "request_too_large", f"Send a body of at most {max_bytes} bytes.")


async def read_body(receive: Receive, settings: HttpSettings) -> bytes:
    """The whole body. Raises HttpRefusal 413 as soon as it is too long, 408 if it is slow, ClientLeft."""
    first = True
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                part: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(part)
                if size > settings.max_body_bytes:
                    raise _too_large(settings.max_body_bytes)
                if first and not more:
                    return part
                first = False
                parts.append(part)
                if not more:
                    return b"".join(parts)
    except TimeoutError:
        message_ = f"Send the whole body within {settings.body_timeout_s:g} seconds."
        raise HttpRefusal(408, "request_timeout", message_) from None


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object as RFC 8259 and I-JSON mean it.

    Raises InvalidRequest (invalid_json): not UTF-8, a BOM, not JSON, bytes after it, duplicate keys,
    NaN or infinities (also as 1e999), lone surrogates, over 64 levels, or not an object.
    """
    try:
        value = _decoder.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise _invalid("it is not UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise _invalid(f"{error.msg.lower()} at character {error.pos}") from None
    except ValueError:
        raise _invalid("a number has too many digits") from None
    if not isinstance(value, dict):
        raise _invalid("it is not an object")
    # Without 65 opening brackets there is no depth of 65; counting bytes is much cheaper than walking.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(value)
    if _SURROGATE.search(body):
        _check_surrogates(value)
    return value


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"The body cannot be read as JSON: {why}.", code="invalid_json")


def _too_deep() -> InvalidRequest:
    return _invalid(f"it is nested over {MAX_DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _invalid("an object has the same key twice")
    return value


def _no_constant(name: str) -> Any:
    raise _invalid(f"{name} is not a JSON number")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _invalid("a number is too large")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            below.extend(child for child in children if isinstance(child, dict | list))
        if not below:
            return
        level = below
    raise _too_deep()


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _invalid("a string has half of a surrogate pair") from None


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_no_constant)
