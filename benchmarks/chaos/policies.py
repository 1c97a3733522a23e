"""A thousand policy reloads under load, 300 of them broken: no request fails, no bad version decides.

The service is whole and in this process (fake engine); the store is a real server. Broken ones are published
past the publisher's check, as another release might: sealed documents that are broken, documents that are not
there or not sealed, states of a stranger, junk. `python -m benchmarks.chaos.policies [RELOADS]`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.chaos.broken_policies import broken_policies
from benchmarks.chaos.servers import binaries, servers
from policies.keys import hash_key
from policies.ledger import RedisLedger
from policies.loader import parse_policy
from policies.published import Entry
from policies.publishing import Document, Publisher
from policies.redis_versions import RedisVersions
from policies.store import connect
from router.assembly import Assembly
from router.config import AppConfig
from router.profiles import fake_config
from router.tier_factory import TierFactory
from router.tiers import InProcessTiers

KEY, SECRET = "acr-chaos", "the secret of the chaos run"
STATE = "acr-policy:{published}:state"
DOCUMENTS = "acr-policy:{published}:documents"
POLL_S = 0.01
TAKEN_WITHIN_S = 60.0

TEXT = """\
version: 1
name: reload-{number}
arms:
  direct/direct: {{tier: direct, strategy: direct}}
  consistency/sc4: {{tier: consistency, strategy: self_consistency, max_samples: 4}}
defaults:
  quality_target: 0.{target}
  max_samples: 8
  deadline_s: {{default: 60, cap: 300}}
  cache: {{mode: off, ttl_s: 3600}}
tenants:
  chaos:
    keys: [{{id: k1, sha256: {digest}}}]
    budgets: {{minute: 100000000, day: 9000000000}}
    limits: {{concurrency: 1000}}
