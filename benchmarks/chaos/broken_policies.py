"""Policy files that are broken on purpose, each in a way of its own, made from a good one."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

MAX_BYTES = 256 * 1024

Break = Callable[[str, random.Random], bytes]


def broken_policies(good: str, count: int = 300, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` pairs of a name and a file's bytes; every kind in turn, no two alike. All must be refused."""
    rng = random.Random(seed)
    seen: set[bytes] = set()
    number = 0
    while len(seen) < count:
        name, make = _KINDS[number % len(_KINDS)]
        number += 1
        data = make(good, rng)
        if data not in seen:
            seen.add(data)
            yield f"{name} {len(seen)}", data
        elif number > 100 * count:
            raise ValueError("the good policy is too small to be broken in so many ways")


def _lines(good: str) -> list[str]:
    return good.splitlines(keepends=True)


def _with_line(good: str, rng: random.Random, line: str) -> bytes:
    """A line at the top level, between two others of that level."""
    lines = _lines(good)
    places = [n for n, text in enumerate(lines) if re.match(r"[a-z]", text)]
    lines.insert(rng.choice(places), line)
    return "".join(lines).encode("utf-8", "surrogatepass")


def _value(good: str, rng: random.Random, values: tuple[str, ...], pattern: str) -> bytes:
    """Another value for one of the fields that the pattern finds (as its group 1, before the value)."""
    found = list(re.finditer(pattern, good, re.MULTILINE))
    match = rng.choice(found)
    return (good[: match.end(1)] + rng.choice(values) + good[match.end() :]).encode()


_NUMBER = r"((?:target|weight|minute|day|month|default|cap|max_samples|ttl_s|concurrency): )[0-9._]+"


def _truncated(good: str, rng: random.Random) -> bytes:
    """Cut in the middle of a bracket or before the tenants, which a policy needs."""
    text = good[: rng.randrange(1, good.index("\ntenants:"))]
    return text.encode()


def _of_wrong_type(good: str, rng: random.Random) -> bytes:
    values = ('"many"', "[1, 2]", "{a: 1}", "true", f"x{rng.randrange(10**6)}", "1:30", "2026-01-01", "0x1F")
    return _value(good, rng, values, _NUMBER)


def _of_wild_numbers(good: str, rng: random.Random) -> bytes:
    huge = "9" * rng.randrange(17, 60)
    return _value(good, rng, (".nan", ".inf", "-.inf", f"-{rng.randrange(1, 10**9)}", huge, "1e400"), _NUMBER)


def _alias_bomb(good: str, rng: random.Random) -> bytes:
    names = [f"n{number}" for number in range(rng.randrange(4, 12))]
    bomb = f"{names[0]}: &{names[0]} [x, x]\n"
    for old, new in pairwise(names):
        bomb += f"{new}: &{new} [{', '.join([f'*{old}'] * rng.randrange(2, 10))}]\n"
    return (bomb + good).encode()


def _tagged(good: str, rng: random.Random) -> bytes:
    tags = (
        "!!python/object/apply:os.system",
        "!!python/name:os.system",
        "!!str",
        "!local",
        "!!binary",
        "!!set",
    )
    return _with_line(good, rng, f"extra{rng.randrange(10**6)}: {rng.choice(tags)} [id]\n")


def _deep(good: str, rng: random.Random) -> bytes:
    depth = rng.randrange(16, 5000)
    opened = rng.choice((("[", "]"), ("{a: ", "}")))
    return _with_line(good, rng, f"extra: {opened[0] * depth}1{opened[1] * depth}\n")


def _unknown_field(good: str, rng: random.Random) -> bytes:
    names = ("quality", "teants", "YES", "no", "off", "version2", "~", "<<", f"field_{rng.randrange(10**6)}")
    return _with_line(good, rng, f"{rng.choice(names)}: {rng.randrange(10**6)}\n")


def _not_utf8(good: str, rng: random.Random) -> bytes:
    data, bad = good.encode(), rng.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xfe\xff", b"caf\xe9 "))
    at = rng.randrange(len(data) + 1)
    return data[:at] + bad + data[at:]


def _utf16(good: str, rng: random.Random) -> bytes:
    return good[: rng.randrange(10, len(good))].encode(rng.choice(("utf-16", "utf-16-le", "utf-32")))


