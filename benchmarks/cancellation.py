"""How soon an engine's work ends after its caller has left: from the cancel until the engine says it is idle.

    python -m benchmarks.cancellation --engine llamacpp --engine transformers
    .venv-vllm/bin/python -m benchmarks.cancellation --engine vllm --engine vllm_server

The second needs what `make test-vllm` installs. The engines are those of the contract suite: SmolLM2-135M on
a CPU, a story of 450 tokens, cancelled 0 to 0.4 s after the first token of the first call.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

from backends.engines.base import Generation, Message, Sampling
from tests.engine_subjects import CONTEXT, KEY, KEY_VARIABLE, PARALLEL, SUBJECTS, Subject

STORY = (Message("user", "Tell a long story about a river and a town."),)
STORY_TOKENS = 450
GIVE_UP_S = 60.0


async def _vllm() -> AsyncIterator[Subject]:
    from backends.engines.vllm import VLLMEngine
    from tests.vllm.smollm2 import vllm_config
    from tests.vllm.subjects import native_subject

    engine = VLLMEngine(vllm_config())
    await engine.start()
    yield native_subject(engine)
    await engine.aclose()


async def _vllm_server() -> AsyncIterator[Subject]:
    from backends.engines.config import OpenAIHTTPConfig
    from backends.engines.openai_http import OpenAIHTTPEngine
    from tests.vllm.server import VLLMServer
    from tests.vllm.smollm2 import model_folder
    from tests.vllm.subjects import MODEL_NAME, http_subject, server_options

    os.environ[KEY_VARIABLE] = KEY
    with tempfile.TemporaryDirectory() as folder:
        server = VLLMServer(model_folder(), MODEL_NAME, KEY, Path(folder) / "log", *server_options())
        try:
            server.wait()
            config = OpenAIHTTPConfig(
                base_url=f"{server.url}/v1", model=MODEL_NAME, api_key_env=KEY_VARIABLE, dialect="vllm",
                context_tokens=CONTEXT, parallel=PARALLEL,
            )  # fmt: skip
            engine = OpenAIHTTPEngine(config)
            await engine.start()
            yield http_subject(engine, server)
            await engine.aclose()
        finally:
            server.stop()


MADE: dict[str, Callable[[], AsyncIterator[Subject]]] = {
    **{name: SUBJECTS[name] for name in ("llamacpp", "openai_http", "transformers")},
    "vllm": _vllm,
    "vllm_server": _vllm_server,
}


async def _once(subject: Subject, calls: int, delay_s: float) -> float:
    """Milliseconds from cancelling `calls` calls until the engine is idle."""
    begun = asyncio.Event()

    async def run(seed: int) -> None:
        asked = Generation(STORY, Sampling(STORY_TOKENS, temperature=1.0, seed=seed))
        async with aclosing(subject.engine.generate(asked)) as items:
            async for _ in items:
                begun.set()

    tasks = [asyncio.create_task(run(seed)) for seed in range(calls)]
    await begun.wait()
    await asyncio.sleep(delay_s)
    left_s = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(GIVE_UP_S):
        while await subject.busy():  # noqa: ASYNC110  an engine tells, it does not call
            await asyncio.sleep(0.002)
    return 1000 * (time.perf_counter() - left_s)


async def measure(name: str, times: int) -> None:
    """Print a line for one call, and one for as many as the engine decodes together."""
    async for subject in MADE[name]():
        await _once(subject, 1, 0.0)  # what a first call takes is not meant
        for calls in (1, PARALLEL):
            took_ms = sorted([await _once(subject, calls, 0.1 * (n % 5)) for n in range(times)])
            median, p90 = statistics.median(took_ms), took_ms[int(0.9 * times)]
            print(
                f"{name}, {calls} at a time: median {median:.0f} ms, p90 {p90:.0f}, most {took_ms[-1]:.0f} "
                f"({times} times)",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", action="append", choices=list(MADE), help="may be given again")
    parser.add_argument("--times", type=int, default=30)
    asked = parser.parse_args()
    for name in asked.engine or ("llamacpp", "openai_http", "transformers"):
        asyncio.run(measure(name, max(1, asked.times)))


if __name__ == "__main__":
    main()
