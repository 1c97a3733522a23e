from __future__ import annotations

from dataclasses import fields, replace

import pytest

from backends.engines.base import Message
from backends.task import Spend
from backends.verifiers.base import VerifySpec
from router.cache import MemoryCache, as_hit, cache_key, decode_reply, encode_reply
from router.keys import seal, unseal
from router.request import Choice, LimitState, Reply, RouteRequest
from tests.fakes_http import RECEIPT, REPLY

SECRET = b"s" * 32
REQUEST = RouteRequest("req-1", "auto", (Message("user", "2 + 2?"),))

# For every field of a request: another value, and whether it is another question.
OTHER = {
    "request_id": ("req-2", False),
    "trace_id": ("0af7651916cd43dd8448eb211c80319c", False),
    "progress": (True, False),
    "cache_mode": ("no-cache", False),
    "max_age_s": (5, False),
    "model": ("direct", True),
    "messages": ((Message("user", "2 + 3?"),), True),
    "max_completion_tokens": (9, True),
    "temperature": (0.0, True),
    "top_p": (0.5, True),
    "seed": (1, True),
    "stop": (("x",), True),
    "n": (2, True),
    "effort": ("high", True),
    "strategy": ("direct", True),
    "max_samples": (4, True),
    "max_total_tokens": (100, True),
    "deadline_s": (1.0, True),
    "min_quality": (0.9, True),
    "allow_degrade": (False, True),
    "verify": (VerifySpec("number", minimum=1), True),
}


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def key(request: RouteRequest = REQUEST, **changes: str) -> str:
    context = {"tenant": "a", "policy_version": "p1", "ceiling": "high", "engine_models": "m"} | changes
    secret = context.pop("secret", SECRET)
    return cache_key(secret, request=request, **context)


@pytest.mark.parametrize("name", [field.name for field in fields(RouteRequest)])
def test_every_field_that_changes_the_answer_changes_the_key(name: str):
    value, matters = OTHER[name]
    assert getattr(REQUEST, name) != value
    assert (key(replace(REQUEST, **{name: value})) != key()) is matters


@pytest.mark.parametrize(
    "changes",
    [{"tenant": "b"}, {"policy_version": "p2"}, {"ceiling": "low"}, {"engine_models": "n"}, {"secret": b"t"}],
)
def test_the_context_changes_the_key(changes):
    assert key(**changes) != key()


def test_the_same_question_has_the_same_key_whatever_the_order_of_a_schema():
    one = replace(REQUEST, verify=VerifySpec("json_schema", schema={"type": "object", "title": "x"}))
    two = replace(REQUEST, verify=VerifySpec("json_schema", schema={"title": "x", "type": "object"}))
    assert key(one) == key(two)


def test_role_and_text_do_not_run_into_each_other():
    one = replace(REQUEST, messages=(Message("user", "ab"), Message("user", "c")))
    two = replace(REQUEST, messages=(Message("user", "a"), Message("user", "bc")))
    three = replace(REQUEST, messages=(Message("user", "ab"), Message("system", "c")))
    assert len({key(one), key(two), key(three)}) == 3


def test_the_key_tells_nothing_of_the_question():
    assert len(key()) == 64
    assert set(key()) <= set("0123456789abcdef")


async def test_what_was_put_is_got():
    cache = MemoryCache(SECRET)
    await cache.put("k", "a", b"value", 10)
    assert await cache.get("k", "a") == b"value"
    assert await cache.get("other", "a") is None
    assert (cache.counts.hits, cache.counts.misses, cache.counts.stored) == (1, 1, 1)


async def test_another_tenant_never_reads_it_even_with_the_key():
    cache = MemoryCache(SECRET)
    await cache.put("k", "a", b"value", 10)
    assert await cache.get("k", "b") is None
    assert cache.counts.refused == 1
    assert cache.counts.hits == 0


async def test_values_expire():
    clock = FakeClock()
    cache = MemoryCache(SECRET, clock=clock)
    await cache.put("k", "a", b"value", 10)
    clock.now_s = 9.9
    assert await cache.get("k", "a") == b"value"
    clock.now_s = 10.0
    assert await cache.get("k", "a") is None


@pytest.mark.parametrize("ttl_s", [0, -1])
async def test_without_a_time_to_live_nothing_is_kept(ttl_s):
    cache = MemoryCache(SECRET)
    await cache.put("k", "a", b"value", ttl_s)
    assert await cache.get("k", "a") is None


async def test_the_least_recently_used_goes_first():
    size = len(seal(SECRET, "1", "a", b"v" * 100))
    cache = MemoryCache(SECRET, max_bytes=3 * size)
    for name in "123":
        await cache.put(name, "a", b"v" * 100, 10)
    await cache.get("1", "a")
    await cache.put("4", "a", b"v" * 100, 10)
    kept = [name for name in "1234" if await cache.get(name, "a") is not None]
    assert kept == ["1", "3", "4"]


