"""The likeliest tokens at each place: what the fake tells of them, and how llama.cpp's are read."""

from __future__ import annotations

from math import exp
from typing import Any

import pytest

from backends.engines.base import Completion, Generation, Message, Sampling
from backends.engines.fake import FakeConfig, FakeEngine
from backends.engines.llamacpp_wire import TOP_LOGPROBS, completion, completion_body
from backends.errors import EngineProtocolError
from tests.tasks import says

END = {
    "stop": True,
    "stop_type": "eos",
    "tokens_predicted": 1,
    "timings": {"cache_n": 0, "prompt_n": 5},
}
TOLD = [
    {
        "id": 1,
        "token": " Yes",
        "logprob": -0.5,
        "top_logprobs": [
            {"id": 1, "token": " Yes", "logprob": -0.5},
            {"id": 2, "token": " No", "logprob": -1.5},
        ],
    }
]


async def complete(engine: FakeEngine, top_logprobs: int) -> Completion:
    await engine.start()
    asked = Sampling(max_tokens=8, top_logprobs=top_logprobs)
    items = [item async for item in engine.generate(Generation((Message("user", "q"),), asked))]
    assert isinstance(items[-1], Completion)
    return items[-1]


async def test_the_fake_tells_what_its_answers_have_at_each_place() -> None:
    done = await complete(says(("Yes it is", 3.0), ("No way", 1.0), top_logprobs=5), 2)
    assert done.top_tokens == (("Yes", "No"), (" it", " way"), (" is",))
    shares = [[round(exp(logprob), 6) for logprob in place] for place in done.top_logprobs]
    assert shares == [[0.75, 0.25], [0.75, 0.25], [1.0]]
    assert len(done.top_logprobs) == done.completion_tokens


@pytest.mark.parametrize(("offered", "asked"), [(0, 5), (5, 0)])
async def test_it_tells_none_unasked(offered: int, asked: int) -> None:
    done = await complete(says("Yes", top_logprobs=offered), asked)
    assert (done.top_logprobs, done.top_tokens) == ((), ())


async def test_a_scripted_reply_is_certain() -> None:
    engine = FakeEngine(FakeConfig(top_logprobs=3), script=lambda generation, rng: "just this")
    done = await complete(engine, 3)
    assert done.top_logprobs == ((0.0,), (0.0,))


def test_llamacpp_is_asked_for_as_many_as_wanted() -> None:
    def probabilities(top_logprobs: int, logprobs: bool = True) -> Any:
        return completion_body("p", Sampling(4, top_logprobs=top_logprobs), logprobs)["n_probs"]

    assert [probabilities(n) for n in (0, 1, 7, 99)] == [1, 1, 7, TOP_LOGPROBS]
    assert probabilities(7, logprobs=False) == 0


def test_what_llamacpp_tells_is_read() -> None:
    done = completion(" Yes", END, TOLD, 2)
    assert done.logprobs == (-0.5,)
    assert done.top_logprobs == ((-0.5, -1.5),)
    assert done.top_tokens == ((" Yes", " No"),)
    unasked = completion(" Yes", END, TOLD, 0)
    assert (unasked.logprobs, unasked.top_logprobs, unasked.top_tokens) == ((-0.5,), (), ())


def test_tokens_that_are_not_all_known_are_not_told_at_all() -> None:
    done = completion("é", {**END, "tokens_predicted": 2}, TOLD, 2)
    assert (done.logprobs, done.top_logprobs) == ((), ())


@pytest.mark.parametrize(
    "told", [[{}], [{"logprob": None}], [{"logprob": -1.0}], ["x"], [{"logprob": -1.0, "top_logprobs": [3]}]]
)
def test_what_cannot_be_read_is_a_protocol_error(told: list[Any]) -> None:
    with pytest.raises(EngineProtocolError, match="log-prob"):
        completion("x", END, told, 2)
