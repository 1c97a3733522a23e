"""The in-process server as a guest: it prints nothing, admits nobody else, and lets its process end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from backends.engines import llamacpp
from backends.engines.base import Completion, Generation, Message, Sampling
from backends.engines.config import LlamaCppConfig
from backends.engines.llamacpp import LlamaCppEngine
from backends.errors import EngineUnavailable, ModelFileError
from backends.models import default_model_path

QUESTION = (Message("user", "What is two plus three?"),)

PROGRAM = """
import asyncio
from backends.engines.base import Completion, Generation, Message, Sampling
from backends.engines.config import LlamaCppConfig
from backends.engines.llamacpp import LlamaCppEngine

async def main() -> None:
    engine = LlamaCppEngine(LlamaCppConfig(context_tokens=256, parallel=2))
    await engine.start()
    async for item in engine.generate(Generation((Message("user", "Hello"),), Sampling(4))):
        last = item
    print(type(last).__name__)
    items = engine.generate(Generation((Message("user", "Hello"),), Sampling(200)))
    await anext(items)
    await items.aclose()
    {ending}

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def model() -> Path:
    try:
        return default_model_path()
    except ModelFileError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("ending", ["await engine.aclose()", "pass"], ids=["closed", "left"])
def test_a_process_prints_only_its_own_words_and_ends(model: Path, ending: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(ending=ending)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.stdout, run.stderr, run.returncode) == ("Completion\n", "", 0)


async def test_nobody_without_the_key_is_served(model: Path) -> None:
    engine = LlamaCppEngine(LlamaCppConfig(model_path=str(model), context_tokens=256, parallel=1))
    await engine.start()
    await engine.start()  # starting twice changes nothing
    address = str(engine._running().base_url)
    assert address.startswith("http://127.0.0.1:")
    async with httpx.AsyncClient(base_url=address, trust_env=False) as stranger:
        for path, body in (("/completion", {"prompt": "x"}), ("/tokenize", {"content": "x"})):
            assert (await stranger.post(path, json=body)).status_code == 401
        assert (await stranger.get("/slots")).status_code == 401
        guess = await stranger.get("/props", headers={"Authorization": "Bearer x"})
        assert guess.status_code == 401

    # Running generations and waiting ones end typed when the engine is closed under them.
    items = engine.generate(Generation(QUESTION, Sampling(200)))
    await anext(items)
    waiting = asyncio.create_task(anext(engine.generate(Generation(QUESTION, Sampling(8)))))
    await asyncio.sleep(0)
    await engine.aclose()
    with pytest.raises(EngineUnavailable):
        await drain(items)
    with pytest.raises(EngineUnavailable):
        await waiting
    assert not await engine.healthy()


async def drain(items: object) -> None:
    async for _ in items:  # type: ignore[attr-defined]
        pass


async def test_a_context_that_the_model_was_not_trained_for_is_refused(model: Path) -> None:
    engine = LlamaCppEngine(LlamaCppConfig(model_path=str(model), context_tokens=16384, parallel=1))
    with pytest.raises(ModelFileError, match="8192"):
        await engine.start()
    assert not await engine.healthy()


async def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    absent = LlamaCppEngine(LlamaCppConfig(model_path=str(tmp_path / "absent.gguf")))
    with pytest.raises(ModelFileError, match=r"absent\.gguf"):
        await absent.start()
    (tmp_path / "junk.gguf").write_bytes(b"GGUF, but not really")
    junk = LlamaCppEngine(LlamaCppConfig(model_path=str(tmp_path / "junk.gguf")))
    with pytest.raises(EngineUnavailable, match=r"junk\.gguf"):
        await junk.start()
    assert not await junk.healthy()


async def test_cancelling_the_start_frees_what_was_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loading, proceed, freed = threading.Event(), threading.Event(), threading.Event()

    class Server:
        def __del__(self) -> None:
            freed.set()

    def load(*_: object) -> Server:
        loading.set()
        proceed.wait(30)
        return Server()

    monkeypatch.setattr(llamacpp, "load_server", load)
    (tmp_path / "m.gguf").write_bytes(b"")
    engine = LlamaCppEngine(LlamaCppConfig(model_path=str(tmp_path / "m.gguf")))
    task = asyncio.create_task(engine.start())
    await asyncio.to_thread(loading.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proceed.set()
    assert await asyncio.to_thread(freed.wait, 30)


async def test_texts_of_several_tokens_a_character_are_whole(model: Path) -> None:
    engine = LlamaCppEngine(LlamaCppConfig(model_path=str(model), context_tokens=512, parallel=1))
    await engine.start()
    asked = (Message("user", "Repeat: 日本語 こんにちは 世界"),)
    async for item in engine.generate(Generation(asked, Sampling(24), prefix="日本語 こん")):
        last = item
    await engine.aclose()
    assert isinstance(last, Completion)
    assert "\ufffd" not in last.text.rstrip("\ufffd")
    assert any(ord(character) > 0x3000 for character in last.text)
    # Its tokens are all counted; their log-probabilities are not all known, so none is given.
    assert last.completion_tokens == 24
    assert last.logprobs == ()
