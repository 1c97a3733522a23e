"""The policy document: what operators may write, checked as a whole before any of it is used.

A tenant is `defaults` overridden field by field (mappings are merged, lists replaced). Numbers are strict:
no booleans, no strings, no NaN. `Policy` is the checked document with its version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, PrivateAttr, field_validator, model_validator

from policies.amounts import MAX_TOKENS as MAX_TOKENS
from policies.amounts import Unit
from policies.arm_spec import (
    MAX_SAMPLES,
    TIERS,
    ArmSpec,
    FieldProblem,
    PolicyModel,
    Samples,
    Tier,
)
from policies.budget_spec import WINDOWS as WINDOWS
from policies.budget_spec import Budgets, Organisation, Tokens, Window, laid_over
from policies.limit_spec import Exploration, Limits, Pacing, Share, TierShare

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

EFFORTS: tuple[Effort, ...] = get_args(Effort)

Tiers = Annotated[tuple[Tier, ...], Field(min_length=1, strict=False)]  # YAML has lists, not tuples
KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
TenantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
ArmName = Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9_.-]{1,40}$")]


class EffortRule(PolicyModel):
    """What a `reasoning_effort` allows. `cost_weight` multiplies the tenant's: above 1 it spends less."""

    max_samples: Samples
    tiers: Tiers
    cost_weight: Annotated[float, Field(gt=0.0)]


DEFAULT_EFFORTS: Mapping[str, Mapping[str, Any]] = {
    "none": {"max_samples": 1, "tiers": ["direct"], "cost_weight": 4.0},
    "minimal": {"max_samples": 1, "tiers": ["direct"], "cost_weight": 3.0},
    "low": {"max_samples": 4, "tiers": ["direct", "consistency"], "cost_weight": 2.0},
    "medium": {"max_samples": 8, "tiers": list(TIERS), "cost_weight": 1.0},
    "high": {"max_samples": 16, "tiers": list(TIERS), "cost_weight": 0.5},
    "xhigh": {"max_samples": 32, "tiers": list(TIERS), "cost_weight": 0.25},
    "max": {"max_samples": 40, "tiers": list(TIERS), "cost_weight": 0.1},
}


class KeyEntry(PolicyModel):
    """A key by its public id and the sha256 of the key, never the key; it may have bounds of its own."""

    id: KeyId
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    budgets: Budgets | None = None
    limits: Limits | None = None


class TokensCap(PolicyModel):
    """What holds where the caller says nothing, and the most a caller may ask for."""

    default: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    cap: Annotated[int, Field(ge=1, le=1_000_000)] = 4096


class SecondsCap(PolicyModel):
    default: Annotated[float, Field(gt=0.0, le=3600.0)] = 60.0
    cap: Annotated[float, Field(gt=0.0, le=3600.0)] = 300.0

    def of(self, asked_s: float | None) -> float:
        """What a request has in all; one that asks for more than the cap is refused by its plan."""
        return min(asked_s or self.default, self.cap)


class SemanticRule(PolicyModel):
    """Answers to like questions, from a cosine of `threshold` on; of the newest `max_entries` questions.

    `ttl_s` None: as long as answers are kept.
    """

    enabled: bool = False
    threshold: Annotated[float, Field(ge=0.8, le=1.0)] = 0.95
    max_entries: Annotated[int, Field(ge=1, le=10_000)] = 1000
    ttl_s: Annotated[int, Field(ge=1, le=31 * 86400)] | None = None


class CacheRule(PolicyModel):
    """`deterministic` answers only temperature-0 requests from the cache, `all` every one, `off` none."""

    mode: Literal["deterministic", "all", "off"] = "deterministic"
    ttl_s: Annotated[int, Field(ge=1, le=31 * 86400)] = 3600
    hit_charge_tokens: Tokens = 0
    semantic: SemanticRule = SemanticRule()


class EscalateBelow(PolicyModel):
    """The confidence under which a tier's answer is not good enough while the plan has a next step."""

    direct: Share = 0.9
    consistency: Share = 0.8
    search: Share = 0.0

    def of(self, tier: str) -> float:
        return float(getattr(self, tier))


