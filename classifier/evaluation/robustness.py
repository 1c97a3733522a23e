"""How often the chosen arm changes though the question did not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from classifier.artifact import Artifact
from classifier.predictor import Prediction, Predictor
from classifier.tables import OutcomeTable

Messages = Sequence[Mapping[str, str]]

_SENTENCES = re.compile(r"(?<=[.!?])\s+")


def _last(messages: Messages, change: Callable[[str], str]) -> Messages:
    """The last user turn changed, the rest as it was."""
    at = max((i for i, turn in enumerate(messages) if turn["role"] == "user"), default=len(messages) - 1)
    return [
        {**turn, "content": change(turn["content"])} if i == at else turn for i, turn in enumerate(messages)
    ]


def _reordered(text: str) -> str:
    """What comes before the last sentence, the other way round: the question stays last."""
    parts = _SENTENCES.split(text)
    return " ".join([*parts[-2::-1], parts[-1]]) if len(parts) > 2 else text


CHANGES: Mapping[str, Callable[[str], str]] = {
    "whitespace": lambda text: f"  {text.replace(' ', '  ')}\n",
    "lower case": str.lower,
    "upper case": str.upper,
    "politeness": lambda text: f"Could you please help me with this? {text} Thank you!",
    "reordered context": _reordered,
}

# Later turns that leave the question as it was, and one after which nothing is left to answer.
LATER: Mapping[str, str] = {
    '"yes, go on" after it': "Yes, go on.",
    '"please think again" after it': "Please think again.",
}
THANKED = '"thanks, that\'s all" after it, not the cheapest arm'


def robustness(artifact: Artifact, table: OutcomeTable, prompts: int = 1000) -> dict[str, float]:
    """Share of (the first) prompts whose arm changes, by change; an arm is argmax p - price * tokens.

    The price is that at which half of what it spends without a price would be spent. "reordered context"
    counts the prompts that have three sentences or more. Where the user says thanks, the share is that of
    prompts whose arm is not the one with the fewest expected tokens then.
    """
    predictor = Predictor(artifact)
    asked = [item.messages for item in table.items[:prompts]]
    before = [predictor.predict(messages) for messages in asked]
    price = _price(before)
    found: dict[str, float] = {}
    for name, change in CHANGES.items():
        pairs = [(_last(messages, change), told) for messages, told in zip(asked, before, strict=True)]
        pairs = [(m, told) for (m, told), old in zip(pairs, asked, strict=True) if list(m) != list(old)]
        moved = [_arm(predictor.predict(m), price) != _arm(told, price) for m, told in pairs]
        found[name] = float(np.mean(moved)) if moved else 0.0
    for name, said in LATER.items():
        later = [predictor.predict(_then(messages, said)) for messages in asked]
        moved = [_arm(a, price) != _arm(b, price) for a, b in zip(later, before, strict=True)]
        found[name] = float(np.mean(moved))
    thanked = [predictor.predict(_then(messages, "Thanks, that's all!")) for messages in asked]
    found[THANKED] = float(
        np.mean([_arm(t, price) != min(t.tokens, key=t.tokens.__getitem__) for t in thanked])
    )
    return found


def _then(messages: Messages, said: str) -> Messages:
    answered = {
        "role": "assistant",
        "content": "I would say that it is 12, but let me look at it more closely.",
    }
    return [*messages, answered, {"role": "user", "content": said}]


def _price(predictions: Sequence[Prediction]) -> float:
    from classifier.evaluate import price_for

    p = np.array([list(told.p.values()) for told in predictions])
    tokens = np.array([list(told.tokens.values()) for told in predictions])
    dearest = float(tokens[np.arange(len(p)), np.argmax(p, axis=1)].mean())
    return price_for(p, tokens, 0.5 * dearest)


def _arm(told: Prediction, price: float) -> str:
    return max(told.p, key=lambda arm: told.p[arm] - price * told.tokens[arm])
