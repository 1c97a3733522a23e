from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from backends.strategies import STRATEGIES as RUN
from backends.task import StrategyParams
from backends.verifiers.scorers import SCORERS
from policies import errors
from policies.arm_spec import READS, STRATEGIES, ArmSpec, Scorer
from policies.limits import LimitUsage
from policies.loader import load_policy, parse_policy
from policies.schema import EFFORTS, MAX_TOKENS, Policy, PolicyDocument

POLICIES = Path(__file__).parents[2] / "policies"
SHA = "ab" * 32


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "version": 1,
        "name": "test",
        "arms": {"direct/direct": {"tier": "direct", "strategy": "direct"}},
        "tenants": {"demo": {}},
    }
    return {**base, **changes}


def parse(**changes: Any) -> PolicyDocument:
    return PolicyDocument.model_validate(document(**changes))


def refused(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        parse(**changes)
    return str(caught.value)


def test_a_tenant_is_defaults_overridden_field_by_field() -> None:
    parsed = parse(
        defaults={
            "quality_target": 0.7,
            "budgets": {"minute": 10, "day": 100},
            "tiers": ["direct", "search"],
        },
        tenants={
            "a": {"budgets": {"minute": 20}},
            "b": {"tiers": ["direct"], "budgets": {"day": None}},
            "c": None,
        },
    )
    a, b, c = (parsed.tenants[name] for name in "abc")
    assert (a.budgets.tokens("minute"), a.budgets.tokens("day"), a.quality_target) == (20, 100, 0.7)
    assert (b.budgets.tokens("minute"), b.budgets.tokens("day"), b.tiers) == (10, None, ("direct",))
    assert c.tiers == ("direct", "search")
    assert c.name == "c"


def test_what_nobody_says_has_safe_defaults() -> None:
    tenant = parse().tenants["demo"]
    assert tenant.on_store_error == "deny"
    assert tenant.cache.mode == "deterministic"
    assert tenant.cache.hit_charge_tokens == 0
    assert tenant.escalate_below.direct == 0.9
    assert tenant.budgets.minute is None


def test_efforts_may_be_left_out_or_changed_one_by_one() -> None:
    assert [parse().efforts[effort].max_samples for effort in EFFORTS] == [1, 1, 4, 8, 16, 32, 40]
    changed = parse(efforts={"low": {"max_samples": 2}}).efforts
    assert (changed["low"].max_samples, changed["low"].cost_weight) == (2, 2.0)
    assert "must grow" in refused(efforts={"high": {"max_samples": 3}})
    assert "must grow" in refused(efforts={"high": {"cost_weight": 9.0}})


@pytest.mark.parametrize(
    ("tenant", "said"),
    [
        ({"quality_target": float("nan")}, "finite number"),
        ({"quality_target": float("inf")}, "finite number"),
        ({"quality_target": 1.5}, "less than or equal to 1"),
        ({"quality_target": "0.5"}, "valid number"),
        ({"cost_weight": -0.1}, "greater than or equal to 0"),
        ({"budgets": {"minute": -1}}, "greater than or equal to 0"),
        ({"budgets": {"minute": True}}, "valid integer"),
        ({"budgets": {"minute": 1.0}}, "valid integer"),
        ({"budgets": {"minute": MAX_TOKENS + 1}}, "less than or equal to"),
        ({"budgets": {"minute": 11, "day": 10}}, "11 a minute is more than 10 a day"),
        ({"budgets": {"minute": 11, "month": 10}}, "11 a minute is more than 10 a month"),
        ({"budgets": {"day": 11, "month": 10}}, "11 a day is more than 10 a month"),
        ({"budgets": {"hour": 10}}, "Extra inputs"),
        ({"limits": {"concurrency": 0}}, "greater than or equal to 1"),
        ({"limits": {"requests": 5}}, "Extra inputs"),
        ({"tiers": []}, "at least 1 item"),
        ({"tiers": ["gpu"]}, "Input should be 'direct'"),
        ({"tiers": ["search"]}, "no arm lies on any of these tiers"),
        ({"max_effort": "huge"}, "Input should be 'none'"),
        ({"max_effort": "low", "default_effort": "high"}, "above max_effort"),
        ({"max_completion_tokens": {"default": 10, "cap": 5}}, "10 is above the cap of 5"),
        ({"deadline_s": {"cap": 5}}, "60 is above the cap of 5"),
        ({"max_samples": 41}, "less than or equal to 40"),
        ({"on_low_budget": "ignore"}, "Input should be 'degrade' or 'deny'"),
        ({"on_store_error": "ignore"}, "Input should be 'deny'"),
        ({"cache": {"mode": False}}, "Input should be 'deterministic'"),
        ({"escalate_below": {"gpu": 0.5}}, "Extra inputs"),
        ({"name": "other"}, "a tenant's name is its key"),
        ({"keys": [{"id": "a", "sha256": "AB" * 32}]}, "match pattern"),
        ({"keys": [{"id": "a b", "sha256": SHA}]}, "match pattern"),
        ({"keys": [{"id": "a", "sha256": SHA, "key": "acr-x"}]}, "Extra inputs"),
        ({"keys": [{"id": "a", "sha256": SHA}, {"id": "a", "sha256": "cd" * 32}]}, "ids must differ"),
        ({"keys": [{"id": "a", "sha256": SHA}, {"id": "b", "sha256": SHA}]}, "same sha256"),
    ],
)
def test_a_tenant_is_refused(tenant: dict[str, Any], said: str) -> None:
    assert said in refused(tenants={"demo": tenant})


def test_a_key_belongs_to_one_tenant() -> None:
    key = [{"id": "a", "sha256": SHA}]
    assert "same sha256 as a key of a" in refused(tenants={"a": {"keys": key}, "b": {"keys": key}})
    assert "keys belong to one tenant" in refused(defaults={"keys": key})


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({}, "at least 1 item"),
        ({"gpu/x": {"tier": "gpu", "strategy": "direct"}}, "Input should be 'direct'"),
        ({"direct/x": {"tier": "search", "strategy": "beam"}}, "does not begin with search/"),
        ({"plain": {"tier": "direct", "strategy": "direct"}}, "match pattern"),
        ({"direct/x": {"tier": "direct", "strategy": "magic"}}, "Input should be 'direct'"),
        ({"direct/x": {"tier": "direct", "strategy": "direct", "max_samples": 2}}, "it draws one sample"),
        ({"direct/x": {"tier": "direct", "strategy": "direct", "think": True}}, "write strategy: cot"),
        ({"direct/x": {"tier": "direct", "strategy": "cot", "think": False}}, "write strategy: direct"),
        ({"direct/x": {"tier": "direct", "strategy": "self_consistency", "temperature": 0}}, "are copies"),
        ({"direct/x": {"tier": "direct", "strategy": "direct", "temprature": 0}}, "Extra inputs"),
        ({"direct/x": {"tier": "direct", "strategy": "direct", "think": 1}}, "valid boolean"),
    ],
)
def test_an_arm_is_refused(arms: dict[str, Any], said: str) -> None:
    assert said in refused(arms=arms)


