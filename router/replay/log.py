"""A log of decisions gone through twice: once to learn what its arms do, once to plan each decision anew."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from policies.errors import PlanRefused
from policies.plan import Ask, Plan
from policies.schema import EFFORTS, Policy, TenantPolicy
from router.decisions.digests import spec_digest
from router.decisions.record import Decision
from router.replay.budgets import LogBudgets
from router.replay.errors import NothingToReplay
from router.replay.measuring import Measuring, Said, logged
from router.replay.model import LogModel
from router.replay.paths import SAME, Path, follow
from router.replay.replanning import Replanning
from router.replay.rows import MEASURES, REWARD, Counts, Measured, Rows, Support

Source = Callable[[], Iterable[Decision]]

LAST_MS = 4_102_444_800_000  # the year 2100
LEAST_PROPENSITY = 1e-6  # less than any exploration draws: as good as never
LEAST_DEADLINE_S = 1e-3
_FROM_TIERS = (None, "miss", "bypass")


@dataclass(frozen=True, slots=True)
class LogReplay:
    """A log under a policy that was never live: rows for the estimators, and what is known without them.

    `unknown_arms` are those that the policy could use, and the log neither ran nor predicted.
    """

    rows: Rows
    counts: Counts
    support: tuple[Support, ...]
    unknown_arms: tuple[str, ...]
    model: LogModel


def replay_log(
    source: Source,
    policy: Policy,
    *,
    tenant: str | None = None,
    done: Callable[[], None] = lambda: None,
) -> LogReplay:
    """Plan every decision of `source` (which is read twice) under `policy`, on its own clock and budgets.

    `tenant` keeps this one's decisions alone. `done` is called for every decision read, twice. Raises
    NothingToReplay, and what reading raises.
    """
    if tenant is not None and tenant not in policy.tenants:
        known = ", ".join(policy.tenants)
        raise NothingToReplay(f"the policy has no tenant {tenant!r}; it has {known}")
    model = LogModel()
    read = 0
    for decision in source():
        read += 1
        mine = decision.tenant in policy.tenants and tenant in (None, decision.tenant)
        if mine and decision.cache in _FROM_TIERS:
            model.add(decision)
        done()
    if not read:
        raise NothingToReplay("the log holds no decisions; export some with acr decisions export")
    model.fit()
    replayed = _Replay(policy, model)
    for decision in source():
        replayed.counts.read += 1
        if tenant is not None and decision.tenant != tenant:
            replayed.counts.other_tenants += 1
        else:
            replayed.add(decision)
        done()
    return replayed.end()


class _Replay:
    """The second time through the log."""

    def __init__(self, policy: Policy, model: LogModel) -> None:
        self.counts = Counts()
        self._policy = policy
        self._model = model
        self._measuring = Measuring(model)
        self._budgets = LogBudgets()
        self._digests = {arm: spec_digest(spec) for arm, spec in policy.arms.items()}
        self._columns: dict[str, array[float]] = {}
        self._wanted: defaultdict[str, float] = defaultdict(float)
        self._lacking: defaultdict[str, float] = defaultdict(float)
        self._logged: Counter[str] = Counter()
        self._predicted: set[str] = set()
        self._tenants: set[str] = set()
        self._newest_ms = 0

    def add(self, decision: Decision) -> None:
        tenant = self._policy.tenants.get(decision.tenant)
        if tenant is None:
            self.counts.unknown_tenants[decision.tenant] += 1
        elif decision.cache not in _FROM_TIERS:
            self.counts.from_cache += 1
        elif not decision.arms or not _asked(decision):
            self.counts.unplanned += 1
        else:
            self._replan(_drawable(decision), tenant)

    def _replan(self, decision: Decision, tenant: TenantPolicy) -> None:
        if decision.at_ms >= LAST_MS:
            raise NothingToReplay(
                f"decision {decision.decision_id[:60]!r} was made at {decision.at_ms} ms, no time of "
                "this century; at_ms are milliseconds since 1970"
            )
        self.counts.policies[decision.policy_version] += 1
        self._predicted.update(decision.arms)
        self._tenants.add(decision.tenant)
        self.counts.unordered += decision.at_ms < self._newest_ms
        self._newest_ms = max(self._newest_ms, decision.at_ms)
        if decision.outcome == "refused":
            self.counts.codes[decision.code or "unknown"] += 1
        elif not decision.starts:
            self.counts.without_propensities += 1
        room, retry_s, pace = self._budgets.look(tenant, decision.key_id, decision.at_ms)
        anew = Replanning(decision, Ask(**decision.ask), self._policy, tenant, room, retry_s, pace)
        try:
            own = anew.own()
        except PlanRefused as refused:
            self.counts.refusals[type(refused).__name__] += 1
            self._refused(decision)
            return
        self._planned(decision, tenant, anew, own)

    def _planned(self, decision: Decision, tenant: TenantPolicy, anew: Replanning, own: Plan) -> None:
        starts = own.starts or {own.start.arm: 1.0}
        weight, path = 0.0, SAME
        started = decision.plan[0] if decision.plan else None
        if started is not None and decision.starts:
            self._logged[started] += 1
            drawn = decision.starts.get(started, 0.0)
            plan = anew.begun_at(started, own) if started in starts else None
            if plan is not None:
                path = follow(decision, plan, self._policy)
                if path.how != "other" and drawn:
                    weight = starts[started] / drawn
                self.counts.paths[path.how] += 1
        lacking = 0.0
        for arm, share in starts.items():
            self._wanted[arm] += share
            if decision.starts and (decision.starts.get(arm, 0.0) <= 0.0 or self._another(arm)):
                self._lacking[arm] += share
                lacking += share
        self._put("weights", weight)
        self._put("same", float(path.how == "same"))
        self._put("chosen", float(bool(decision.starts)))
        self._put("drawn", float(len(decision.starts) > 1))
        self._put("refused", 0.0)
        self._put("degraded", float(own.degraded))
        self._put("lacking", lacking)
        squares = (share * share / (decision.starts.get(arm) or 1.0) for arm, share in starts.items())
        self._put("squared", sum(squares))
        self._logged_too(decision)
        spent = self._measures(decision, starts, started, path)
        self._budgets.charge(
            tenant, decision.key_id, spent["charged_tokens"], spent["gpu_seconds"], spent["cost_usd"]
        )

    def _another(self, arm: str) -> bool:
        """Whether the log's arm of this name is known to do something else."""
        seen = self._model.specs.get(arm)
        return bool(seen) and self._digests.get(arm) not in (seen or ())

    def _refused(self, decision: Decision) -> None:
        """Nothing is spent and nothing answered: what a refusal comes to is known."""
        if decision.plan and decision.starts:
            self._logged[decision.plan[0]] += 1
        for name in ("weights", "same", "degraded", "lacking", "squared"):
            self._put(name, 0.0)
        self._put("chosen", float(bool(decision.starts)))
        self._put("drawn", float(len(decision.starts) > 1))
        self._put("refused", 1.0)
        self._logged_too(decision)
        for name in MEASURES:
            came = logged(decision, name)
            self._measure(name, came, came, Said())

    def _logged_too(self, decision: Decision) -> None:
        self._put("was_refused", float(decision.outcome == "refused"))
        self._put("was_degraded", float(decision.degraded))

    def _measures(
        self, decision: Decision, starts: Mapping[str, float], started: str | None, path: Path
    ) -> Mapping[str, float]:
        """Put every measure down; what the policy is expected to come to, by measure."""
        expected: dict[str, float] = {}
        for name in MEASURES:
            said = self._measuring.said(name, decision, starts, started)
            came = logged(decision, name)
            mended = came if path.how == "same" else self._measuring.mended(decision, path, name, came)
            self._measure(name, came, mended, said)
            expected[name] = said.other
        return expected

    def _measure(self, name: str, came: float, mended: float, said: Said) -> None:
        self._put(f"{name}.logged", came)
        self._put(f"{name}.mended", mended)
        for part in fields(said):
            self._put(f"{name}.{part.name}", getattr(said, part.name))

    def _put(self, name: str, value: float) -> None:
        self._columns.setdefault(name, array("d")).append(value)

    # -- the end

    def end(self) -> LogReplay:
        """Raises NothingToReplay."""
        if "weights" not in self._columns:
            raise NothingToReplay(self._why_nothing())
        taken = {name: np.frombuffer(values, dtype=np.float64) for name, values in self._columns.items()}

        def flags(name: str) -> NDArray[np.bool_]:
            return taken[name] > 0.0

        rows = Rows(
            weights=taken["weights"],
            same=flags("same"),
            chosen=flags("chosen"),
            drawn=flags("drawn"),
            refused=flags("refused"),
            was_refused=flags("was_refused"),
            degraded=taken["degraded"],
            was_degraded=taken["was_degraded"],
            lacking=taken["lacking"],
            squared=taken["squared"],
            measures={
                name: Measured(**{part.name: taken[f"{name}.{part.name}"] for part in fields(Measured)})
                for name in MEASURES
            },
        )
        self.counts.rewards = int(np.isfinite(rows.measures[REWARD].logged).sum())
        arms = sorted(set(self._wanted) | set(self._logged))
        support = tuple(
            Support(
                arm,
                self._wanted[arm],
                self._lacking[arm],
                self._logged[arm],
                arm in self._digests and self._another(arm),
                arm in self._predicted,
            )
            for arm in arms
        )
        return LogReplay(rows, self.counts, support, self._unknown(), self._model)

    def _unknown(self) -> tuple[str, ...]:
        tiers = {tier for tenant in self._tenants for tier in self._policy.tenants[tenant].tiers}
        mine = (arm for arm, spec in self._policy.arms.items() if spec.tier in tiers)
        return tuple(arm for arm in mine if arm not in self._predicted and arm not in self._model.specs)

    def _why_nothing(self) -> str:
        counts = self.counts
        if counts.unknown_tenants:
            names = ", ".join(sorted(counts.unknown_tenants)[:5])
            return f"the policy has none of the log's tenants ({names}); name them in it"
        if counts.other_tenants == counts.read:
            return "the log has no decisions of this tenant; leave --tenant out, or name another"
        if counts.from_cache:
            return "the log holds answers from the cache alone; nothing in it was planned"
        return (
            "no decision of the log tells what was asked and predicted (ask, arms); "
            "export the log anew with acr decisions export"
        )


def _drawable(decision: Decision) -> Decision:
    """Without starts that no log could show: their weights would be beyond all numbers."""
    if all(share >= LEAST_PROPENSITY for share in decision.starts.values()):
        return decision
    return replace(decision, starts={a: b for a, b in decision.starts.items() if b >= LEAST_PROPENSITY})


def _asked(decision: Decision) -> bool:
    """Whether the log tells what was asked, in words and bounds that a service takes."""
    ask = decision.ask
    timely = ask.get("deadline_s", 1.0) >= LEAST_DEADLINE_S
    return "prompt_tokens" in ask and ask.get("effort") in (None, *EFFORTS) and timely