class TenantSettings(PolicyModel):
    """Everything a tenant may have; `defaults` of a policy is one of these."""

    keys: Annotated[tuple[KeyEntry, ...], Field(strict=False)] = ()
    tiers: Tiers = TIERS
    max_effort: Effort = "max"
    default_effort: Effort = "medium"
    quality_target: Share = 0.8
    cost_weight: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.02
    max_completion_tokens: TokensCap = TokensCap()
    max_total_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = 200_000
    max_samples: Samples = MAX_SAMPLES
    deadline_s: SecondsCap = SecondsCap()
    budgets: Budgets = Budgets()
    limits: Limits = Limits()
    tier_share: TierShare = TierShare()
    pacing: Pacing | None = None
    on_low_budget: Literal["degrade", "deny"] = "degrade"
    allow_degrade: bool = True
    on_store_error: Literal["deny", "degrade", "allow"] = "deny"
    cache: CacheRule = CacheRule()
    escalate_below: EscalateBelow = EscalateBelow()
    exploration: Exploration = Exploration()
    log_prompts: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("max_completion_tokens", "deadline_s"):
            both: TokensCap | SecondsCap = getattr(self, name)
            if both.default > both.cap:
                raise FieldProblem((name, "default"), f"{both.default:g} is above the cap of {both.cap:g}")
        if EFFORTS.index(self.default_effort) > EFFORTS.index(self.max_effort):
            raise FieldProblem(("default_effort",), f"it is above max_effort, {self.max_effort}")
        if len({key.id for key in self.keys}) != len(self.keys):
            raise FieldProblem(("keys",), "two keys have the same id; ids must differ")
        return self


class TenantPolicy(TenantSettings):
    """A tenant resolved: its own fields over the policy's defaults, and the organisation it belongs to."""

    name: TenantName
    organisation: TenantName | None = None
    _shared: Budgets | None = PrivateAttr(default=None)  # the organisation's, known once the whole is read

    @property
    def account(self) -> str:
        """Whose numbers the ledger keeps together: the organisation's, or those of the tenant alone."""
        return self.name if self.organisation is None else f"org.{self.organisation}"

    def scopes(self, key_id: str | None = None) -> list[tuple[str, dict[str, dict[Unit, int]]]]:
        """What the ledger counts for a request: organisation, tenant and, where it has budgets, the key."""
        scopes: list[tuple[str, dict[str, dict[Unit, int]]]] = []
        within = ""
        if self._shared is not None:
            scopes.append(("organisation", self._shared.limits()))
            within = f":{self.name}"
        scopes.append((f"tenant{within}", self.budgets.limits()))
        own = next((k.budgets for k in self.keys if k.id == key_id and k.budgets is not None), None)
        if own is not None:
            scopes.append((f"key{within}:{key_id}", own.limits()))
        return scopes

    def limit_scopes(self, key_id: str | None = None) -> list[tuple[str, Limits]]:
        """Whose rate limits a request counts against: the tenant's and the key's."""
        own = next((k.limits for k in self.keys if k.id == key_id and k.limits is not None), None)
        return [("tenant", self.limits), *([(f"key:{key_id}", own)] if own is not None else [])]

    def join(self, organisation: Organisation) -> None:
        """Spend from its budgets too. The policy document calls this when it has been read."""
        self._shared = organisation.budgets

    def smallest_budget(self) -> tuple[Window, int] | None:
        """The window with the least tokens: what exceeds it can never be paid for."""
        known = [
            (window, limit)
            for budgets in (self.budgets, self._shared)
            for window in WINDOWS
            if budgets is not None and (limit := budgets.tokens(window)) is not None
        ]
        return min(known, key=lambda item: item[1], default=None)


