"""The JSON schema and the reference page: whole, up to date, and true to what the loader takes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from benchmarks.chaos.broken_policies import broken_policies
from policies.errors import PolicyFileError
from policies.field_docs import FIELD_DOCS
from policies.json_schema import FILE, policy_schema, policy_schema_text
from policies.loader import _read, parse_policy
from policies.reference import PAGE, REGENERATE, reference_page
from policies.schema import PolicyDocument, TenantPolicy, TenantSettings
from router.cli.main import app

POLICIES = Path(__file__).parents[2] / "policies"
SHIPPED = [POLICIES / "default.yaml", *sorted((POLICIES / "examples").glob("*.yaml"))]
SCHEMA = policy_schema()
CHECKER = jsonschema.Draft202012Validator(SCHEMA)


def models(root: type[BaseModel] = PolicyDocument) -> dict[str, type[BaseModel]]:
    """Every model of a policy, by its name."""
    found: dict[str, type[BaseModel]] = {}

    def look(annotation: Any) -> None:
        known = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if known is not None and known.__name__ not in found:
            found[known.__name__] = known
            for field in known.model_fields.values():
                look(field.annotation)
        for inner in getattr(annotation, "__args__", ()):
            look(inner)

    look(root)
    return found


def plain(text: str) -> Any:
    return _read(text, "policy.yaml")[0]


def test_every_field_has_a_line_and_every_line_a_field() -> None:
    for name, model in models().items():
        fields = set(model.model_fields) | {""}
        if model is TenantPolicy:
            fields -= set(TenantSettings.model_fields) | {"name"}
        assert set(FIELD_DOCS.get(name, {})) == fields, f"policies/field_docs.py, {name}: then {REGENERATE}"
    assert set(FIELD_DOCS) == set(models())


def test_what_is_shipped_is_up_to_date() -> None:
    for file, text in ((FILE, policy_schema_text()), (PAGE, reference_page())):
        assert file.read_text() == text, f"{file.name} is stale; regenerate it: {REGENERATE}"


def test_the_command_prints_the_schema() -> None:
    result = CliRunner().invoke(app, ["policy", "schema"])
    assert (result.exit_code, result.stdout) == (0, FILE.read_text())


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_policies_fit_it(file: Path) -> None:
    assert list(CHECKER.iter_errors(plain(file.read_text()))) == []


def test_what_may_be_left_out_may() -> None:
    document = {
        "version": 1,
        "name": "x",
        "arms": {"direct/direct": {"tier": "direct", "strategy": "direct"}},
        "efforts": {"low": {"cost_weight": 2.5}},
        "organisations": {"o": {"budgets": {"day": 5}}},
        "tenants": {"a": None, "b": {"organisation": "o", "budgets": {"day": {"usd": 1.5}}}},
    }
    assert list(CHECKER.iter_errors(document)) == []
    PolicyDocument.model_validate(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tenants", "demo", "name"), "x"),
        (("tenants", "Demo"), {}),
        (("tenants", "demo", "quality_target"), 2),
        (("tenants", "demo", "budgets"), {"day": -1}),
        (("tenants", "demo", "keys"), [{"id": "a"}]),
        (("defaults", "keys"), []),
        (("defaults", "organisation"), "o"),
        (("arms", "direct"), {"tier": "direct", "strategy": "direct"}),
        (("efforts", "huge"), {}),
        (("more",), 1),
        (("version",), 2),
    ],
)
def test_what_the_loader_refuses_of_shape_the_schema_refuses(path: tuple[str, ...], value: Any) -> None:
    document = copy.deepcopy(plain(SHIPPED[0].read_text()))
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    assert list(CHECKER.iter_errors(document))


def test_what_the_loader_takes_the_schema_takes() -> None:
    """Never the other way: an editor must not underline what the service would take."""
    for _, data in broken_policies(SHIPPED[0].read_text(), 60, seed=7):
        text = data.decode("utf-8", "ignore")
        try:
            parse_policy(text, "x")
        except PolicyFileError:
            continue
        assert list(CHECKER.iter_errors(plain(text))) == []
