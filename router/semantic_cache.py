"""Answers to questions that mean the same: opt-in, one tenant each, and careful.

What is compared are last user messages of requests that are equal in everything else (the exact part of the
key), and that carry the same marks (likeness.py). An entry is a vector and the key of an answer in the exact
cache; without that answer it says nothing. Each replica keeps a tenant's vectors and asks for new ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from backends.engines.base import Message
from classifier.encoder import MAX_BYTES, Encoder, Vector
from policies.schema import TenantPolicy
from router.cache import Cache
from router.cache_store import CacheStoreDown
from router.encoding import Encoding
from router.keys import cache_key, seal, unseal
from router.likeness import content, marks, minimal_pair
from router.likes import US, Likes
from router.request import RouteRequest

# A lookup that takes longer than this (a model being loaded, a busy machine) is a miss.
LOOKUP_S = 0.5
# How many of the likest are tried whose answers may be gone.
TRIES = 3
# Longer questions are hardly ever asked again in other words, and their words would fill the store.
MAX_WORDS = 200
_BUCKET, _KEY, _COUNT, _WORD = 16, 32, 1, 4


@dataclass(slots=True)
class Probe:
    """A question on its way through the cache; `vector` is there once it has been encoded."""

    tenant: TenantPolicy
    text: str
    bucket: bytes
    words: tuple[bytes, ...]
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class Like:
    """The answer to a like question, encoded as it is stored, and how like that is."""

    value: bytes
    similarity: float


@dataclass(frozen=True, slots=True)
class _Row:
    at_us: int
    words: tuple[bytes, ...]
    key: str
    vector: NDArray[np.float32]


@dataclass(slots=True)
class _Index:
    """One tenant's entries as this replica knows them."""

    last_us: int = 0
    now_us: int = 0
    oldest_us: int = 0
    rows: dict[bytes, list[_Row]] = field(default_factory=dict)


class SemanticCache:
    """For one event loop. Nothing here raises, CancelledError excepted."""

    def __init__(
        self, encoder: Encoder, likes: Likes, cache: Cache, secret: bytes, *, lookup_s: float = LOOKUP_S
    ) -> None:
        self._encoding = Encoding(encoder)
        self._likes = likes
        self._cache = cache
        self._secret = secret
        self._lookup_s = lookup_s
        self._indices: dict[str, _Index] = {}

    async def aclose(self) -> None:
        await self._encoding.aclose()

    def probe(
        self,
        tenant: TenantPolicy,
        request: RouteRequest,
        *,
        policy_version: str,
        ceiling: str,
        engine_models: str,
    ) -> Probe | None:
        """None for what is not compared: a tenant without it, no user's words last, too many."""
        last = request.messages[-1]
        text = last.content.strip()
        if not tenant.cache.semantic.enabled or last.role != "user" or not text:
            return None
        if len(text.encode()) > MAX_BYTES:
            return None
        told = content(text)
        if len(told) > MAX_WORDS:
            return None
        exact = replace(request, messages=(*request.messages[:-1], Message("user", json.dumps(marks(text)))))
        bucket = cache_key(
            self._secret,
            tenant=tenant.name,
            policy_version=policy_version,
            ceiling=f"semantic {self._encoding.name} {ceiling}",
            engine_models=engine_models,
            request=exact,
        )
        digests = tuple(self._digest(tenant.name, word) for word in told)
        return Probe(tenant, text, bytes.fromhex(bucket)[:_BUCKET], digests)

    async def look(self, probe: Probe, max_age_s: int | None = None) -> Like | None:
        """The answer to the likest question, if it is like enough and its answer is still there."""
        try:
            async with asyncio.timeout(self._lookup_s):
                probe.vector, index = await asyncio.gather(
                    self._encoding.vector(probe.text), self._refreshed(probe.tenant)
                )
                if probe.vector is None or index is None:
                    return None
                return await self._likest(probe, probe.vector, index, max_age_s)
        except TimeoutError:
            return None

    async def add(self, probe: Probe, key: str) -> None:
        """The exact cache has an answer to this question under `key`."""
        vector = probe.vector
        if vector is None:
            vector = await self._encoding.vector(probe.text)
        if vector is None:
            return
        plain = probe.bucket + bytes.fromhex(key) + bytes([len(probe.words)]) + b"".join(probe.words)
        plain += vector.astype(np.float16).tobytes()
        rule, tenant = probe.tenant.cache.semantic, probe.tenant.name
        entry = seal(self._secret, "like", tenant, plain)
        try:
            await self._likes.add(tenant, entry, max_entries=rule.max_entries, ttl_s=_ttl_s(probe.tenant))
        except CacheStoreDown:
            return

    async def _likest(
        self, probe: Probe, vector: Vector, index: _Index, max_age_s: int | None
    ) -> Like | None:
        rows = [row for row in index.rows.get(probe.bucket, ()) if not minimal_pair(row.words, probe.words)]
        if max_age_s is not None:
            rows = [row for row in rows if index.now_us - row.at_us <= max_age_s * US]
        if not rows:
            return None
        similarities = np.stack([row.vector for row in rows]) @ vector
        for at in np.argsort(-similarities)[:TRIES]:
            similarity = min(1.0, float(similarities[at]))
            if similarity < probe.tenant.cache.semantic.threshold:
                return None
            value = await self._cache.get(rows[at].key, probe.tenant.name, counted=False)
            if value is not None:
                return Like(value, similarity)
            kept = index.rows.get(probe.bucket, [])
            if rows[at] in kept:
                kept.remove(rows[at])
        return None

    async def _refreshed(self, tenant: TenantPolicy) -> _Index | None:
        index = self._indices.setdefault(tenant.name, _Index())
        try:
            news = await self._likes.since(tenant.name, index.last_us, ttl_s=_ttl_s(tenant))
        except CacheStoreDown:
            return None
        index.now_us = news.now_us
        for at_us, entry in news.entries:
            if at_us > index.last_us:
                self._learn(index, tenant.name, at_us, entry)
        if news.oldest_us == index.oldest_us:
            return index
        index.oldest_us = news.oldest_us
        for bucket in list(index.rows):
            rows = [row for row in index.rows[bucket] if 0 < news.oldest_us <= row.at_us]
            if rows:
                index.rows[bucket] = rows
            else:
                del index.rows[bucket]
        return index

    def _learn(self, index: _Index, tenant: str, at_us: int, entry: bytes) -> None:
        index.last_us = at_us
        plain = unseal(self._secret, "like", tenant, entry)
        if plain is None:
            return  # a stranger's write
        bucket, key, rest = plain[:_BUCKET], plain[_BUCKET : _BUCKET + _KEY], plain[_BUCKET + _KEY :]
        count, rest = rest[0], rest[_COUNT:]
        told = tuple(rest[i * _WORD : (i + 1) * _WORD] for i in range(count))
        vector = np.frombuffer(rest[count * _WORD :], np.float16).astype(np.float32)
        index.rows.setdefault(bucket, []).append(_Row(at_us, told, key.hex(), vector))

    def _digest(self, tenant: str, word: str) -> bytes:
        # Keyed: the store's reader learns no words. Four bytes are enough to tell two words apart.
        return hmac.digest(self._secret, json.dumps(["word", tenant, word]).encode(), hashlib.sha256)[:_WORD]


def _ttl_s(tenant: TenantPolicy) -> float:
    own = tenant.cache.semantic.ttl_s
    return float(tenant.cache.ttl_s if own is None else min(own, tenant.cache.ttl_s))
