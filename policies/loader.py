"""Policy files, read safely.

YAML is walked event by event: nothing is constructed, so tags cannot run anything and aliases cannot grow.
Refused: anchors, aliases, tags, directives, duplicate keys, several documents, over 256 KiB, over 16 levels,
and characters that make a file read otherwise than it looks. Plain words mean what YAML 1.2 says: `off` and
`no` are text, `1:30` is not a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from policies.arm_spec import FieldProblem
from policies.errors import PolicyFileError
from policies.schema import Policy, PolicyDocument

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16

FieldPath = tuple[str, ...]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?((0|[1-9][0-9_]*)(\.[0-9]*|(\.[0-9]*)?[eE][-+]?[0-9]+)|\.[0-9]+([eE][-+]?[0-9]+)?)|[-+]?\.inf|\.nan",
    re.IGNORECASE,
)
# YAML 1.1 ends lines, comments too, where editors do not (CR alone, NEL, LS, PS); bidi controls reorder what
# is shown; a byte order mark may stand anywhere.
_HIDDEN = re.compile("\r(?!\n)|[\x85\u2028\u2029\ufeff\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MAX_NUMBER_CHARS = 32  # longer is text: a digest of digits alone, say


def load_policy(path: Path | str) -> Policy:
    """Read and check a policy file. It blocks: call it from a thread where a loop runs.

    Raises PolicyFileError, which names file, line and field.
    """
    return parse_policy(read_text(path), str(path))


def read_text(path: Path | str) -> str:
    """A policy file's text, bounded. Raises PolicyFileError; its cause is an OSError if there is no file."""
    source = str(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PolicyFileError(source, 1, "", f"cannot be read: {reason}") from error
    if len(data) > MAX_BYTES:
        raise PolicyFileError(source, 1, "", f"it is over {MAX_BYTES // 1024} KiB; make it smaller")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyFileError(source, line, "", "it is not UTF-8; save it as UTF-8") from None


def parse_policy(text: str, source: str) -> Policy:
    """Check a policy's text; `source` is the name that errors give the file. Raises PolicyFileError."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise PolicyFileError(source, 1, "", f"it is over {MAX_BYTES // 1024} KiB; make it smaller")
    if (hidden := _HIDDEN.search(text)) is not None:
        line = text.count("\n", 0, hidden.start()) + 1
        problem = f"it has a character that does not show (U+{ord(hidden[0]):04X}); remove it"
        raise PolicyFileError(source, line, "", problem)
    value, lines = _read(text, source)
    if not isinstance(value, Mapping):
        raise PolicyFileError(source, 1, "", "it is not a mapping; begin with version: 1")
    try:
        return Policy.of(PolicyDocument.model_validate(value), source)
    except ValidationError as error:
        raise _refusal(error, lines, source) from None


@dataclass(slots=True)
class _Open:
    """A mapping or list that has not ended yet."""

    path: FieldPath
    value: dict[str, Any] | list[Any]
    key: str | None = None
    seen: set[str] = field(default_factory=set)


def _read(text: str, source: str) -> tuple[Any, dict[FieldPath, int]]:
    """The document as plain values, and the line of every field."""
    lines: dict[FieldPath, int] = {}
    root: list[Any] = []
    stack: list[_Open] = []
    path: FieldPath = ()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.DocumentStartEvent):
                _refuse_document(event, bool(root), source, line)
            if isinstance(event, yaml.CollectionEndEvent):
                stack.pop()
                continue
            if not isinstance(event, yaml.NodeEvent):
                continue
            top = stack[-1] if stack else None
            _refuse_tricks(event, source, line, _dotted(top))
            if top is not None and isinstance(top.value, dict) and top.key is None:
                _take_key(event, top, source, line)
                lines[(*top.path, top.key or "")] = line
                continue
            path = _next_path(top)
            lines.setdefault(path, line)
            value: Any
            if isinstance(event, yaml.ScalarEvent):
                value = _scalar(event)
            else:
                value = {} if isinstance(event, yaml.MappingStartEvent) else []
            _attach(value, top, root)
            if not isinstance(event, yaml.ScalarEvent):
                stack.append(_Open(path, value))
                if len(stack) > MAX_DEPTH:
                    raise PolicyFileError(source, line, ".".join(path[:4]), f"over {MAX_DEPTH} levels deep")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be parsed"
        line = mark.line + 1 if mark is not None else _line_of_position(text, error)
        raise PolicyFileError(source, line, ".".join(path), f"not YAML: {problem}") from None
    if not root:
        raise PolicyFileError(source, 1, "", "it is empty; begin with version: 1")
    return root[0], lines


def _refuse_document(event: yaml.DocumentStartEvent, again: bool, source: str, line: int) -> None:
    if again:
        raise PolicyFileError(source, line, "", "it holds several documents; keep one")
    if event.version is not None or event.tags:
        raise PolicyFileError(source, line, "", "directives are refused (%YAML, %TAG); remove them")


def _refuse_tricks(event: yaml.NodeEvent, source: str, line: int, where: str) -> None:
    if isinstance(event, yaml.AliasEvent):
        raise PolicyFileError(source, line, where, f"aliases are refused (*{event.anchor}); write it out")
    if event.anchor is not None:
        raise PolicyFileError(source, line, where, f"anchors are refused (&{event.anchor}); write it out")
    tag = getattr(event, "tag", None)
    if tag is not None:
        raise PolicyFileError(source, line, where, f"tags are refused ({tag}); remove it")


def _take_key(event: yaml.NodeEvent, top: _Open, source: str, line: int) -> None:
    where = _dotted(top)
    if not isinstance(event, yaml.ScalarEvent):
        raise PolicyFileError(source, line, where, "a key must be a word")
    if event.value in top.seen:
        raise PolicyFileError(source, line, ".".join((*top.path, event.value)), "the key comes twice")
    top.seen.add(event.value)
    top.key = event.value


def _attach(value: Any, top: _Open | None, root: list[Any]) -> None:
    if top is None:
        root.append(value)
    elif isinstance(top.value, dict):
        top.value[top.key or ""] = value
        top.key = None
    else:
        top.value.append(value)


def _next_path(top: _Open | None) -> FieldPath:
    if top is None:
        return ()
    return (*top.path, (top.key or "") if isinstance(top.value, dict) else str(len(top.value)))


def _dotted(top: _Open | None) -> str:
    return ".".join(_next_path(top) if top is not None and top.key is not None else top.path if top else ())


def _scalar(event: yaml.ScalarEvent) -> Any:
    """Quoted text is text; plain text is null, a boolean, a number or text, as YAML 1.2 has it."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if len(text) <= _MAX_NUMBER_CHARS:
        plain = text.replace("_", "").lower()
        if _INT.fullmatch(text):
            return int(plain)
        if _FLOAT.fullmatch(text):
            return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _line_of_position(text: str, error: yaml.YAMLError) -> int:
    position = getattr(error, "position", None)  # a ReaderError has no mark
    return text.count("\n", 0, position) + 1 if isinstance(position, int) else 1


def _line(path: Iterable[str], lines: Mapping[FieldPath, int]) -> int:
    """The line of a field; of the same field in `defaults`, or else of the nearest field around it."""
    asked = tuple(path)
    candidates = [asked]
    if len(asked) > 2 and asked[0] == "tenants":
        candidates.append(("defaults", *asked[2:]))
    for candidate in candidates:
        if candidate in lines:
            return lines[candidate]
    while asked and asked not in lines:
        asked = asked[:-1]
    return lines.get(asked, 1)


# pydantic's own words name Python's classes here.
_SHAPES = {
    "model_type": "it should be a mapping: lines of `name: value` under it",
    "model_attributes_type": "it should be a mapping: lines of `name: value` under it",
    "dict_type": "it should be a mapping: lines of `name: value` under it",
    "tuple_type": "it should be a list: [one, two]",
}


def _refusal(error: ValidationError, lines: Mapping[FieldPath, int], source: str) -> PolicyFileError:
    """The first problem in one line. Values are not quoted: a key might be among them."""
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    path = tuple(str(part) for part in first["loc"] if part != "[key]")
    cause = first.get("ctx", {}).get("error")
    message = first["msg"]
    if isinstance(cause, FieldProblem):
        path, message = (*path, *cause.path), str(cause)
    elif first["type"] == "extra_forbidden":
        message = "unknown field; check its spelling"
    elif first["type"] == "missing":
        message = "it is missing"
    elif first["type"] in _SHAPES:
        message = _SHAPES[first["type"]]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return PolicyFileError(source, _line(path, lines), ".".join(path), message + more)
