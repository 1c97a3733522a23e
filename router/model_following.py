"""How a replica follows published classifiers; apart, so that the classifier's own replicas load no HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from policies.errors import PolicyError, StoreUnavailable
from policies.loader import load_policy
from policies.publishing import published_policy
from policies.redis_versions import RedisVersions
from policies.store import connect
from policies.versions import CLASSIFIERS, Versions
from router.config import AppConfig
from router.live_model import BootModel, LiveModel, Prepare, boot_model
from router.replica_name import replica_name
from router.serve_logs import log_to_serve
from router.stores import redis_url, shared_secret

log = logging.getLogger(__name__)

# A classifier is some hundred kilobytes: more than the budgets' commands are given time for.
TIMEOUT_S = 2.0
CONNECTIONS = 2


@dataclass(frozen=True, slots=True)
class ModelFollowing:
    """Makes what follows published classifiers, in the process that calls it. Picklable."""

    config: AppConfig

    def boot(self, place: str | None = None) -> BootModel:
        """The artifact of that directory, or the app config's. Raises ArtifactError."""
        return boot_model(self.config.classifier.artifact if place is None else place)

    def __call__(self, boot: BootModel, prepare: Prepare, refused: Callable[[], None]) -> LiveModel | None:
        """None without the shared secret: nobody could tell a published classifier from a stranger's."""
        secret = shared_secret()
        if secret is None:
            log.warning("ACR_CACHE_SECRET is not set: published classifiers are not followed")
            return None
        client = connect(
            redis_url(self.config),
            command_timeout_s=TIMEOUT_S,
            max_connections=CONNECTIONS,
            decode_responses=False,
        )
        policies = RedisVersions(client, secret)
        return LiveModel(
            RedisVersions(client, secret, CLASSIFIERS),
            boot,
            prepare,
            arms=lambda: self._arms(policies),
            replica=replica_name(),
            refused=refused,
            close=client.aclose,
            poll_s=self.config.policy_poll_s,
        )

    def on_serve(self, boot: BootModel, prepare: Prepare, refused: Callable[[], None]) -> LiveModel | None:
        """In a replica of the classifier's own deployment, where nobody else has set up logs."""
        log_to_serve("router", "policies", "classifier")
        return self(boot, prepare, refused)

    async def _arms(self, policies: Versions) -> Collection[str]:
        """Of the published policy, or the app config's where none is or it cannot be read.

        Raises StoreUnavailable.
        """
        try:
            version = policies.opened(await policies.raw_state()).current
            if version is not None:
                text = await policies.document(version)
                return (await asyncio.to_thread(published_policy, text, version)).arms
        except StoreUnavailable:
            raise
        except PolicyError:  # this replica, too, decides by its last good one
            pass
        return (await asyncio.to_thread(load_policy, self.config.policy_path())).arms