def _hidden(good: str, rng: random.Random) -> bytes:
    at = rng.randrange(len(good) + 1)
    character = rng.choice("\ufeff\u2028\u2029\x85\u202e\u2066\x00\x07\x1b\x7f")
    return (good[:at] + character + good[at:]).encode()


def _tabs(good: str, rng: random.Random) -> bytes:
    lines = _lines(good)
    places = [n for n, text in enumerate(lines) if re.match(r"  [a-z]", text)]
    at = rng.choice(places)
    lines[at] = "\t" + lines[at].lstrip()
    return "".join(lines).encode()


def _nothing(good: str, rng: random.Random) -> bytes:
    return rng.choice((b"", b"#", b"---", b"...", b"null")) + rng.choice((b"\n", b" ")) * rng.randrange(10**4)


def _too_large(good: str, rng: random.Random) -> bytes:
    padding = rng.choice((b" ", b"\n", b"#"))
    return good.encode() + padding * (MAX_BYTES + rng.randrange(1, 1000) - len(good.encode()))


def _other_document(good: str, rng: random.Random) -> bytes:
    number = rng.randrange(10**6)
    others = (
        f'{{"apiVersion": "v{number}", "kind": "Pod"}}',
        f"- {number}\n- b\n",
        f"<html>{number}</html>",
        f"[section]\nkey = {number}\n",
        f"just words {number}",
        f"%YAML 1.1\n---\n# {number}\n{good}",
        f"{good}---\n# {number}\n{good}",
        f"# {number}\napplications:\n  - name: acr\n",
    )
    return rng.choice(others).encode()


def _twice(good: str, rng: random.Random) -> bytes:
    lines = _lines(good)
    again = [n for n, text in enumerate(lines) if re.match(r" *[a-z_]+: *[^ \n#{&]", text)]
    at = rng.choice(again)
    return "".join([*lines[: at + 1], lines[at], *lines[at + 1 :]]).encode()


def _merge_key(good: str, rng: random.Random) -> bytes:
    number = rng.randrange(10**6)
    merges = (f"<<: {{name: m{number}}}\n", f"<<: [*a{number}]\n", f"<<: *a{number}\n")
    return _with_line(good, rng, rng.choice(merges))


def _bad_name(good: str, rng: random.Random) -> bytes:
    names = (
        "No",
        "-",
        "a b",
        "a/b",
        "\u00e9",
        "a" * 64,
        '"\\e[31m"',
        '"a\\0"',
        '""',
        f"X{rng.randrange(10**6)}",
    )
    return (
        good.rstrip("\n") + f"\n  {rng.choice(names)}: {{quality_target: 0.{rng.randrange(10**6)}}}\n"
    ).encode()


def _contradictory(good: str, rng: random.Random) -> bytes:
    number = rng.randrange(1, 10**6)
    tenants = (
        f"budgets: {{minute: {number + 1}, day: {number}}}",
        f"deadline_s: {{default: {number % 1000 + 301}, cap: 300}}",
        f"organisation: nobody{number}",
        f"keys: [{{id: a, sha256: {number:064x}}}, {{id: a, sha256: {number + 1:064x}}}]",
        f"keys: [{{id: a, sha256: acr-{number}}}]",
        "max_effort: low\n    default_effort: high",
    )
    return (good.rstrip("\n") + f"\n  tenant{number}:\n    {rng.choice(tenants)}\n").encode()


def _unclosed(good: str, rng: random.Random) -> bytes:
    opened = rng.choice(('"', "'", "[", "{", "{a: [", "|9\n", "`", "@", "%", "&", "*"))
    return _with_line(good, rng, f"extra{rng.randrange(10**6)}: {opened}\n")


_KINDS: tuple[tuple[str, Break], ...] = (
    ("truncated", _truncated),
    ("wrong type", _of_wrong_type),
    ("wild number", _of_wild_numbers),
    ("alias bomb", _alias_bomb),
    ("tag", _tagged),
    ("deep", _deep),
    ("unknown field", _unknown_field),
    ("not UTF-8", _not_utf8),
    ("UTF-16", _utf16),
    ("hidden character", _hidden),
    ("tab", _tabs),
    ("nothing", _nothing),
    ("too large", _too_large),
    ("another document", _other_document),
    ("key twice", _twice),
    ("merge key", _merge_key),
    ("bad name", _bad_name),
    ("contradiction", _contradictory),
    ("unclosed", _unclosed),
)
