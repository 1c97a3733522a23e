"""The JSON schema of a policy file, as operators write it: for editors, and for tools that make policies.

Draft 2020-12. It knows fields, types and bounds; what fields are to one another `acr policy check` knows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from policies.field_docs import FIELD_DOCS
from policies.schema import PolicyDocument

FILE = Path(__file__).with_name("policy.schema.json")


def policy_schema() -> dict[str, Any]:
    """The schema, with a description of every field."""
    schema = PolicyDocument.model_json_schema(mode="validation")
    models = schema["$defs"]
    for name, model in {"PolicyDocument": schema, **models}.items():
        _describe(name, model)
    # A tenant's name is its key; one that says nothing may be left empty.
    tenant = models["TenantPolicy"]
    del tenant["properties"]["name"], tenant["required"]
    tenants = schema["properties"]["tenants"]["patternProperties"]
    for pattern, model in tenants.items():
        tenants[pattern] = {"anyOf": [model, {"type": "null"}]}
    # Efforts are laid over the built-in ones, and keys belong to tenants.
    schema["required"].remove("efforts")
    del models["EffortRule"]["required"], models["TenantSettings"]["properties"]["keys"]
    for named in ("arms", "organisations", "tenants"):
        schema["properties"][named]["additionalProperties"] = False
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Policy of the adaptive compute router",
    }
    return {**head, **{key: value for key, value in schema.items() if key not in head}}


def policy_schema_text() -> str:
    """As it is shipped in `policy.schema.json`."""
    return json.dumps(policy_schema(), indent=2) + "\n"


def _describe(name: str, model: dict[str, Any]) -> None:
    said = (
        {**FIELD_DOCS.get("TenantSettings", {}), **FIELD_DOCS[name]}
        if name == "TenantPolicy"
        else FIELD_DOCS[name]
    )
    model["description"] = said[""]
    for field, value in model["properties"].items():
        value.pop("title", None)
        if field in said:
            value["description"] = said[field]
