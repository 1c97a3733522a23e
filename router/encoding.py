"""An encoder off the event loop: one thread, and whoever waits together is encoded together."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from classifier.encoder import Encoder, Vector

log = logging.getLogger(__name__)

MAX_BATCH = 16


class Encoding:
    """For one event loop. An encoder that cannot be loaded is given up, with one line in the log."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(1, "encoder")
        self._waiting: deque[tuple[str, asyncio.Future[Vector | None]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._broken = False

    @property
    def name(self) -> str:
        return self._encoder.name

    async def vector(self, text: str) -> Vector | None:
        """None: it cannot be encoded, or nothing can."""
        if self._broken:
            return None
        turn: asyncio.Future[Vector | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, turn))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await turn

    async def aclose(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            batch = [(text, turn) for text, turn in taken if not turn.done()]
            if not batch:
                continue
            texts = [text for text, _ in batch]
            vectors: list[Vector | None] = [None] * len(batch)
            try:
                vectors = await loop.run_in_executor(self._thread, self._encoder.encode, texts)
            except (ImportError, OSError, RuntimeError, ValueError) as error:
                self._broken = True
                log.warning("the semantic cache is off: its encoder failed (%s)", type(error).__name__)
            except BaseException:
                for _, turn in batch:
                    turn.cancel()
                raise
            for (_, turn), vector in zip(batch, vectors, strict=True):
                if not turn.done():
                    turn.set_result(vector)
