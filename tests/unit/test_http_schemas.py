from __future__ import annotations

import json
from typing import Any

import pytest

from backends.engines.base import Message
from backends.verifiers.base import VerifySpec
from router.errors import InvalidRequest
from router.http.convert import route_request
from router.http.headers import RequestHead
from router.http.parse import parse_json
from router.http.refusals import chat_request
from router.request import RouteRequest

VALUE = "invalid_value"
CONTENT, ROLE, TYPE = "messages[0].content", "messages[0].role", "messages[0].content[0].type"
SCHEMA, PATTERN = "compute.verify.schema", "compute.verify.pattern"

USER = {"role": "user", "content": "hi"}
BASE: dict[str, Any] = {"model": "auto", "messages": [USER]}


def read(**fields: Any) -> RouteRequest:
    """Through JSON, as a caller's body comes."""
    chat = chat_request(parse_json(json.dumps(BASE | fields).encode()))
    return route_request(chat, RequestHead("req-1", 0))


def part(kind: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, **more}]}]}


def verify(**spec: Any) -> dict[str, Any]:
    return {"compute": {"verify": spec}}


def schema(value: Any) -> dict[str, Any]:
    return verify(type="json_schema", schema=value)


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"not": value}
    return value


def doubling(levels: int) -> dict[str, Any]:
    """A small schema whose check would take 2**levels steps."""
    defs: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(levels)
    }
    return {"$defs": defs | {f"d{levels}": {}}, "$ref": "#/$defs/d0"}