VALID: dict[str, dict[str, Any]] = {
    "max_samples": {"max_samples": 6},
    "confidence": {"confidence": 0.9},
    "width": {"width": 2},
    "max_steps": {"max_steps": 3},
    "step_tokens": {"step_tokens": 16},
    "scorer": {"scorer": "reward", "weighted": True},
    "weighted": {"weighted": True},
    "rounds": {"rounds": 2},
    "subtrees": {"subtrees": 2, "max_samples": 4},
    "balance_temperature": {"balance_temperature": 0.2},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("field", VALID)
def test_a_field_is_taken_where_its_strategy_reads_it_and_refused_elsewhere(
    field: str, strategy: str
) -> None:
    values = {k: v for k, v in VALID[field].items() if k == field or k in READS[strategy]}
    arms = {"search/x": {"tier": "search", "strategy": strategy, **values}}
    if field in READS[strategy]:
        assert getattr(parse(arms=arms).arms["search/x"], field) == values[field]
        return
    said = refused(arms=arms)
    assert f"{strategy} does not read it" in said
    assert "leave it out" in said


def test_strategies_and_scorers_are_those_that_there_are() -> None:
    assert set(STRATEGIES) == set(RUN)
    assert set(get_args(Scorer)) == set(SCORERS)


def test_every_field_of_the_backends_parameters_can_be_written() -> None:
    fields = set(StrategyParams.__dataclass_fields__)
    assert fields == set(ArmSpec.model_fields) - {"tier", "strategy"}
    assert frozenset.union(*READS.values()) == set(ArmSpec.model_fields)


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"strategy": "beam", "scorer": "magic"}, "Input should be 'logprob'"),
        ({"strategy": "refine", "rounds": 0}, "greater than or equal to 1"),
        ({"strategy": "refine", "rounds": 9}, "less than or equal to 8"),
        ({"strategy": "refine", "scorer": "logprob"}, "use one of arithmetic, check, reward"),
        ({"strategy": "refine", "max_samples": 3}, "set rounds"),
        ({"strategy": "beam", "subtrees": 3, "max_samples": 8}, "3 subtrees do not divide a width of 4"),
        ({"strategy": "beam", "subtrees": 4, "max_samples": 2}, "4 subtrees need as many children"),
        ({"strategy": "rebase", "balance_temperature": 0.0}, "greater than 0"),
        ({"strategy": "rebase", "width": 8}, "rebase does not read it, beam would"),
        ({"strategy": "self_consistency", "weighted": 1}, "valid boolean"),
        ({"strategy": "self_consistency", "scorer": "judge"}, "write weighted: true or leave it out"),
        ({"strategy": "mcts", "temperature": 0}, "are copies"),
    ],
)
def test_a_parameter_is_refused(arm: dict[str, Any], said: str) -> None:
    assert said in refused(arms={"search/x": {"tier": "search", **arm}})


