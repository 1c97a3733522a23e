"""Every rule of the ledger against a plain model without its code: in memory and on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from policies.amounts import UNITS, Amount, Unit
from policies.errors import BudgetDenied, LeaseNotOpen
from policies.ledger import Ledger, Scopes
from policies.store import connect
from tests.clocked import World, memory_world, redis_world

SHARED: Scopes = [("organisation", {"minute": {"tokens": 900}, "month": {"tokens": 5000, "micro_usd": 900}})]
ONE: Scopes = [*SHARED, ("tenant:a", {"minute": {"gpu_ms": 300}, "day": {"tokens": 1000}, "month": {}})]
OTHER: Scopes = [*SHARED, ("tenant:b", {"day": {"tokens": 700, "gpu_ms": 400}})]
KEYED: Scopes = [*ONE, ("key:a:k", {"minute": {}, "day": {"tokens": 600, "micro_usd": 500}})]
EVERY: Scopes = [*KEYED, OTHER[1]]

# Seconds before an edge: of a minute, of a day, of a month of 29 days, of a year.
MOMENTS = [
    datetime(2032, 1, 1, tzinfo=UTC),
    datetime(2032, 1, 14, 23, 59, 58, tzinfo=UTC),
    datetime(2032, 2, 29, 23, 59, 30, tzinfo=UTC),
    datetime(2033, 2, 28, 23, 59, 59, tzinfo=UTC),
    datetime(2032, 12, 31, 23, 59, 1, tzinfo=UTC),
]
AMOUNTS = st.builds(Amount, st.integers(0, 300), st.integers(0, 100), st.integers(0, 150))
TTLS_S = st.sampled_from([200_000.0, 40.0, 1.0])
Numbers = tuple[int, int, int]


def triple(amount: Amount) -> Numbers:
    return (amount.tokens, amount.gpu_ms, amount.micro_usd)


@dataclass
class ModelLease:
    state: str
    reserved: Numbers = (0, 0, 0)
    told: Numbers = (0, 0, 0)
    charged: Numbers = (0, 0, 0)
    ends: datetime = datetime.min
    windows: list[tuple[tuple[str, str, str], dict[Unit, int]]] = field(default_factory=list)
    parts: set[str] = field(default_factory=set)


class Model:
    """The rules as sentences: `used` and `held` of every window, and what becomes of a lease."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.used: dict[tuple[str, str, str], Numbers] = {}
        self.leases: dict[str, ModelLease] = {}

    @staticmethod
    def name_of(window: str, at: datetime) -> str:
        """A window by what its calendar calls it."""
        return at.strftime({"minute": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}[window])

    def held_in(self, key: tuple[str, str, str]) -> Numbers:
        open_leases = [lease for lease in self.leases.values() if lease.state == "open"]
        held = [lease.reserved for lease in open_leases if key in [own for own, _ in lease.windows]]
        return (sum(h[0] for h in held), sum(h[1] for h in held), sum(h[2] for h in held))

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def expire(self) -> None:
        for lease in self.leases.values():
            if lease.state == "open" and lease.ends <= self.now:
                self.end(lease, "expired", lease.told)

    def end(self, lease: ModelLease, state: str, charge: Numbers) -> None:
        self.charge(lease, charge)
        lease.state = state

    def charge(self, lease: ModelLease, whole: Numbers) -> None:
        for key, _ in lease.windows:
            used = self.used.get(key, (0, 0, 0))
            more = tuple(max(0, u + w - c) for u, w, c in zip(used, whole, lease.charged, strict=True))
            self.used[key] = (more[0], more[1], more[2])
        lease.charged = whole

    def fits(self, lease: ModelLease, more: Numbers) -> bool:
        for key, limits in lease.windows:
            used, held = self.used.get(key, (0, 0, 0)), self.held_in(key)
            for index, unit in enumerate(UNITS):
                asked = more[index]
                if unit in limits and asked and used[index] + held[index] + asked > limits[unit]:
                    return False
        return True

    def reserve(self, lease_id: str, scopes: Scopes, amount: Amount, ttl_s: float) -> str:
        self.expire()
        if (known := self.leases.get(lease_id)) is not None:
            return "ok" if known.state == "open" else known.state
        windows = [
            ((scope, window, self.name_of(window, self.now)), dict(limits))
            for scope, each in scopes
            for window, limits in each.items()
        ]
        ends = self.now + timedelta(seconds=ttl_s)
        lease = ModelLease("open", triple(amount), ends=ends, windows=windows)
        if not self.fits(lease, triple(amount)):
            return "denied"
        self.leases[lease_id] = lease
        return "ok"

    def extend(self, lease_id: str, extra: Amount, part: str) -> str:
        self.expire()
        lease = self.leases.get(lease_id)
        if lease is None or lease.state != "open":
            return lease.state if lease else "unknown"
        if part and part in lease.parts:
            return "ok"
        more = triple(extra)
        if not self.fits(lease, more):
            return "denied"
        lease.reserved = _sum(lease.reserved, more)
        lease.parts.add(part)
        return "ok"

    def checkpoint(self, lease_id: str, used: Amount, ttl_s: float) -> Numbers | None:
        self.expire()
        lease = self.leases.get(lease_id)
        if lease is None:
            return None
        if lease.state == "open":
            lease.told = _larger(lease.told, triple(used))
            lease.ends = self.now + timedelta(seconds=ttl_s)
            return lease.told
        if lease.state == "expired":
            self.charge(lease, _larger(lease.charged, triple(used)))
        return None

    def settle(self, lease_id: str, used: Amount, exact: bool) -> str:
        self.expire()
        lease = self.leases.get(lease_id)
        if lease is None or lease.state == "released":
            return lease.state if lease else "unknown"
        whole = triple(used)
        if not exact:
            whole = _larger(whole, _larger(lease.told, lease.charged))
        if lease.state in ("open", "expired"):
            self.end(lease, "settled", whole)
        return "ok"

    def release(self, lease_id: str) -> str:
        self.expire()
        lease = self.leases.setdefault(lease_id, ModelLease("released"))
        if lease.state == "open" and any(lease.told):
            return "spent"
        if lease.state == "open":
            lease.state = "released"
        elif any(lease.charged):
            return "spent" if lease.state == "expired" else lease.state
        elif lease.state == "expired":
            lease.state = "released"
        return "ok"