# Every bad input: (name of the case, fields, code, param).
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    *((f"n {n!r}", {"n": n}, VALUE, "n") for n in (0, -1, 1.5, 1.0, "3", True, False, 9, 10**9, [1])),
    *(
        (f"{name} {value!r}", {name: value}, VALUE, name)
        for name in ("max_tokens", "max_completion_tokens")
        for value in (0, -1, 1.5, "10", True, 10**9, 10**30)
    ),
    ("both maxima", {"max_tokens": 1, "max_completion_tokens": 2}, VALUE, "max_tokens"),
    *(
        (f"temperature {value!r}", {"temperature": value}, VALUE, "temperature")
        for value in (True, False, -0.1, 2.01, "1", 10**400, [])
    ),
    *((f"top_p {v!r}", {"top_p": v}, VALUE, "top_p") for v in (0, 0.0, 1.1, -1, True, "1")),
    *((f"seed {v!r}", {"seed": v}, VALUE, "seed") for v in (1.5, "1", True, 2**63, -(2**63) - 1)),
    ("stop number", {"stop": 5}, VALUE, "stop"),
    ("stop empty", {"stop": ""}, VALUE, "stop"),
    ("stop none in a list", {"stop": []}, VALUE, "stop"),
    ("stop five", {"stop": list("abcde")}, VALUE, "stop"),
    ("stop empty in a list", {"stop": ["a", ""]}, VALUE, "stop[1]"),
    ("stop object", {"stop": {}}, VALUE, "stop"),
    ("stream 1", {"stream": 1}, VALUE, "stream"),
    ("stream string", {"stream": "true"}, VALUE, "stream"),
    ("stream_options alone", {"stream_options": {}}, VALUE, "stream_options"),
    (
        "stream_options without stream",
        {"stream": False, "stream_options": {"include_usage": True}},
        VALUE,
        "stream_options",
    ),
    (
        "stream_options unknown",
        {"stream": True, "stream_options": {"x": 1}},
        "unknown_parameter",
        "stream_options.x",
    ),
    ("model number", {"model": 5}, VALUE, "model"),
    ("model null", {"model": None}, VALUE, "model"),
    ("model empty", {"model": ""}, VALUE, "model"),
    ("model long", {"model": "x" * 257}, VALUE, "model"),
    ("effort unknown", {"reasoning_effort": "extreme"}, VALUE, "reasoning_effort"),
    ("effort number", {"reasoning_effort": 1}, VALUE, "reasoning_effort"),
    # messages
    ("messages null", {"messages": None}, VALUE, "messages"),
    ("messages string", {"messages": "hi"}, VALUE, "messages"),
    ("messages none", {"messages": []}, VALUE, "messages"),
    ("messages 257", {"messages": [USER] * 257}, VALUE, "messages"),
    ("message string", {"messages": ["hi"]}, VALUE, "messages[0]"),
    ("message empty object", {"messages": [{}]}, VALUE, ROLE),
    ("last message empty", {"messages": [{"role": "user", "content": ""}]}, VALUE, CONTENT),
    (
        "last message blank",
        {"messages": [USER, {"role": "user", "content": " \n"}]},
        VALUE,
        "messages[1].content",
    ),
    ("content null", {"messages": [{"role": "user", "content": None}]}, VALUE, CONTENT),
    ("content number", {"messages": [{"role": "user", "content": 1}]}, VALUE, CONTENT),
    ("content no parts", {"messages": [{"role": "user", "content": []}]}, VALUE, CONTENT),
    ("content blank parts", part("text", text=" "), VALUE, CONTENT),
    (
        "content earlier without parts",
        {"messages": [{"role": "user", "content": []}, USER]},
        VALUE,
        CONTENT,
    ),
    ("content missing", {"messages": [{"role": "user"}]}, VALUE, CONTENT),
    *(
        (f"role {role!r}", {"messages": [{"role": role, "content": "x"}]}, VALUE, ROLE)
        for role in ("tool", "function", "User", "", "admin", 1, None)
    ),
    *(
        (f"part {kind}", part(kind, **{kind: {"url": "x"}}), code, param)
        for kind, code, param in (
            ("image_url", "unsupported_parameter", TYPE),
            ("input_audio", "unsupported_parameter", TYPE),
            ("file", "unsupported_parameter", TYPE),
            ("refusal", "unsupported_parameter", TYPE),
        )
    ),
    ("part without text", part("text"), VALUE, "messages[0].content[0].text"),
    (
        "part with a url",
        part("text", text="x", image_url={"url": "x"}),
        "unknown_parameter",
        "messages[0].content[0].image_url",
    ),
    (
        "message tool_calls",
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}, USER]},
        "unsupported_parameter",
        "messages[0].tool_calls",
    ),
    ("message name", {"messages": [USER | {"name": "bob"}]}, "unsupported_parameter", "messages[0].name"),
    ("message unknown", {"messages": [USER | {"prefix": True}]}, "unknown_parameter", "messages[0].prefix"),
    # What must never be forwarded, and what does not exist.
    *(
        (name, {name: value}, "unknown_parameter", name)
        for name, value in {
            "api_base": "http://x",
            "base_url": "http://x",
            "api_key": "k",
            "extra_headers": {},
            "extra_body": {},
            "chat_template": "{{ x }}",
            "chat_template_kwargs": {},
            "prompt_embeds": "AAAA",
            "guided_json": {},
            "guided_regex": "a",
            "guided_choice": ["a"],
            "guided_grammar": "g",
            "prompt": "x",
            "best_of": 4,
            "min_p": 0.1,
            "top_k": 4,
            "ignore_eos": True,
            "tenant": "b",
            "Model": "auto",
            "": 1,
        }.items()
    ),
    ("null of an unknown", {"api_base": None}, "unknown_parameter", "api_base"),
    # OpenAI's that are not offered.
    *(
        (f"{name} {value!r}", {name: value}, "unsupported_parameter", name)
        for name, value in [
            ("tools", []),
            ("tools", [{"type": "function"}]),
            ("tool_choice", "auto"),
            ("functions", []),
            ("function_call", "none"),
            ("logit_bias", {"1": 5}),
            ("logit_bias", {}),
            ("logprobs", True),
            ("logprobs", 0),
            ("top_logprobs", 2),
            ("top_logprobs", 0),
            ("response_format", {"type": "json_object"}),
            ("response_format", {"type": "text", "x": 1}),
            ("modalities", ["text", "audio"]),
            ("audio", {"voice": "x"}),
            ("prediction", {"type": "content", "content": "x"}),
            ("store", True),
            ("store", 0),
            ("frequency_penalty", 0.5),
            ("frequency_penalty", False),
            ("presence_penalty", -1),
            ("parallel_tool_calls", True),
            ("web_search_options", {}),
            ("verbosity", "low"),
            ("prompt_cache_key", "k"),
        ]
    ),
    ("service_tier", {"service_tier": "priority"}, VALUE, "service_tier"),
    ("user number", {"user": 1}, VALUE, "user"),
    ("user long", {"user": "x" * 513}, VALUE, "user"),
    ("metadata list", {"metadata": []}, VALUE, "metadata"),
    ("metadata number", {"metadata": {"a": 1}}, VALUE, "metadata.a"),
    ("metadata nested", {"metadata": {"a": {"b": "c"}}}, VALUE, "metadata.a"),
    ("metadata 17", {"metadata": {str(i): "x" for i in range(17)}}, VALUE, "metadata"),
    ("metadata long value", {"metadata": {"a": "x" * 513}}, VALUE, "metadata.a"),
    # compute
    ("compute string", {"compute": "high"}, VALUE, "compute"),
    ("compute unknown", {"compute": {"samples": 4}}, "unknown_parameter", "compute.samples"),
    *(
        (f"compute.{name} {value!r}", {"compute": {name: value}}, VALUE, f"compute.{name}")
        for name, values in {
            "strategy": ("", "x" * 65, 1),
            "max_samples": (0, 65, -1, 1.5, "4", True),
            "max_total_tokens": (0, -1, 1.5, True, 10**12),
            "deadline_ms": (0, -1, 600_001, 1.5, "1000", True),
            "min_quality": (-0.1, 1.1, True, "0.5"),
            "allow_degrade": (1, "true"),
            "progress": (1, "yes", None),
            "verify": ("regex", [], 1),
        }.items()
        for value in values
    ),
    # verify
    ("verify without type", verify(pattern="a"), VALUE, "compute.verify"),
    ("verify code", verify(type="python", code="x"), VALUE, "compute.verify"),
    ("verify url", verify(type="url", url="http://x"), VALUE, "compute.verify"),
    ("verify type list", verify(type=["regex"]), VALUE, "compute.verify"),
    ("regex without pattern", verify(type="regex"), VALUE, PATTERN),
    ("regex empty", verify(type="regex", pattern=""), VALUE, PATTERN),
    ("regex long", verify(type="regex", pattern="a" * 1025), VALUE, PATTERN),
    ("regex unbalanced", verify(type="regex", pattern="(a"), VALUE, PATTERN),
    ("regex look-ahead", verify(type="regex", pattern="(?=a)b"), VALUE, PATTERN),
    ("regex back-reference", verify(type="regex", pattern=r"(a)\1"), VALUE, PATTERN),
    (
        "regex explosive",
        verify(type="regex", pattern="((a{1000}){1000}){1000}"),
        VALUE,
        PATTERN,
    ),
    (
        "regex with another's field",
        verify(type="regex", pattern="a", choices=["a"]),
        "unknown_parameter",
        "compute.verify.choices",
    ),
    ("schema missing", verify(type="json_schema"), VALUE, SCHEMA),
    ("schema bool", schema(True), VALUE, SCHEMA),
    ("schema wrong", schema({"type": "bogus"}), VALUE, SCHEMA),
    ("schema large", schema({"enum": ["x" * 9000]}), VALUE, SCHEMA),
    ("schema deep", schema(deep(40)), VALUE, SCHEMA),
    ("schema wide", schema({"prefixItems": [{}] * 200}), VALUE, SCHEMA),
    ("schema of doubling references", schema(doubling(20)), VALUE, SCHEMA),
    ("schema that is itself", schema({"allOf": [{"$ref": "#"}]}), VALUE, SCHEMA),
    (
        "schema in a circle",
        schema({"$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}}),
        VALUE,
        SCHEMA,
    ),
    ("schema dangling ref", schema({"$ref": "#/$defs/a"}), VALUE, SCHEMA),
    ("schema ref to a number", schema({"minimum": 1, "$ref": "#/minimum/x"}), VALUE, SCHEMA),
    ("schema unevaluated", schema({"unevaluatedProperties": False}), VALUE, SCHEMA),
    ("schema anchor", schema({"$anchor": "a", "$ref": "#a"}), VALUE, SCHEMA),
    ("schema bad pattern", schema({"pattern": "("}), VALUE, SCHEMA),
    ("schema remote ref", schema({"$ref": "https://example.com/s"}), VALUE, SCHEMA),
    ("schema file ref", schema({"$ref": "file:///etc/passwd"}), VALUE, SCHEMA),
    (
        "schema nested ref",
        schema({"properties": {"a": {"items": {"$ref": "other.json"}}}}),
        VALUE,
        SCHEMA,
    ),
    ("schema id", schema({"$id": "https://example.com/"}), VALUE, SCHEMA),
    ("schema dynamic ref", schema({"$dynamicRef": "#a"}), VALUE, SCHEMA),
    ("schema draft 3", schema({"$schema": "http://json-schema.org/draft-03/schema#"}), VALUE,
     SCHEMA),
    ("schema look-behind", schema({"pattern": "(?<=a)b"}), VALUE, SCHEMA),
    (
        "schema pattern property",
        schema({"patternProperties": {r"(a)\1": {}}}),
        VALUE,
        SCHEMA,
    ),
    ("number empty range", verify(type="number", minimum=2, maximum=1), VALUE, "compute.verify"),
    ("number bool", verify(type="number", minimum=True), VALUE, "compute.verify.minimum"),
    ("number integer 1", verify(type="number", integer=1), VALUE, "compute.verify.integer"),
    ("choice none", verify(type="choice", choices=[]), VALUE, "compute.verify.choices"),
    ("choice empty", verify(type="choice", choices=["a", ""]), VALUE, "compute.verify.choices[1]"),
    ("choice number", verify(type="choice", choices=[1]), VALUE, "compute.verify.choices[0]"),
    ("choice many", verify(type="choice", choices=["a"] * 65), VALUE, "compute.verify.choices"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "code", "param"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_bad_input_names_its_code_and_field(fields: dict[str, Any], code: str, param: str):
    with pytest.raises(InvalidRequest) as refusal:
        read(**fields)
    error = refusal.value
    assert (error.status, error.code, error.param, error.retryable) == (400, code, param, False)
    assert error.message.endswith(".")


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_required_fields(missing: str):
    body = {name: value for name, value in BASE.items() if name != missing}
    with pytest.raises(InvalidRequest) as refusal:
        chat_request(body)
    assert (refusal.value.code, refusal.value.param) == (VALUE, missing)


def test_refusals_do_not_quote_values():
    for fields in ({"n": "secret words"}, {"messages": [{"role": "secret words", "content": "x"}]},
                   verify(type="secret words")):  # fmt: skip
        with pytest.raises(InvalidRequest) as refusal:
            read(**fields)
        assert "secret" not in refusal.value.message


def test_a_circular_schema_is_told_so():
    for circle in ({"not": {"$ref": "#"}}, {"$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}}):
        with pytest.raises(InvalidRequest, match="circular"):
            read(**schema(circle))


def test_a_callers_own_key_is_quoted_short_and_printable():
    with pytest.raises(InvalidRequest) as refusal:
        read(**{"a\nb" + "x" * 5000: 1})
    assert refusal.value.param is not None
    assert refusal.value.param.startswith("a?bx")
    assert len(refusal.value.param) <= 128
    assert len(refusal.value.message) < 300


NOOPS: list[dict[str, Any]] = [
    {"logprobs": False},
    {"n": 1},
    {"response_format": {"type": "text"}},
    {"frequency_penalty": 0},
    {"presence_penalty": 0.0},
    {"store": False},
    {"modalities": ["text"]},
    {"service_tier": "auto"},
    {"service_tier": "default"},
    {"user": "u"},
    {"safety_identifier": "s"},
    {"metadata": {"a": "b"}},
    {"metadata": {}},
    {"stream": False},
    {"compute": {}},
    *(
        {name: None}
        for name in (
            "temperature", "top_p", "seed", "stop", "n", "stream", "stream_options", "max_tokens",
            "max_completion_tokens", "reasoning_effort", "compute", "metadata", "user", "tools",
            "tool_choice", "functions", "logit_bias", "logprobs", "top_logprobs", "response_format",
            "store", "audio", "prediction", "parallel_tool_calls", "service_tier",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("fields", NOOPS, ids=str)
def test_what_asks_for_nothing_changes_nothing(fields: dict[str, Any]):
    assert read(**fields) == read()


def test_the_least_request_leaves_everything_open():
    assert read() == RouteRequest("req-1", "auto", (Message("user", "hi"),))


def test_everything_arrives():
    request = read(
        model="consistency",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": ""},
            USER,
        ],
        max_completion_tokens=64,
        temperature=1,
        top_p=0.5,
        seed=-7,
        stop=["x", "y"],
        n=8,
        stream=True,
        stream_options={"include_usage": True},
        reasoning_effort="xhigh",
        compute={
            "strategy": "self_consistency",
            "max_samples": 64,
            "max_total_tokens": 9000,
            "deadline_ms": 1500,
            "min_quality": 1,
            "allow_degrade": False,
            "verify": {"type": "choice", "choices": ["a", "b"]},
            "progress": True,
        },
    )
    assert request == RouteRequest(
        request_id="req-1",
        model="consistency",
        messages=(
            Message("system", "be brief"),
            Message("user", "a\nb"),
            Message("assistant", ""),
            Message("user", "hi"),
        ),
        max_completion_tokens=64,
        temperature=1.0,
        top_p=0.5,
        seed=-7,
        stop=("x", "y"),
        n=8,
        effort="xhigh",
        strategy="self_consistency",
        max_samples=64,
        max_total_tokens=9000,
        deadline_s=1.5,
        min_quality=1.0,
        allow_degrade=False,
        verify=VerifySpec("choice", choices=("a", "b")),
        progress=True,
    )
    assert isinstance(request.temperature, float)


def test_the_older_name_and_a_single_stop():
    assert read(max_tokens=5, stop="x") == read(max_completion_tokens=5, stop=["x"])
    assert read(max_tokens=5, max_completion_tokens=5).max_completion_tokens == 5


@pytest.mark.parametrize(
    "edge",
    [
        {"n": 8},
        {"temperature": 0},
        {"temperature": 2.0},
        {"top_p": 1},
        {"messages": [USER] * 256},
        {"compute": {"max_samples": 1}},
        {"compute": {"deadline_ms": 600_000}},
        {"stop": list("abcd")},
        {"metadata": {str(i): "x" for i in range(16)}},
        {"seed": 2**63 - 1},
    ],
    ids=lambda edge: str(edge)[:40],
)
def test_the_bounds_themselves_are_allowed(edge: dict[str, Any]):
    read(**edge)


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        ({"type": "regex", "pattern": r"^\d+$"}, VerifySpec("regex", pattern=r"^\d+$")),
        ({"type": "number"}, VerifySpec("number")),
        (
            {"type": "number", "minimum": 0, "maximum": 9.5, "integer": True},
            VerifySpec("number", minimum=0, maximum=9.5, integer=True),
        ),
        (
            {"type": "json_schema", "schema": {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}},
            VerifySpec("json_schema", schema={"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}),
        ),
        (
            {"type": "json_schema", "schema": doubling(3)},
            VerifySpec("json_schema", schema=doubling(3)),
        ),
        (
            {"type": "json_schema", "schema": {"$defs": {"a/b~ c": {}}, "$ref": "#/$defs/a~1b~0%20c"}},
            VerifySpec("json_schema", schema={"$defs": {"a/b~ c": {}}, "$ref": "#/$defs/a~1b~0%20c"}),
        ),
        ({"type": "choice", "choices": ["yes"]}, VerifySpec("choice", choices=("yes",))),
    ],
)
def test_the_callers_check_arrives(given: dict[str, Any], spec: VerifySpec):
    assert read(compute={"verify": given}).verify == spec


def test_a_replys_message_can_be_sent_back_as_openais_client_dumps_it():
    dumped = {
        "content": "4",
        "refusal": None,
        "role": "assistant",
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    request = read(messages=[USER, dumped, USER])
    assert request.messages[1] == Message("assistant", "4")


def test_a_metadata_key_named_like_a_type_is_named_in_full():
    with pytest.raises(InvalidRequest) as refusal:
        read(metadata={"number": 1})
    assert refusal.value.param == "metadata.number"