class PolicyDocument(PolicyModel):
    """A whole policy file. `arms` are named `tier/variant`; `efforts` and `defaults` may be left out."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    arms: Annotated[dict[ArmName, ArmSpec], Field(min_length=1)]
    efforts: dict[Effort, EffortRule]
    defaults: TenantSettings = TenantSettings()
    organisations: dict[TenantName, Organisation] = Field(default_factory=dict)
    tenants: Annotated[dict[TenantName, TenantPolicy], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        """Lay tenants over defaults and efforts over the built-in ones; types are checked afterwards."""
        if not isinstance(data, Mapping):
            return data
        resolved = {**data, "efforts": _merged(DEFAULT_EFFORTS, data.get("efforts", {}))}
        defaults, tenants = data.get("defaults", {}), data.get("tenants")
        if isinstance(tenants, Mapping):
            resolved["tenants"] = {name: _tenant(name, defaults, own) for name, own in tenants.items()}
        return resolved

    @field_validator("defaults")
    @classmethod
    def _no_shared_keys(cls, defaults: TenantSettings) -> TenantSettings:
        if defaults.keys:
            raise FieldProblem(("keys",), "keys belong to one tenant; move them there")
        return defaults

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        for name, arm in self.arms.items():
            if name.split("/")[0] != arm.tier:
                raise FieldProblem(("arms", name, "tier"), f"the arm's name does not begin with {arm.tier}/")
        served = {arm.tier for arm in self.arms.values()}
        owners: dict[str, str] = {}
        for tenant in self.tenants.values():
            if not served.intersection(tenant.tiers):
                raise FieldProblem(("tenants", tenant.name, "tiers"), "no arm lies on any of these tiers")
            for key in tenant.keys:
                if key.sha256 in owners:
                    problem = f"key {key.id} has the same sha256 as a key of {owners[key.sha256]}"
                    raise FieldProblem(("tenants", tenant.name, "keys"), problem)
                owners[key.sha256] = tenant.name
            if tenant.organisation is not None:
                organisation = self.organisations.get(tenant.organisation)
                if organisation is None:
                    path = ("tenants", tenant.name, "organisation")
                    raise FieldProblem(path, "there is no such organisation; write it under organisations")
                tenant.join(organisation)
        for lower, higher in pairwise(EFFORTS):
            low, high = self.efforts[lower], self.efforts[higher]
            if high.max_samples < low.max_samples or high.cost_weight > low.cost_weight:
                raise FieldProblem(("efforts", higher), f"it allows less than {lower}; efforts must grow")
        return self


def _merged(base: Any, own: Any) -> Any:
    """`own` over `base`: mappings key by key, anything else replaced."""
    if not (isinstance(base, Mapping) and isinstance(own, Mapping)):
        return own
    return {**base, **{key: _merged(base.get(key), value) for key, value in own.items()}}


def _tenant(name: Any, defaults: Any, own: Any) -> Any:
    own = {} if own is None else own
    if not isinstance(own, Mapping) or not isinstance(defaults, Mapping):
        return own
    if "name" in own:
        raise FieldProblem(("tenants", str(name), "name"), "unknown field; a tenant's name is its key")
    base, over = laid_over(defaults.get("budgets"), own.get("budgets"))
    if base is not None and over is not None:
        defaults, own = {**defaults, "budgets": base}, {**own, "budgets": over}
    return {**_merged(defaults, own), "name": name}


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy. `version` is 12 hex digits of the sha256 of the resolved document."""

    document: PolicyDocument
    version: str
    source: str = ""

    @classmethod
    def of(cls, document: PolicyDocument, source: str = "") -> Policy:
        text = json.dumps(document.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return cls(document, hashlib.sha256(text.encode()).hexdigest()[:12], source)

    def without(self, arms: Collection[str]) -> Policy:
        """The policy, of the same version, where those arms do not exist: nothing can run them."""
        kept = {name: spec for name, spec in self.arms.items() if name not in arms}
        return replace(self, document=self.document.model_copy(update={"arms": kept}))

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def arms(self) -> Mapping[str, ArmSpec]:
        return self.document.arms

    @property
    def efforts(self) -> Mapping[Effort, EffortRule]:
        return self.document.efforts

    @property
    def tenants(self) -> Mapping[str, TenantPolicy]:
        return self.document.tenants
