"""Questions with known answers, to record outcomes on: task families of reasoning-gym and plain facts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from backends.answers import matches


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt with its accepted answers; `family` is what held-out families are split by."""

    prompt_id: str
    family: str
    text: str
    answers: tuple[str, ...]

    def score(self, reply: str, answer: str | None) -> float:
        """1.0 if the reply is right. Facts count when named anywhere in a reply, since they come as prose."""
        if self.family == PLAIN:
            said = reply.casefold()
            return float(any(re.search(rf"\b{re.escape(a.casefold())}\b", said) for a in self.answers))
        return float(matches(answer, self.answers))


PLAIN = "plain_facts"
# Easiest settings: a 135M model gets some of each right, and the arms differ from family to family.
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "chain_sum_2x1": ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}),
    "chain_sum_3x1": ("chain_sum", {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}),
    "chain_sum_2x2": ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}),
    "products_1x1": ("products", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}),
    "products_2x2": ("products", {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}),
    "gcd_small": ("gcd", {"min_value": 1, "max_value": 20}),
    "syllogism": ("syllogism", {}),
    "letter_counting": ("letter_counting", {"min_words": 1, "max_words": 3}),
    "spell_backward": ("spell_backward", {"min_word_len": 3, "max_word_len": 4}),
    "leg_counting": ("leg_counting", {"min_animals": 1, "max_animals": 2}),
    "family_relationships": ("family_relationships", {}),
}


def questions(per_family: int, seed: int) -> list[Question]:
    """`per_family` questions of every family, in turns, so that a part of a recording is balanced.

    Raises ModuleNotFoundError if reasoning-gym is not installed (extra `record`).
    """
    import reasoning_gym

    columns: list[Sequence[Question]] = [_plain(per_family)]
    for column, (family, (dataset, settings)) in enumerate(FAMILIES.items()):
        # Small families repeat themselves: draw more than asked and keep each text once.
        items = reasoning_gym.create_dataset(
            dataset, size=4 * per_family, seed=1000 * seed + column, **settings
        )
        distinct = {item["question"].strip(): str(item["answer"]) for item in items}
        columns.append(
            [
                Question(f"{family}-{seed}-{i}", family, text, (answer,))
                for i, (text, answer) in enumerate(list(distinct.items())[:per_family])
            ]
        )
    return [column[i] for i in range(per_family) for column in columns if i < len(column)]


def _plain(count: int) -> list[Question]:
    rows = json.loads((files("router") / "data" / "plain_questions.json").read_text())
    return [
        Question(f"{PLAIN}-{i}", PLAIN, row["question"], tuple(row["answers"]))
        for i, row in enumerate(rows[:count])
    ]
