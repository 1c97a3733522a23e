"""The manager's own scheduler, with three things it does not tell: cached tokens, work done, cancellations.

Imports transformers: only to be imported when an engine starts.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

SCHEDULER = "told_fifo"
CANCELLATIONS_KEPT = 1024


class ToldScheduler(FIFOScheduler):
    """First come, first served. Runs on the manager's thread.

    `on_cancelled` gets the last output of every request that was cancelled, once its blocks are free again.
    `cached_tokens` is how much of each request's prompt was found in the cache when it was first scheduled.
    `forward_tokens` counts what the model computed since the manager started, prompts and completions.
    """

    on_cancelled: Callable[[list[Any]], None] | None = None

    def reset(self) -> None:
        super().reset()
        self.cached_tokens: dict[str, int] = {}
        self.forward_tokens = 0
        self._cancelled_unseen: deque[str] = deque(maxlen=CANCELLATIONS_KEPT)

    def has_pending_requests(self) -> bool:
        # Called in every turn of the manager's loop. Python waits for this thread before it exits: without
        # this, a process that ends without closing its engine would wait for ever.
        if not threading.main_thread().is_alive():
            raise SystemExit
        return bool(super().has_pending_requests())

    def add_waiting_request(self, state: Any) -> None:
        if state.request_id in self._cancelled_unseen:
            self._cancelled_unseen.remove(state.request_id)
            self._tell([state])
        else:
            super().add_waiting_request(state)

    def set_request_cancellation(self, request_id: str) -> None:
        # The manager empties its queue of requests before that of cancellations, so a request that comes in
        # between is cancelled before it is known. By itself the manager would then run it to its end.
        if request_id in self.active_requests or request_id in self.waiting_requests:
            super().set_request_cancellation(request_id)
        else:
            self._cancelled_unseen.append(request_id)

    def clear_cancelled_requests(self) -> list[Any]:
        states: list[Any] = super().clear_cancelled_requests()
        self._tell(states)
        return states

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        batch = super().schedule_batch(token_budget, cache_budget)
        for future in batch[0] or ():
            state = future.state
            # Before the first forward pass a request's position is the length of the prefix it found.
            self.cached_tokens.setdefault(state.request_id, state.position_offset)
            self.forward_tokens += future.query_length
        return batch

    def _tell(self, states: list[Any]) -> None:
        if states and self.on_cancelled is not None:
            self.on_cancelled([state.to_generation_output() for state in states])


SCHEDULER_MAPPING[SCHEDULER] = ToldScheduler