def _sum(one: Numbers, other: Numbers) -> Numbers:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2])


def _larger(one: Numbers, other: Numbers) -> Numbers:
    return (max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2]))


class LedgerMachine(RuleBasedStateMachine):
    """The same commands to the ledger and to the model; every outcome and every number must agree."""

    async def make_world(self) -> World:
        return memory_world()

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = self.do(self.make_world())
        self.begun = 0
        self.model = Model(datetime.fromtimestamp(self.world.now_ms / 1000, UTC))

    def do(self, work: Awaitable[object]) -> object:
        return self.loop.run_until_complete(work)  # type: ignore[arg-type]

    def teardown(self) -> None:
        if self.world.client is not None:
            self.do(self.world.client.aclose())
        self.loop.close()

    @initialize(moment=st.sampled_from(MOMENTS))
    def begin(self, moment: datetime) -> None:
        self.model.now = moment
        self.do(self.world.at(round(moment.timestamp() * 1000)))

    def outcome(self, call: Callable[[Ledger], Awaitable[object]]) -> str:
        try:
            self.do(call(self.world.ledger))
        except BudgetDenied:
            return "denied"
        except LeaseNotOpen as closed:
            return closed.state
        return "ok"

    leases = Bundle("leases")

    @rule(target=leases, scopes=st.sampled_from([ONE, OTHER, KEYED]), amount=AMOUNTS, ttl_s=TTLS_S)
    def begin_one(self, scopes: Scopes, amount: Amount, ttl_s: float) -> str:
        self.begun += 1
        self.reserve(str(self.begun), scopes, amount, ttl_s, 1)
        return str(self.begun)

    @rule(target=leases)
    def cancel_before_it_begins(self) -> str:
        self.begun += 1
        self.cancel(str(self.begun))
        return str(self.begun)

    @rule(target=leases)
    def never_heard_of(self) -> str:
        self.begun += 1
        return str(self.begun)

    @rule(
        lease=leases,
        scopes=st.sampled_from([ONE, OTHER, KEYED]),
        amount=AMOUNTS,
        ttl_s=TTLS_S,
        times=st.sampled_from([1, 1, 2]),
    )
    def reserve(self, lease: str, scopes: Scopes, amount: Amount, ttl_s: float, times: int) -> None:
        for _ in range(times):
            wanted = self.model.reserve(lease, scopes, amount, ttl_s)
            found = self.outcome(
                lambda ledger: ledger.reserve(
                    self.world.lease(lease), self.world.tenant, scopes, amount, ttl_s
                )
            )
            assert found == wanted

    @rule(lease=leases, extra=AMOUNTS, part=st.sampled_from(["", "2", "3"]))
    def extend(self, lease: str, extra: Amount, part: str) -> None:
        wanted = self.model.extend(lease, extra, part)
        assert wanted == self.outcome(lambda led: led.extend(self.world.lease(lease), extra, part=part))

    @rule(lease=leases, used=AMOUNTS, ttl_s=TTLS_S)
    def checkpoint(self, lease: str, used: Amount, ttl_s: float) -> None:
        wanted = self.model.checkpoint(lease, used, ttl_s)
        found = self.do(self.world.ledger.checkpoint(self.world.lease(lease), used, ttl_s))
        assert wanted == (None if found is None else triple(found))  # type: ignore[arg-type]

    @rule(lease=leases, used=AMOUNTS, exact=st.booleans(), times=st.sampled_from([1, 1, 2, 3]))
    def settle(self, lease: str, used: Amount, exact: bool, times: int) -> None:
        for _ in range(times):
            wanted = self.model.settle(lease, used, exact)
            assert wanted == self.outcome(lambda led: led.settle(self.world.lease(lease), used, exact=exact))

    @rule(lease=leases)
    def cancel(self, lease: str) -> None:
        """A caller that left before anything was spent, or whose reserve nobody knows the end of."""
        wanted = self.model.release(lease)
        assert wanted == self.outcome(lambda led: led.release(self.world.lease(lease)))

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 31.0, 40.0, 61.0, 3600.0, 86_400.0, 31 * 86_400.0]))
    def wait(self, seconds: float) -> None:
        self.model.wait(seconds)
        self.do(self.world.later(seconds))

    @invariant()
    def the_numbers_agree(self) -> None:
        found = self.do(self.world.ledger.peek(self.world.tenant, EVERY))
        self.model.expire()
        for gauge in found:  # type: ignore[attr-defined]
            key = (gauge.scope, gauge.window, Model.name_of(gauge.window, self.model.now))
            index = UNITS.index(gauge.unit)
            wanted = (self.model.used.get(key, (0, 0, 0))[index], self.model.held_in(key)[index])
            assert (gauge.used, gauge.held) == wanted, key
            assert min(gauge.used, gauge.held) >= 0


QUICK = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_the_ledger_in_memory_keeps_every_rule() -> None:
    run_state_machine_as_test(LedgerMachine, settings=QUICK)


def test_the_ledger_on_a_server_keeps_every_rule(valkey_url: str) -> None:
    class Machine(LedgerMachine):
        async def make_world(self) -> World:
            return await redis_world(connect(valkey_url, command_timeout_s=30.0))

    run_state_machine_as_test(Machine, settings=QUICK)


def test_the_machine_notices_a_ledger_that_forgives() -> None:
    """Without it nobody would know that it can fail."""

    class Forgiving(LedgerMachine):
        async def make_world(self) -> World:
            world = memory_world()
            ledger = world.ledger

            async def settle(lease_id: str, used: Amount, *, exact: bool = False) -> int | None:
                return await type(ledger).settle(ledger, lease_id, used, exact=True)

            ledger.settle = settle  # type: ignore[method-assign]
            return world

    machine = Forgiving()
    machine.reserve("1", ONE, Amount(10), 40.0, 1)
    machine.checkpoint("1", Amount(9), 40.0)
    machine.settle("1", Amount(3), False, 1)
    with pytest.raises(AssertionError):
        machine.the_numbers_agree()