"""


@dataclass(slots=True)
class Found:
    """What the run counted; `problems` are the first few things that must not happen.

    `stood_still_s` is the longest that the event loop did not turn: a machine that has no time for it for
    half a second looks like a store that does not answer.
    """

    reloads: int = 0
    broken: int = 0
    requests: int = 0
    charged_tokens: int = 0
    named: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stood_still_s: float = 0.0

    def problem(self, said: str) -> None:
        if len(self.problems) < 20:
            self.problems.append(said[:300])

    def line(self) -> str:
        well = "no request failed, only good versions decided, the ledger is the sum of the receipts"
        end = "; ".join(self.problems) or well
        end += f"; the service stood still for {self.stood_still_s:.2f} s at most"
        return (
            f"policies: {self.reloads:,} reloads, {self.broken:,} of them broken, in {self.seconds:.0f} s; "
            f"{self.requests:,} requests by {len(self.named):,} versions; {end}"
        )


def document(number: int) -> Document:
    text = TEXT.format(number=number, target=10 + number % 90, digest=hash_key(KEY))
    return Document(parse_policy(text, f"reload-{number}.yaml"), text)


async def run(url: str, folder: Path, reloads: int = 1000, broken: int = 300, clients: int = 4) -> Found:
    """Reload under load against the store at `url`, which must be empty. Raises nothing that it can count."""
    found, boot = Found(), document(0)
    (folder / "boot.yaml").write_text(boot.text)
    config = fake_config().model_copy(update={"policy": str(folder / "boot.yaml"), "policy_poll_s": POLL_S})
    began_s = time.monotonic()
    with _environment(url):
        async with _service(config) as assembly:
            load = _Load(assembly, found, {boot.version})
            watch = asyncio.create_task(_stands_still(found))
            workers = [asyncio.create_task(load.keep_asking(number)) for number in range(clients)]
            last = await _Reloads(url, assembly, load, found).run(reloads, broken)
            load.over = True
            await asyncio.gather(*workers)
            watch.cancel()
            version = await load.ask("at the end")
            if version != last:
                found.problem(f"it ends on {version}, and the last good one is {last}")
        await _books(url, boot, found)
    found.seconds = time.monotonic() - began_s
    return found


async def _stands_still(found: Found) -> None:
    while True:
        began_s = time.monotonic()
        await asyncio.sleep(0.02)
        found.stood_still_s = max(found.stood_still_s, time.monotonic() - began_s - 0.02)


class _Load:
    """Requests without a pause, every fourth one streamed; each must be answered by a good version."""

    def __init__(self, assembly: Assembly, found: Found, good: set[str]) -> None:
        transport = httpx.ASGITransport(assembly.app())
        self._client = httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60.0)
        self._found = found
        self.good = good
        self.over = False

    async def keep_asking(self, worker: int) -> None:
        for number in itertools.count():
            if self.over:
                return
            await self.ask(f"{worker}-{number}", stream=number % 4 == 3)

    async def ask(self, question: str, stream: bool = False) -> str | None:
        """The version that decided, None where it failed."""
        body: dict[str, Any] = {
            "model": "auto",
            "messages": [{"role": "user", "content": f"What is {question}?"}],
            "max_completion_tokens": 32,
            "stream": stream,
            "stream_options": {"include_usage": True} if stream else None,
        }
        headers = {"Authorization": f"Bearer {KEY}"}
        reply = await self._client.post("/v1/chat/completions", json=body, headers=headers)
        self._found.requests += 1
        version: str | None = reply.headers.get("x-acr-policy")
        if reply.status_code != httpx.codes.OK or (stream and "[DONE]" not in reply.text):
            self._found.problem(f"a request failed with {reply.status_code}: {reply.text}")
            return None
        if version not in self.good:
            self._found.problem(f"a reply names {version}, which was never good")
        self._found.named.add(version or "")
        self._found.charged_tokens += _charged(reply, stream)
        return version


def _charged(reply: httpx.Response, stream: bool) -> int:
    if not stream:
        return int(reply.json()["usage"]["compute"]["charged_tokens"])
    chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    return sum(chunk["usage"]["compute"]["charged_tokens"] for chunk in chunks if chunk.get("usage"))


class _Reloads:
    """Publishes, in turn and at random, and waits until the service has looked at each."""

    def __init__(self, url: str, assembly: Assembly, load: _Load, found: Found) -> None:
        self._client = connect(url, decode_responses=False)
        self._versions = RedisVersions(self._client, SECRET.encode())
        self._stranger = RedisVersions(self._client, b"a guess")
        self._live = assembly.live
        self._load = load
        self._found = found
        self._rng = random.Random(1)

    async def run(self, reloads: int, broken: int) -> str:
        """The last good version."""
        bad = set(self._rng.sample(range(reloads - 1), broken))
        corpus = itertools.cycle(broken_policies(document(0).text, max(1, broken)))
        publisher, last = Publisher(self._versions, "chaos"), document(0).version
        for number in range(reloads):
            if number in bad:
                restore = await self._break(number, next(corpus)[1])
                await self._looked_at()
                if restore is not None:
                    await self._client.set(STATE, restore)
                self._found.broken += 1
            else:
                good = document(number + 1)
                self._load.good.add(good.version)
                await publisher.push(good)
                await self._looked_at()
                last = good.version
            self._found.reloads += 1
        await self._client.aclose()
        return last

    async def _break(self, number: int, data: bytes) -> bytes | None:
        """Publish something broken; the raw state to put back afterwards where that was destroyed."""
        version = f"{number:06x}bad{self._rng.randrange(16**3):03x}"
        raw = await self._versions.raw_state()
        state = self._versions.opened(raw)
        after = state.pushed(version).dated(state.number + 1, state.at_ms + 1)
        entry = Entry(number=after.number, at_ms=after.at_ms, by="chaos", action="push", version=version)
        way = number % 4
        if way == 0:  # a stranger's state and document
            good = document(10_000 + number)
            theirs = state.pushed(good.version).dated(after.number, after.at_ms)
            await self._stranger.commit(raw, theirs, entry, (good.version, good.text))
            return raw
        if way == 1:  # junk, or nothing, in the place of the state
            await self._client.set(STATE, self._rng.choice((data[:2000], b"", raw[:-1], raw[32:])))
            return raw
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:  # a document that nobody sealed
            await self._client.hset(DOCUMENTS, version, data)
            await self._versions.commit(raw, after, entry)
        else:
            kept = (version, text) if way == 2 or number % 8 else None  # or no document at all
            await self._versions.commit(raw, after, entry, kept)
        return None

    async def _looked_at(self) -> None:
        raw = await self._versions.raw_state()
        deadline_s = time.monotonic() + TAKEN_WITHIN_S
        while self._live is None or self._live.handled != raw:
            if time.monotonic() > deadline_s:
                self._found.problem("a change was not looked at in time")
                return
            await asyncio.sleep(POLL_S / 2)


async def _books(url: str, boot: Document, found: Found) -> None:
    """What the ledger charged must be what the receipts say, and nothing may be held any more."""
    tenant = boot.policy.tenants["chaos"]
    client = connect(url)
    gauges = await RedisLedger(client).peek(tenant.account, tenant.scopes())
    await client.aclose()
    day = [gauge for gauge in gauges if (gauge.window, gauge.unit) == ("day", "tokens")]
    used, held = sum(gauge.used for gauge in day), sum(gauge.held for gauge in day)
    if (used, held) != (found.charged_tokens, 0):
        found.problem(f"the ledger has {used} used and {held} held, the receipts {found.charged_tokens}")


@asynccontextmanager
async def _service(config: AppConfig) -> AsyncIterator[Assembly]:
    runners = {name: await TierFactory(name, config)() for name in config.tiers}
    for runner in runners.values():
        await runner.start()
    assembly = Assembly(config, InProcessTiers(runners))
    await assembly.start()
    try:
        yield assembly
    finally:
        await assembly.aclose()
        for runner in runners.values():
            await runner.aclose()


@contextmanager
def _environment(url: str) -> Iterator[None]:
    """The stores and the secret, as a replica finds them."""
    wanted = {"REDIS_URL": url, "CACHE_REDIS_URL": url, "ACR_CACHE_SECRET": SECRET}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main(reloads: int = 1000) -> int:
    """All on the embedded Valkey, a fifth on a redis-server where there is one; 0 if everything held."""
    logging.getLogger("router").setLevel(logging.CRITICAL)  # a line for each broken one, as there should be
    problems = 0
    for name, binary in binaries().items():
        count = reloads if name == "valkey" else reloads // 5
        with servers(binary) as start, tempfile.TemporaryDirectory(prefix="acr-chaos-") as folder:
            url = start("--appendonly", "no").url
            found = asyncio.run(run(url, Path(folder), count, count * 3 // 10))
        print(f"{name}: {found.line()}")
        problems += len(found.problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
