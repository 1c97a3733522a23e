"""P(True): the model's own probability that a reply is right, from one extra token (arXiv 2207.05221)."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import TYPE_CHECKING

from backends.engines.base import Completion, Message, Sampling
from backends.errors import StrategyUnsupported
from backends.verifiers.asking import ask

if TYPE_CHECKING:
    from backends.strategies.base import Call, Run
    from backends.task import Sample

ASKED = 'Is the proposed answer correct? Reply with only "Yes" or "No".'
MAX_ALTERNATIVES = 20
MIN_MASS = 0.01  # with less on yes and no together, the model is not answering the question

_YES = ("yes", "true")
_NO = ("no", "false")


async def p_true(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """P(yes) / (P(yes) + P(no)) of the token after "Is the proposed answer correct?", in [0, 1].

    Where the engine tells alternatives with their texts, over all spellings of yes and no among them; else
    from the token it says: p for yes, 1 - p for no. None where it says neither. Equal texts are asked about
    once. Raises StrategyUnsupported where the engine tells no log-probabilities, BudgetTooSmall, EngineError.
    """
    info = run.engine.info
    if not info.logprobs:
        raise StrategyUnsupported(f"{info.model} tells no log-probabilities to compute P(True) from")
    texts = list(dict.fromkeys(reply.text for reply in replies if reply.text.strip()))
    if not texts:
        return [None] * len(replies)
    sampling = Sampling(max_tokens=1, top_logprobs=min(info.top_logprobs, MAX_ALTERNATIVES))
    # The conversation as the draws saw it, so that the prefix cache serves it.
    asked = [(*run.messages(), Message("assistant", text), Message("user", ASKED)) for text in texts]
    calls = await ask(run, asked, sampling)
    known = {text: _probability(call) for text, call in zip(texts, calls, strict=True)}
    return [known.get(reply.text) for reply in replies]


def _probability(call: Call | None) -> float | None:
    if call is None or call.completion is None:
        return None
    if call.completion.top_logprobs and call.completion.top_tokens:
        return _share(call.completion)
    if not call.completion.logprobs:
        return None
    said, probability = _meaning(call.completion.text), min(1.0, exp(call.completion.logprobs[0]))
    if said is None:
        return None
    return probability if said else 1.0 - probability


def _share(completion: Completion) -> float | None:
    mass = {True: 0.0, False: 0.0, None: 0.0}
    alternatives = zip(completion.top_tokens[0], completion.top_logprobs[0], strict=True)
    for text, logprob in alternatives:
        mass[_meaning(text)] += exp(logprob)
    both = mass[True] + mass[False]
    return mass[True] / both if both >= MIN_MASS else None


def _meaning(token: str) -> bool | None:
    """Yes, no, or neither. A token may be the start of a word, but "N" alone could be that of "Not sure"."""
    word = token.strip(" \t\n*\"'.,:!_").casefold()
    if word in _YES:
        return True
    return False if word in _NO else None
