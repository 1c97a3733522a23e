"""A parsed body against the schema: what is refused, what is let pass, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.errors import InvalidRequest
from router.http.schemas import LIST, STR, ChatRequest

M = TypeVar("M", bound=BaseModel)

_FIELDS = frozenset(ChatRequest.model_fields)

# Fields of OpenAI's API that are not offered, each with the values that ask for nothing.
# null asks for nothing anywhere.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0, 0.0),
    "function_call": (),
    "functions": (),
    "logit_bias": (),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "tool_choice": (),
    "tools": (),
    "top_logprobs": (),
    "verbosity": (),
    "web_search_options": (),
}
# What OpenAI's client sends back when a reply's message is put into the next request.
_MESSAGE_LEFTOVERS = frozenset({"refusal", "audio", "function_call", "tool_calls", "annotations", "name"})
_UNSUPPORTED_IN_MESSAGE = _MESSAGE_LEFTOVERS | {"tool_call_id"}
_MAX_PARAM_CHARS = 128
# Steps of pydantic's locations that are no field; after `verify` comes the name of its type.
_TAGS = frozenset({STR, LIST, "[key]"})


def chat_request(data: dict[str, Any]) -> ChatRequest:
    """The validated request. Raises InvalidRequest with the first field that is wrong as `param`."""
    if not data.keys() <= _FIELDS:
        data = _without_noops(data)
    messages = data.get("messages")
    if isinstance(messages, list) and any(isinstance(m, dict) and len(m) > 2 for m in messages):
        data = {**data, "messages": [_without_leftovers(message) for message in messages]}
    return validated(ChatRequest, data)


def validated(model: type[M], data: dict[str, Any]) -> M:
    """As `model`. Raises InvalidRequest with the first field that is wrong as `param`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_input=False)[0]) from None


def _without_noops(data: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in data.items():
        if name in _FIELDS:
            kept[name] = value
        elif name not in _UNSUPPORTED:
            raise InvalidRequest(
                f"Remove {_param(name)!r}: this API has no such parameter.",
                param=_param(name),
                code="unknown_parameter",
            )
        elif value is not None and not _is_one_of(value, _UNSUPPORTED[name]):
            raise _unsupported(name)
    return kept


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    # False == 0 in Python, but not in JSON.
    return any(type(value) is type(one) and value == one for one in allowed)


def _without_leftovers(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    return {
        name: value
        for name, value in message.items()
        if not (name in _MESSAGE_LEFTOVERS and (value is None or (name == "annotations" and value == [])))
    }


def _unsupported(param: str) -> InvalidRequest:
    message = f"Remove {param!r}: it is part of OpenAI's API but not offered here."
    return InvalidRequest(message, param=param, code="unsupported_parameter")


def _refusal(error: ErrorDetails) -> InvalidRequest:
    kind, location = error["type"], error["loc"]
    context = error.get("ctx", {})
    param = str(context["param"]) if kind == "contradiction" else _path(location)
    last = location[-1] if location else ""
    if kind == "extra_forbidden":
        if location[0] == "messages" and last in _UNSUPPORTED_IN_MESSAGE:
            return _unsupported(param)
        message = f"Remove {param!r}: there is no such parameter."
        return InvalidRequest(message, param=param, code="unknown_parameter")
    if kind == "literal_error" and location[0] == "messages" and last == "type":
        message = f'Send only parts of type "text": {param!r} names another type, which is not offered here.'
        return InvalidRequest(message, param=param, code="unsupported_parameter")
    if kind.startswith("union_tag") or kind in ("model_type", "model_attributes_type"):
        # pydantic's own words quote the value here, or speak of Python.
        wanted = "one of its types" if kind.startswith("union_tag") else "an object"
        return InvalidRequest(f"The value of {param!r} is not valid: it should be {wanted}.", param=param)
    if kind == "missing":
        return InvalidRequest(f"Send {param!r}: it is required.", param=param)
    return InvalidRequest(f"The value of {param!r} is not valid: {_sentence(error['msg'])}", param=param)


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:] + "."


def _path(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "content", "<list>", 1, "type")` -> `messages[0].content[1].type`."""
    path = ""
    before: int | str = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step not in _TAGS and before != "verify":
            path += f".{step}" if path else step
        before = step
    return _param(path)


def _param(name: str) -> str:
    """A caller's own key, fit to be quoted: short and printable."""
    return "".join(c if c.isprintable() else "?" for c in name[:_MAX_PARAM_CHARS])