def test_strategies_have_their_own_defaults() -> None:
    arms = {f"search/{name}": {"tier": "search", "strategy": name} for name in STRATEGIES}
    parsed = parse(arms=arms).arms
    assert {arm.strategy for arm in parsed.values() if not arm.think} == {"direct"}
    assert {arm.strategy for arm in parsed.values() if arm.scorer == "check"} == {"refine"}
    assert {arm.strategy: arm.replies for arm in parsed.values()} == dict.fromkeys(STRATEGIES, 1) | {
        "refine": 4
    }
    again = {name: arm.model_dump() for name, arm in parsed.items()}
    assert parse(arms=again).arms == parsed


def test_a_parameter_that_is_refused_is_found_by_its_line() -> None:
    text = "version: 1\nname: x\narms:\n  search/x:\n    tier: search\n    strategy: mcts\n    rounds: 2\n"
    with pytest.raises(errors.PolicyFileError) as caught:
        parse_policy(text + "tenants: {demo: {}}\n", "p.yaml")
    assert str(caught.value).startswith("p.yaml:7: arms.search/x.rounds: mcts does not read it, refine would")


@pytest.mark.parametrize("name", ["Demo", "a b", "{a}", "a:b", "", "-a", "a" * 64])
def test_a_tenant_name_is_safe_in_keys_and_files(name: str) -> None:
    refused(tenants={name: {}})


def test_other_versions_and_no_tenants_are_refused() -> None:
    assert "Input should be 1" in refused(version=2)
    assert "at least 1 item" in refused(tenants={})
    with pytest.raises(ValidationError):
        PolicyDocument.model_validate([])


def test_the_version_is_of_the_meaning_not_of_the_text() -> None:
    spelled = parse(
        defaults={"quality_target": 0.8}, tenants={"demo": {"tiers": ["direct", "consistency", "search"]}}
    )
    assert Policy.of(spelled).version == Policy.of(parse()).version
    assert Policy.of(parse(defaults={"quality_target": 0.81})).version != Policy.of(parse()).version
    assert len(Policy.of(parse()).version) == 12


