"""What a request's Cache-Control asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from router.errors import InvalidRequest
from router.request import CacheMode

# Directives and their values: tokens, or quoted strings (RFC 9110, 5.6.2 and 5.6.4).
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_DIRECTIVE = re.compile(
    rf"\s*(?P<name>{_WORD})(?:\s*=\s*(?P<value>{_WORD}|\"[^\"\\]*\"))?\s*(?:,|\Z)|\s*(?:,|\Z)", re.ASCII
)
_SECONDS = re.compile(r"[0-9]{1,10}", re.ASCII)
_WITHOUT_VALUE = frozenset({"no-cache", "no-store", "only-if-cached"})


@dataclass(frozen=True, slots=True)
class CacheControl:
    """`max_age_s`: an answer that is older than this is computed again."""

    mode: CacheMode = "default"
    max_age_s: int | None = None


def cache_control(value: bytes | None) -> CacheControl:
    """The header's directives. Those that say nothing here are ignored, as RFC 9111 wants it.

    Raises InvalidRequest for what would otherwise be misread: a header of another form, a max-age that is
    no whole number of seconds or comes twice with two values, only-if-cached (no answer without compute
    could be promised).
    """
    if value is None:
        return CacheControl()
    mode: CacheMode = "default"
    max_age_s: int | None = None
    for name, given in _directives(value):
        if name in _WITHOUT_VALUE and given is not None:
            raise _invalid(f"{name} takes no value")
        if name == "no-store":
            mode = "no-store"
        elif name == "no-cache" and mode == "default":
            mode = "no-cache"
        elif name == "max-age":
            if given is None or not _SECONDS.fullmatch(given):
                raise _invalid("max-age needs a whole number of seconds, such as max-age=60")
            if max_age_s not in (None, int(given)):
                raise _invalid("max-age is there twice")
            max_age_s = int(given)
        elif name == "only-if-cached":
            message = "Leave only-if-cached out of Cache-Control: what is not in the cache is computed."
            raise InvalidRequest(message, param="Cache-Control", code="unsupported_parameter")
    return CacheControl(mode, max_age_s)


def _directives(value: bytes) -> list[tuple[str, str | None]]:
    text = value.decode("latin-1")
    found: list[tuple[str, str | None]] = []
    at = 0
    while at < len(text):
        match = _DIRECTIVE.match(text, at)
        if match is None:
            raise _invalid("it is not a list of directives")
        if match["name"] is not None:
            found.append((match["name"].lower(), match["value"]))
        at = match.end()
    return found


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"Correct the header Cache-Control: {why}.", param="Cache-Control")
