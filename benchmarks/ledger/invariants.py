"""What must hold whatever happens at once: nothing past a limit, all scopes or none, bills add up."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from policies.amounts import UNITS, Amount, Unit
from policies.errors import BudgetDenied, LeaseNotOpen
from policies.ledger import Ledger, Scopes, new_lease_id

TTL_S = 600.0
LARGEST = Amount(400, 900, 50_000)
DUPLICATES = 0.3
CANCELS = 0.05
CANCEL_WITHIN_S = 0.01
WEIGHTS = (5, 1, 3, 1)  # of the four keys: so that some run into their own limit, some into one above

Progress = Callable[[int], None]


@dataclass(slots=True)
class Findings:
    """What a run came to. `broken` are sentences, one for each invariant that did not hold."""

    reserves: int = 0
    granted: int = 0
    denied: int = 0
    cancelled: int = 0
    duplicates: int = 0
    snapshots: int = 0
    overshoot: int = 0
    partial: int = 0
    broken: list[str] = field(default_factory=list)

    def check(self, holds: bool, problem: str) -> None:
        if not holds and problem not in self.broken:
            self.broken.append(problem)


def scopes_of(tenant: str, key: str, reserves: int) -> Scopes:
    """Three scopes whose limits are all reached before the end, by one caller or another."""

    def limits(share: float) -> dict[Unit, int]:
        half = reserves * 0.5 * 0.5 * share  # of the largest amounts, half is held and half of that is spent
        return {unit: int(getattr(LARGEST, unit) * half) for unit in UNITS}

    return [
        ("organisation", {"month": limits(0.5)}),
        (f"tenant:{tenant}", {"minute": {}, "day": limits(0.28)}),
        (f"key:{tenant}:{key}", {"day": limits(0.2)}),
    ]


class Crowd:
    """`concurrency` callers of several replicas, on one account with two tenants of two keys each."""

    def __init__(self, ledgers: Sequence[Ledger], reserves: int, concurrency: int, seed: int = 7) -> None:
        self._ledgers = ledgers
        self._reserves = reserves
        self._concurrency = concurrency
        self._dice = random.Random(seed)
        self._account = "org.bench" + secrets.token_hex(6)
        self._scopes = {
            (tenant, key): scopes_of(tenant, key, reserves) for tenant in "ab" for key in ("k1", "k2")
        }
        self._charged = Amount()
        self._done = 0
        self.found = Findings()

    async def run(self, progress: Progress | None = None) -> Findings:
        """All reserves, with snapshots throughout and at the end."""
        numbers = iter(range(self._reserves))
        watching = asyncio.create_task(self._watch(progress))
        await asyncio.gather(*(self._caller(numbers) for _ in range(self._concurrency)))
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        used, held = await self._look()
        self.found.check(held == Amount(), f"{held} stayed held after the end")
        self.found.check(used == self._charged, f"{used} is used and {self._charged} was charged")
        self.found.check(self.found.denied > 0, "no limit was ever reached: the run proves nothing")
        self.found.reserves = self._done
        return self.found

    async def _caller(self, numbers: Iterator[int]) -> None:
        for _ in numbers:
            task = asyncio.create_task(self._request())
            if self._dice.random() < CANCELS:
                asyncio.get_running_loop().call_later(self._dice.random() * CANCEL_WITHIN_S, task.cancel)
            with suppress(asyncio.CancelledError):
                await task
            self._done += 1

    async def _request(self) -> None:
        dice, ledgers = self._dice, self._ledgers
        lease_id, scopes = new_lease_id(self._account), dice.choices(list(self._scopes.values()), WEIGHTS)[0]
        asked = Amount(*(dice.randrange(1, getattr(LARGEST, unit) + 1) for unit in UNITS))
        used = Amount(*(dice.randrange(getattr(asked, unit) + 1) for unit in UNITS))
        settling = False
        try:
            twice = dice.random() < DUPLICATES
            self.found.duplicates += twice
            tries = [
                dice.choice(ledgers).reserve(lease_id, self._account, scopes, asked, TTL_S)
                for _ in range(1 + twice)
            ]
            results = await asyncio.gather(*tries, return_exceptions=True)
            if any(isinstance(result, BudgetDenied) for result in results):
                self.found.denied += 1
                if not all(isinstance(result, BudgetDenied) for result in results):
                    # A twin came when others had made room: whoever was refused gives it back.
                    await asyncio.shield(dice.choice(ledgers).release(lease_id))
                return
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            self.found.granted += 1
            settling = True
            self._charged += used
            repeats = (dice.choice(ledgers).settle(lease_id, used) for _ in range(1 + twice))
            await asyncio.gather(*repeats)
        except asyncio.CancelledError:
            self.found.cancelled += 1
            ending = asyncio.create_task(self._end(lease_id, used if settling else None))
            await asyncio.shield(ending)
            raise

    async def _end(self, lease_id: str, used: Amount | None) -> None:
        """The caller has left: what it owes is settled, what is unknown is released by its id."""
        ledger = self._dice.choice(self._ledgers)
        if used is not None:
            await ledger.settle(lease_id, used)
        else:
            with suppress(LeaseNotOpen):
                await ledger.release(lease_id)

    async def _watch(self, progress: Progress | None) -> None:
        while True:
            await self._look()
            if progress is not None:
                progress(self._done)
            await asyncio.sleep(0.005)

    async def _look(self) -> tuple[Amount, Amount]:
        """All scopes at one moment; the organisation's used and held."""
        every = list({name: windows for scopes in self._scopes.values() for name, windows in scopes}.items())
        gauges = await self._ledgers[0].peek(self._account, every)
        self.found.snapshots += 1
        sums: dict[tuple[str, str], list[int]] = {}
        for gauge in gauges:
            if gauge.limit is not None:
                over = gauge.used + gauge.held - gauge.limit
                self.found.overshoot = max(self.found.overshoot, over)
                self.found.check(over <= 0, f"{gauge.unit} of {gauge.scope} went {over} past its limit")
            self.found.check(min(gauge.used, gauge.held) >= 0, f"a number of {gauge.scope} is negative")
            if gauge.window != "minute":  # minutes end while the run goes on
                level = gauge.scope.partition(":")[0]
                pair = sums.setdefault((level, gauge.unit), [0, 0])
                pair[0] += gauge.used
                pair[1] += gauge.held
        for unit in UNITS:
            whole = sums["organisation", unit]
            for level in ("tenant", "key"):
                if sums[level, unit] != whole:
                    self.found.partial += 1
                    self.found.check(False, f"{unit}: {level} scopes have {sums[level, unit]}, not {whole}")
        return (
            Amount(*(sums["organisation", unit][0] for unit in UNITS)),
            Amount(*(sums["organisation", unit][1] for unit in UNITS)),
        )
