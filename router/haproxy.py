"""Makes the HAProxy that Ray Serve drives safe for one machine, then becomes it.

    python -IS haproxy.py BINARY HEADER_TIMEOUT_S HAPROXY_ARGUMENT ...

Serve writes the configuration and runs `haproxy -f FILE` at the start and at every change of replicas
(RAY_SERVE_HAPROXY_BINARY_PATH). Its template cannot be set to do the following, so it is rewritten:

- the statistics page (`bind *:8404`) and the Prometheus exporter (`bind :9101`) listen on every interface
  without a password, and two services on one machine would clash: both go; Serve itself uses neither;
- the admin socket is open to every user (mode 666): 600;
- with `option splice-request` it does not notice that a client left whose body came after its headers, and
  the request would run on to its end for nobody (measured: more than half of them): no splicing;
- there is no limit on how long a client may take to send its headers: `timeout http-request`;
- headers by which a caller would set Serve's timeout, or keep a request running after it left, and
  request ids that are no safe words (Serve echoes them as they are): removed;
- an access log goes to UDP port 514, whoever listens there: none;
- what HAProxy answers by itself (no replica, a replica that broke off) is plain text and always 500: the
  errors of our contract instead. Replies of the service pass as they are. Headers that cannot be parsed,
  or never come, still get HAProxy's own 400 and 408: its HTTP/1 parser knows no other text.

Fails closed: a configuration that still listens beyond the address it should, or that looks unlike the
one this was written for, is not started. Imports nothing of this project.
"""

from __future__ import annotations

import json
import os
import re
import sys

_SECTION = re.compile(r"(global|defaults|frontend|backend|listen)\b")
_DROPPED_SECTIONS = ("frontend prometheus", "listen stats")
_BIND = re.compile(r"\s*bind\s+(\S+)")
_LOOPBACK = re.compile(r"(127\.0\.0\.1|\[::1\]|localhost):\d+")
_STATS_SOCKET = re.compile(r"(\s*stats socket \S+) mode 666 (level admin.*)")


_DROPPED_LINES = re.compile(r"\s*(errorfile |log \S+ local0 |option splice-(request|response)$)")
_SAFE_REQUEST_ID = "req.hdr(x-request-id) -m reg ^[A-Za-z0-9._:/+=@~-]{1,128}$"
_SERVE_HEADERS = ("x-request-timeout-seconds", "x-request-disconnect-disabled")


class UnexpectedConfig(Exception):
    """The configuration is not what Ray Serve 2.60 writes; nothing is started."""


def harden(config: str, header_timeout_s: int) -> str:
    """The configuration, rewritten. Raises UnexpectedConfig."""
    hardened: list[str] = []
    sockets = 0
    for line in _without_sections(config.splitlines()):
        words = line.split()
        socket = _STATS_SOCKET.fullmatch(line)
        if socket:
            sockets += 1
            line = f"{socket[1]} mode 600 {socket[2]}"
        elif _DROPPED_LINES.match(line):
            continue
        hardened.append(line)
        if words[:1] == ["bind"]:
            hardened += [f"    http-request del-header {name}" for name in _SERVE_HEADERS]
            hardened.append(f"    http-request del-header x-request-id if !{{ {_SAFE_REQUEST_ID} }}")
        if line.strip() == "defaults":
            hardened.append(f"    timeout http-request {header_timeout_s}s")
            hardened += [_own_error(*error) for error in _OWN_ERRORS]
    _check(hardened, sockets)
    return "\n".join(hardened) + "\n"


# status, type, code, message, what a client should do
_INVALID, _SERVER = "invalid_request_error", "server_error"
_FINAL, _RETRY = "hdr x-should-retry false", "hdr x-should-retry true hdr retry-after 2"
_OWN_ERRORS = (
    (400, _INVALID, "invalid_value", "The request is not valid HTTP.", _FINAL),
    (408, _INVALID, "request_timeout", "The request came too slowly.", _FINAL),
    (502, _SERVER, "upstream_error", "The router broke off; the request may have run.", _FINAL),
    (503, _SERVER, "overloaded", "No replica of the router is ready; ask again.", _RETRY),
    (504, _SERVER, "deadline_exceeded", "The router fell silent; the request may have run.", _FINAL),
)


def _own_error(status: int, kind: str, code: str, message: str, headers: str) -> str:
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
    reply = f"http-error status {status} content-type application/json string '{body}'"
    return f"    {reply} {headers} hdr x-request-id %[uuid]"


def _without_sections(lines: list[str]) -> list[str]:
    kept: list[str] = []
    dropped: set[str] = set()
    dropping = False
    for line in lines:
        if _SECTION.match(line):
            name = " ".join(line.split()[:2])
            dropping = name in _DROPPED_SECTIONS
            if dropping:
                dropped.add(name)
        if not dropping:
            kept.append(line)
    if dropped != set(_DROPPED_SECTIONS):
        raise UnexpectedConfig(f"expected the sections {_DROPPED_SECTIONS}, found {sorted(dropped)}")
    return kept


def _check(lines: list[str], sockets: int) -> None:
    binds = [match[1] for line in lines if (match := _BIND.match(line))]
    outside = [bind for bind in binds if not _LOOPBACK.fullmatch(bind)]
    if outside or not binds:
        raise UnexpectedConfig(f"would listen on {outside or 'nothing'}; only loopback is allowed here")
    if sockets != 1 or sum(line.strip() == "defaults" for line in lines) != 1:
        raise UnexpectedConfig("expected one admin socket and one defaults section")


def main(argv: list[str]) -> None:
    binary, header_timeout_s, arguments = argv[1], int(argv[2]), argv[3:]
    path = arguments[arguments.index("-f") + 1]
    with open(path, encoding="utf-8") as file:
        hardened = harden(file.read(), header_timeout_s)
    # In place, because Serve knows its HAProxy processes by this path in their arguments. It writes the
    # whole file anew before every start, one at a time.
    with open(path, "w", encoding="utf-8") as file:
        file.write(hardened)
    os.execv(binary, [binary, *arguments])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv)