def test_scopes_are_the_tenant_and_a_key_with_budgets() -> None:
    keys = [{"id": "a", "sha256": SHA, "budgets": {"day": 5}}, {"id": "b", "sha256": "cd" * 32}]
    tenant = parse(tenants={"demo": {"keys": keys, "budgets": {"minute": 7}}}).tenants["demo"]
    own = ("tenant", {"minute": {"tokens": 7}, "day": {}, "month": {}})
    assert tenant.scopes("a") == [own, ("key:a", {"minute": {}, "day": {"tokens": 5}, "month": {}})]
    assert tenant.scopes("b") == tenant.scopes("gone") == tenant.scopes() == [own]


def test_the_smallest_budget_is_what_nothing_may_exceed() -> None:
    assert parse().tenants["demo"].smallest_budget() is None
    tenant = parse(tenants={"demo": {"budgets": {"day": 9, "month": 90}}}).tenants["demo"]
    assert tenant.smallest_budget() == ("day", 9)


def test_the_shipped_policies_are_good() -> None:
    default = load_policy(POLICIES / "default.yaml")
    assert set(default.arms) == {
        "direct/direct",
        "direct/cot",
        "consistency/sc4",
        "consistency/sc16",
        "consistency/bon8",
        "consistency/refine",
        "search/beam",
        "search/rebase",
        "search/mcts",
    }
    assert {arm.strategy for arm in default.arms.values()} == set(STRATEGIES)
    demo, batch = default.tenants["demo"], default.tenants["batch"]
    assert demo.tiers == ("direct", "consistency", "search")
    assert batch.tiers == ("direct", "consistency")
    assert batch.quality_target < demo.quality_target
    assert batch.cost_weight > demo.cost_weight
    strict = load_policy(POLICIES / "examples" / "strict.yaml")
    assert {tenant.on_low_budget for tenant in strict.tenants.values()} == {"deny"}


def test_default_yaml_spells_out_the_built_in_defaults() -> None:
    default = load_policy(POLICIES / "default.yaml").document
    assert default.defaults == parse().defaults
    assert default.efforts == parse().efforts


def test_a_policy_travels_between_processes() -> None:
    policy = load_policy(POLICIES / "default.yaml")
    copy = pickle.loads(pickle.dumps(policy))  # noqa: S301
    assert copy == policy


@pytest.mark.parametrize(
    "error",
    [
        errors.PolicyFileError("f.yaml", 3, "tenants.a", "no\nway"),
        errors.UnknownTier("gpu"),
        errors.TierForbidden("search", ("direct",)),
        errors.CeilingExceeded("max_completion_tokens", 9, 5),
        errors.BudgetExhausted(10, 3, 1.5),
        errors.RequestTooLarge(10, 3, "the day budget"),
        errors.TierShareSpent("search", "day", 0.2, 60.0),
        errors.TierShareSpent("search", "day", 0.0, None),
        errors.NoArm("nothing", unavailable=True),
        errors.BudgetDenied("tenant", "day", 3, 1.5),
        errors.LeaseNotOpen("demo:1", "settled"),
        errors.StoreUnavailable("down"),
        errors.LimitExceeded("requests", 1.5, LimitUsage(limit_requests=5)),
        errors.LimitExceeded("tokens", None),
        errors.LimitExceeded("concurrency", 1.0, LimitUsage(), "key:k1"),
    ],
)
def test_errors_travel_between_processes(error: errors.PolicyError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert "\n" not in str(error)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    for name in (errors.__doc__ or "").split("├──")[1:]:
        assert hasattr(errors, name.split()[0])
    assert issubclass(errors.UnknownTier, errors.PlanRefused)
    assert issubclass(errors.BudgetDenied, errors.LedgerError)
    assert issubclass(errors.StoreUnavailable, errors.LedgerError)
    assert issubclass(errors.LimitExceeded, errors.PolicyError)
