"""Questions with known answers, to record outcomes on: task families of reasoning-gym at two difficulties,
and plain facts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from backends.answers import matches
from backends.engines.base import Message


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt with its accepted answers; `family` is what held-out families are split by.

    `before` are the turns before `text`. `anywhere`: an answer counts wherever a reply names it.
    """

    prompt_id: str
    family: str
    text: str
    answers: tuple[str, ...]
    difficulty: str = ""
    before: tuple[Message, ...] = ()
    anywhere: bool = False

    @property
    def messages(self) -> tuple[Message, ...]:
        return (*self.before, Message("user", self.text))

    def score(self, reply: str, answer: str | None) -> float:
        """1.0 if the reply is right, else 0.0."""
        if self.anywhere:
            said = reply.casefold()
            return float(any(re.search(rf"\b{re.escape(a.casefold())}\b", said) for a in self.answers))
        return float(matches(answer, self.answers))


PLAIN = "plain_facts"


def _terms(terms: int, digits: int, **more: Any) -> Mapping[str, Any]:
    sizes = {"min_terms": terms, "max_terms": terms, "min_digits": digits, "max_digits": digits}
    return {**sizes, **more}


# Easy settings, since a 135M model gets some of each right; chosen because the arms differ between them:
# votes gain much on some, thinking aloud hurts on others, and on the hardest nothing helps.
DIFFICULTIES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "chain_sum": {"easy": _terms(2, 1), "hard": _terms(3, 1)},
    "products": {"easy": _terms(2, 1), "hard": {**_terms(2, 1), "max_digits": 2}},
    "basic_arithmetic": {
        "easy": _terms(2, 1, allow_parentheses=False),
        "hard": _terms(3, 1, allow_parentheses=False),
    },
    "decimal_chain_sum": {
        "easy": _terms(2, 1, min_decimal_places=1, max_decimal_places=1),
        "hard": _terms(3, 1, min_decimal_places=1, max_decimal_places=1),
    },
    "gcd": {"easy": {"min_value": 1, "max_value": 12}, "hard": {"min_value": 2, "max_value": 40}},
    "lcm": {"easy": {"min_value": 1, "max_value": 6}, "hard": {"min_value": 2, "max_value": 12}},
    "fraction_simplification": {
        "easy": {"min_value": 1, "max_value": 5, "min_factor": 2, "max_factor": 3, "styles": ("plain",)},
        "hard": {"min_value": 1, "max_value": 9, "min_factor": 2, "max_factor": 5, "styles": ("plain",)},
    },
    "simple_equations": {
        "easy": {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 5},
        "hard": {"min_terms": 2, "max_terms": 3, "min_value": 1, "max_value": 10},
    },
    "letter_counting": {
        "easy": {"min_words": 1, "max_words": 1},
        "hard": {"min_words": 3, "max_words": 3},
    },
    "ransom_note": {
        "easy": {
            "min_note_length": 2,
            "max_note_length": 3,
            "min_magazine_length": 4,
            "max_magazine_length": 6,
        },
        "hard": {
            "min_note_length": 4,
            "max_note_length": 6,
            "min_magazine_length": 8,
            "max_magazine_length": 12,
        },
    },
    "isomorphic_strings": {
        "easy": {"min_string_length": 2, "max_string_length": 3},
        "hard": {"min_string_length": 4, "max_string_length": 6},
    },
    "coin_flip": {"easy": {"min_trials": 2, "max_trials": 2}, "hard": {"min_trials": 3, "max_trials": 4}},
    "needle_haystack": {
        "easy": {"min_num_statements": 2, "max_num_statements": 4},
        "hard": {"min_num_statements": 8, "max_num_statements": 12},
    },
}


def questions(per_family: int, seed: int) -> list[Question]:
    """`per_family` questions of every family and difficulty, in turns, so that a part is balanced too.

    A family with fewer distinct questions gives what it has.
    Some families of reasoning-gym iterate over sets of strings, whose order changes with each process. So all
    are drawn in a process whose hashes are fixed: a recording that goes on must ask what it asked before.
    Raises ModuleNotFoundError if reasoning-gym is not installed (extra `record`).
    """
    import reasoning_gym as _  # noqa: F401  here, not as a traceback of the other process

    drawn = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "router.questions", str(per_family), str(seed)],
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        check=True,
    )
    rows = json.loads(drawn.stdout)
    return [Question(**{**row, "answers": tuple(row["answers"]), "before": ()}) for row in rows]


def _draw(per_family: int, seed: int) -> list[Question]:
    import reasoning_gym

    columns: list[Sequence[Question]] = [_plain(per_family)]
    seen: set[str] = set()
    for family, settings in DIFFICULTIES.items():
        for difficulty, fields in settings.items():
            # Easy settings repeat themselves: draw more than asked and keep each text once.
            items = reasoning_gym.create_dataset(
                family, size=8 * per_family, seed=1000 * seed + len(columns), **fields
            )
            distinct = {item["question"].strip(): str(item["answer"]) for item in items}
            column = [
                Question(f"{family}-{difficulty}-{seed}-{i}", family, text, (answer,), difficulty)
                for i, (text, answer) in enumerate(distinct.items())
                if text not in seen  # a hard setting may draw an easy question
            ][:per_family]
            seen.update(question.text for question in column)
            columns.append(column)
    return [column[i] for i in range(per_family) for column in columns if i < len(column)]


def _plain(count: int) -> list[Question]:
    rows = json.loads((files("router") / "data" / "plain_questions.json").read_text())
    return [
        # Facts come as prose.
        Question(f"{PLAIN}-{i}", PLAIN, row["question"], tuple(row["answers"]), anywhere=True)
        for i, row in enumerate(rows[:count])
    ]


if __name__ == "__main__":
    print(json.dumps([asdict(question) for question in _draw(*map(int, sys.argv[1:]))]))
