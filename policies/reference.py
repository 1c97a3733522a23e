"""The reference page of policy files: `python -m policies.reference` writes it and the JSON schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policies.arm_spec import READS, STRATEGIES
from policies.json_schema import FILE, policy_schema, policy_schema_text

PAGE = Path(__file__).parents[1] / "docs" / "policy-reference.md"
REGENERATE = "python -m policies.reference"

_SECTIONS: Mapping[str, str] = {
    "PolicyDocument": "The whole file",
    "ArmSpec": "arms.NAME",
    "EffortRule": "efforts.EFFORT",
    "TenantSettings": "defaults, and every tenant",
    "TenantPolicy": "tenants.NAME",
    "KeyEntry": "tenants.NAME.keys[]",
    "TokensCap": "max_completion_tokens",
    "SecondsCap": "deadline_s",
    "Budgets": "budgets",
    "WindowLimits": "budgets.WINDOW",
    "Organisation": "organisations.NAME",
    "Limits": "limits",
    "TierShare": "tier_share",
    "Pacing": "pacing",
    "CacheRule": "cache",
    "SemanticRule": "cache.semantic",
    "EscalateBelow": "escalate_below",
}
_KINDS = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "null": "`null`"}
_HEAD = f"""\
# Policy files: every field

Generated from the schema: do not edit, run `{REGENERATE}`. [policies.md](policies.md) says how policies are
published and taken back; [`policies/default.yaml`](../policies/default.yaml) is a whole one with comments.
Editors check a file against [`policies/policy.schema.json`](../policies/policy.schema.json), which
`acr policy schema` prints, if it begins with

```yaml
# yaml-language-server: $schema=policy.schema.json
```
"""


def reference_page() -> str:
    """The page, as `docs/policy-reference.md` has it."""
    schema = policy_schema()
    models = {"PolicyDocument": schema, **schema["$defs"]}
    parts = [_HEAD]
    for name in [*_SECTIONS, *sorted(models.keys() - _SECTIONS.keys())]:
        parts.append("\n".join(_section(name, models)))
        if name == "ArmSpec":
            parts.append("\n".join(_read_by()))
    return "\n".join(parts)


def _section(name: str, models: Mapping[str, Any]) -> Iterator[str]:
    model = models[name]
    required = model.get("required", [])
    inherited = models["TenantSettings"]["properties"] if name == "TenantPolicy" else {}
    yield f"## {_SECTIONS.get(name, name)}\n"
    yield model["description"] + "\n"
    yield "| field | type | default | bounds | meaning |"
    yield "|---|---|---|---|---|"
    for field, value in model["properties"].items():
        if field in inherited:
            continue
        default = "required" if field in required else _default(name, field, value)
        said = value.get("description", "")
        yield f"| `{field}` | {_type(value)} | {default} | {_bounds(value)} | {said} |"
    yield ""


def _read_by() -> Iterator[str]:
    yield "Which strategy reads which fields, besides `tier`, `strategy`, `temperature` and `think`:\n"
    yield "| strategy | fields |"
    yield "|---|---|"
    for strategy in STRATEGIES:
        own = sorted(READS[strategy] - READS["direct"])
        yield f"| `{strategy}` | {', '.join(f'`{field}`' for field in own) or 'none'} |"
    yield ""


def _type(value: Mapping[str, Any]) -> str:
    """In words; a mapping's fields are in a section of their own."""
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "anyOf" in value:
        return " or ".join(_type(each) for each in value["anyOf"])
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{_SECTIONS.get(name, name)}](#{_anchor(_SECTIONS.get(name, name))})"
    kind = value.get("type", "any")
    if kind == "array":
        return f"list of {_type(value['items'])}"
    if kind == "object":
        inner = [*value.get("patternProperties", {}).values(), value.get("additionalProperties")]
        return "mapping to " + _type(next(each for each in inner if each))
    return _KINDS.get(kind, "text")


def _bounds(value: Mapping[str, Any]) -> str:
    """Of the value, or of the alternative that has any."""
    said = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    words = [f"{word} {_number(value[key])}" for key, word in said.items() if key in value]
    if "pattern" in value:
        words.append(f"`{value['pattern']}`".replace("|", "\\|"))
    for each in value.get("anyOf", ()):
        words += [inner] if (inner := _bounds(each)) else []
    return ", ".join(words)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.12g}"


def _default(name: str, field: str, value: Mapping[str, Any]) -> str:
    if name == "EffortRule" or (name, field) == ("PolicyDocument", "efforts"):
        return "built in"
    default = value.get("default", {})
    if isinstance(default, dict):
        return "its fields' own" if default else "none"
    return f"`{json.dumps(default)}`".replace('"', "")


def _anchor(heading: str) -> str:
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


if __name__ == "__main__":
    FILE.write_text(policy_schema_text(), encoding="utf-8")
    PAGE.write_text(reference_page(), encoding="utf-8")