async def test_rewriting_a_key_does_not_count_it_twice():
    size = len(seal(SECRET, "1", "a", b"v" * 100))
    cache = MemoryCache(SECRET, max_bytes=2 * size)
    for _ in range(10):
        await cache.put("1", "a", b"v" * 100, 10)
    await cache.put("2", "a", b"v" * 100, 10)
    assert await cache.get("1", "a") is not None


async def test_what_is_too_large_is_not_kept_and_drives_nothing_out():
    cache = MemoryCache(SECRET, max_bytes=200)
    await cache.put("1", "a", b"v", 10)
    await cache.put("2", "a", b"v" * 300, 10)
    assert await cache.get("1", "a") == b"v"
    assert cache.counts.too_large == 1


def test_a_seal_holds_only_for_its_secret_key_and_tenant():
    data = seal(SECRET, "k", "a", b"value")
    assert unseal(SECRET, "k", "a", data) == b"value"
    assert unseal(b"t" * 32, "k", "a", data) is None
    assert unseal(SECRET, "k2", "a", data) is None
    assert unseal(SECRET, "j", "a", data) is None
    assert unseal(SECRET, "k", "b", data) is None


def test_any_changed_or_missing_byte_breaks_the_seal():
    data = seal(SECRET, "k", "a", b"value")
    for i in range(len(data)):
        broken = data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
        assert unseal(SECRET, "k", "a", broken) is None
        assert unseal(SECRET, "k", "a", data[:i]) is None
    assert unseal(SECRET, "k", "a", data + b"x") is None


def test_a_tenant_cannot_be_stretched_over_the_value():
    # Same bytes after the length field, another split.
    assert unseal(SECRET, "k", "ab", seal(SECRET, "k", "a", b"bvalue")) is None


def test_a_key_cannot_be_stretched_over_the_sealed_bytes():
    assert seal(SECRET, "ka", "", b"")[:32] != seal(SECRET, "k", "", b"")[:32]


@pytest.mark.parametrize(
    "reply",
    [
        REPLY,
        replace(REPLY, choices=(Choice("é \u2028 \U0001f600 \x00", "length"), Choice("", "stop"))),
        replace(REPLY, limits=LimitState()),
        replace(REPLY, receipt=replace(RECEIPT, confidence=None, verified=False, answer=None, lease_id=None)),
    ],
)
def test_a_reply_survives_the_codec(reply: Reply):
    assert decode_reply(encode_reply(reply)) == reply


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\x80\x04N.", b'{"id":1}', encode_reply(REPLY)[:-2]])
def test_what_is_no_reply_decodes_to_none(data: bytes):
    assert decode_reply(data) is None


def test_a_hit_spends_nothing_and_says_what_it_saved():
    receipt = as_hit(REPLY, charged_tokens=5, budget_remaining=100).receipt
    assert receipt.spend == Spend()
    assert receipt.charged_tokens == 5
    assert receipt.saved_tokens == REPLY.receipt.spend.total
    assert receipt.cache == "hit"
    assert receipt.lease_id is None
    assert (receipt.gpu_seconds, receipt.flops, receipt.cost_usd) == (0, 0, 0)
    assert (receipt.samples_planned, receipt.samples_used, receipt.samples_cancelled) == (0, 0, 0)
    assert receipt.budget_remaining == 100


def test_a_hit_keeps_what_describes_the_answer():
    hit = as_hit(REPLY, charged_tokens=0)
    assert hit.choices == REPLY.choices
    for name in ("tier", "strategy", "confidence", "answer", "engine_model", "policy_version"):
        assert getattr(hit.receipt, name) == getattr(RECEIPT, name)


# --- attempts to make two questions one, or one two


def asked(text: str) -> str:
    return key(replace(REQUEST, messages=(Message("user", text),)))


def test_what_reads_alike_is_not_the_same():
    """Another byte is another prompt: no normal forms, no case, no white space."""
    alike = [
        "caf\u00e9",
        "cafe\u0301",
        "\u210c",
        "H",
        "h",
        " h",
        "h ",
        "h\n",
        "h\u200b",
        "\uff28",
        "1",
        "1.0",
        "\u0661",
    ]
    assert len({asked(text) for text in alike}) == len(alike)


def test_stop_lists_do_not_run_together():
    stops = [(), ("ab",), ("a", "b"), ("b", "a"), ("",), ('a","b',), ("a", "b", "")]
    assert len({key(replace(REQUEST, stop=stop)) for stop in stops}) == len(stops)


def test_absent_is_not_a_number():
    for name in ("temperature", "top_p", "seed", "max_completion_tokens", "min_quality", "deadline_s"):
        values = [None, 0, 1]
        assert len({key(replace(REQUEST, **{name: value})) for value in values}) == 3


def test_a_message_cannot_pretend_to_be_two():
    one = (Message("user", 'a"],["assistant","b'),)
    two = (Message("user", "a"), Message("assistant", "b"))
    assert key(replace(REQUEST, messages=one)) != key(replace(REQUEST, messages=two))


def test_the_context_does_not_run_into_its_neighbours():
    assert key(tenant="ab", policy_version="c") != key(tenant="a", policy_version="bc")
    assert key(ceiling="a:b", engine_models="c") != key(ceiling="a", engine_models="b:c")
