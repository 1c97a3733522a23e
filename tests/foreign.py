"""Outcome tables as others publish them, with a truth that is known: many arms, subjects, odd scores.

`python -m tests.foreign PROMPTS ARMS FILE [SEED]` writes one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

NAMES = (
    "mistralai/mistral-7b-chat",
    "gpt-4-1106-preview",
    "WizardLM/WizardLM-13B-V1.2",
    "claude-instant-v1",
    "claude-v1",
    "claude-v2",
    "gpt-3.5-turbo-1106",
    "meta/code-llama-instruct-34b-chat",
    "meta/llama-2-70b-chat",
    "mistralai/mixtral-8x7b-chat",
    "zero-one-ai/Yi-34B-Chat",
)
ABILITY = (-0.8, 1.9, -0.6, 0.2, 0.5, 0.4, 0.7, -0.3, 0.0, 0.6, 0.3)
TOKENS = (90.0, 260.0, 110.0, 130.0, 180.0, 170.0, 120.0, 150.0, 160.0, 140.0, 135.0)
SCORES = (0.0, 0.25, 0.5, 1.0)

# Subject -> words of its prompts, and how hard it is; arms have leanings of their own beside.
SUBJECTS: dict[str, tuple[str, float]] = {
    "mmlu-law": ("contract tort court plaintiff statute liability appeal defendant", 0.6),
    "mmlu-biology": ("cell enzyme protein membrane species gene tissue organism", -0.4),
    "hellaswag": ("woman man kitchen bike street camera crowd music", -1.0),
    "mbpp": ("python function list string return integer tuple sort", 0.5),
    "winogrande": ("because trophy suitcase Sarah Maria blamed forgave thanked", 0.1),
}
FILLING = """which of these would then be most likely when the first one has already been
done before it"""
WORDS = FILLING.split()


@dataclass(frozen=True, slots=True)
class Foreign:
    """`lines` of the table, and the truth: `means` (prompts, arms), the expected score of each."""

    arms: tuple[str, ...]
    lines: tuple[str, ...]
    means: Matrix
    scores: Matrix

    def write(self, path: Path) -> Path:
        path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        return path

    def conversations(self) -> list[list[dict[str, str]]]:
        return [json.loads(line)["messages"] for line in self.lines[:: len(self.arms)]]

    def regret(self, p: Matrix) -> float:
        """Expected score that is lost by argmax p against knowing the truth."""
        chosen = self.means[np.arange(len(p)), p.argmax(axis=1)]
        return float((self.means.max(axis=1) - chosen).mean())


def foreign(prompts: int, arms: int, seed: int = 0, *, leaning: float = 1.6) -> Foreign:
    """Subjects in turn; a prompt is the harder, the larger its numbers and the more steps it has.

    Arms lean towards subjects (a deviation of `leaning` in logits; the same for every seed).
    """
    rng = np.random.default_rng(seed)
    ability = np.array(ABILITY[:arms])
    lean = leaning * np.random.default_rng(99).normal(size=(len(SUBJECTS), arms))
    lines, means, scores = [], np.empty((prompts, arms)), np.empty((prompts, arms))
    for number in range(prompts):
        at = number % len(SUBJECTS)
        name, (words, hard) = list(SUBJECTS.items())[at]
        steps = int(rng.integers(1, 7))
        told = " ".join(rng.choice(words.split() + WORDS, size=8 + 4 * steps))
        text = f"{told.capitalize()} {int(rng.integers(10**steps))}? {number}"
        logits = ability + lean[at] - hard - 0.5 * (steps - 3.5)
        p = 1.0 / (1.0 + np.exp(-logits))
        # half credit, and a quarter, for some of what is not right
        missed = 1.0 - p
        chances = np.stack([0.7 * missed, 0.15 * missed, 0.15 * missed, p], axis=1)
        means[number] = chances @ np.array(SCORES)
        for arm in range(arms):
            scores[number, arm] = rng.choice(SCORES, p=chances[arm])
            row = {
                "prompt_id": f"{name}.{number}",
                "messages": [{"role": "user", "content": text}],
                "family": name,
                "arm": NAMES[arm],
                "score": scores[number, arm],
                "prompt_tokens": len(text) // 4,
                "completion_tokens": round(TOKENS[arm] * float(rng.lognormal(0.0, 0.4)), 1),
            }
            lines.append(json.dumps(row))
    return Foreign(NAMES[:arms], tuple(lines), means, scores)


if __name__ == "__main__":
    count, many, file, *seed = sys.argv[1:]
    foreign(int(count), int(many), int(seed[0]) if seed else 0).write(Path(file))
