"""What a strategy spends, in tokens processed and generated: the most it can, and what it is expected to.

Prompts count in every call, cached or not: that is what budgets are charged. Counted are the caller's prompt
(P tokens), completions of at most M tokens, n replies (or children a step), and what scoring reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from policies.arm_spec import STEPWISE, TREE_SEARCH, ArmSpec

FEEDBACK_TOKENS = 96  # what refinement says around a reply: what is wrong with it, and to try again
SCORE_TOKENS = 96  # what a scoring call says around the replies it reads, its verdict included
LINE_TOKENS = 12  # a step of a search ends with its line; SmolLM2-135M's lines have 10 to 17 tokens


@dataclass(frozen=True, slots=True)
class Load:
    """Engine calls with the tokens that they read and generate; adds up with `+`."""

    calls: float = 0.0
    prompt: float = 0.0
    completion: float = 0.0

    @property
    def total(self) -> float:
        """What a budget is charged."""
        return self.prompt + self.completion

    def __add__(self, other: Load) -> Load:
        return Load(self.calls + other.calls, self.prompt + other.prompt, self.completion + other.completion)


@dataclass(frozen=True, slots=True)
class Work:
    """A strategy's parameters, its samples (children a step in `STEPWISE`) and the sizes of its calls.

    `prompt_tokens` is P with what asking for reasoning adds.
    """

    spec: ArmSpec
    samples: int
    prompt_tokens: int
    max_tokens: int

    @property
    def longest_reply(self) -> int:
        """Tokens of one reply at most: a search's steps bound it too."""
        if self.spec.strategy in TREE_SEARCH:
            return min(self.max_tokens, self.spec.max_steps * self.spec.step_tokens)
        return self.max_tokens

    # -- the most

    def most(self) -> Load:
        """What a run can come to, as far as sizes are known before it: feedback and scoring are estimates.

        Samples: n (P + M). Refinement: a draft, P + M, and revisions that read the reply before them and what
        is wrong with it, P + M + feedback + M each. Searches: replies of at most L = min(M, s t) tokens. One
        that draws whole replies: n (P + L), wherever in the tree they begin. One that draws steps: in step
        i = 0, 1, ... s-1 each of n children reads the prompt and a path of min(i t, L) and adds min(t, L);
        steps end with their line, so a low M does not make them fewer. Both: one reply more, P + L, which a
        search writes at the end where it has none. To all of these, what scoring reads and says.
        """
        if self.spec.strategy in STEPWISE:
            return self._steps_most()
        replies = self.samples + (self.spec.strategy in TREE_SEARCH)
        load = self._replies(replies, self.longest_reply)
        if self.spec.strategy == "refine":
            load += self._reread(self.samples, self.max_tokens)
        return load + self._scoring(self.samples, self.longest_reply)

    def _steps_most(self) -> Load:
        step, reply = self.spec.step_tokens, self.longest_reply
        paths = [min(done * step, reply) for done in range(self.spec.max_steps)]
        read = [min(path + step, reply) for path in paths]
        load = self._replies(1, reply) + self._replies(self.samples * len(paths), min(step, reply))
        load += Load(prompt=self.samples * sum(paths))
        return load + self._scoring(self.samples, sum(read), len(paths))

    # -- what is expected

    def expected(self, completion_tokens: float, reply_tokens: float | None) -> Load:
        """`completion_tokens` of a run, with the prompts and the scoring that go with them.

        `reply_tokens` is the length of one reply, by which calls are counted; None: all samples are drawn.
        """
        if self.spec.strategy in STEPWISE:
            return self._steps_expected(completion_tokens)
        calls = float(self.samples)
        if reply_tokens:
            calls = min(calls, max(1.0, completion_tokens / reply_tokens))
        length = completion_tokens / calls
        load = self._replies(calls, length)
        if self.spec.strategy == "refine":
            load += self._reread(calls, length)
        if self.spec.strategy == "mcts":  # replies begin in the middle of others, on average
            load += Load(prompt=(calls - 1) * length / 2)
        return load + self._scoring(calls, length)

    def _steps_expected(self, completion_tokens: float) -> Load:
        """Every line is a call: it reads the prompt and half a path on average, and is scored."""
        calls = min(completion_tokens / self._line, float(self.samples * self.spec.max_steps))
        path = self._line * max(0.0, calls / self.samples - 1) / 2
        load = Load(calls, calls * (self.prompt_tokens + path), completion_tokens)
        return load + self._scoring(calls, path + self._line)

    def completions(self, reply_tokens: float) -> float:
        """Completion tokens of a run that draws all it may, with replies of this length."""
        if self.spec.strategy not in STEPWISE:
            return self.samples * reply_tokens
        steps = min(self.spec.max_steps, ceil(reply_tokens / self._line))
        return self.samples * steps * self._line

    @property
    def _line(self) -> int:
        return min(LINE_TOKENS, self.spec.step_tokens)

    # -- parts

    def _replies(self, calls: float, length: float) -> Load:
        return Load(calls, calls * self.prompt_tokens, calls * length)

    def _reread(self, calls: float, reply_tokens: float) -> Load:
        """What revisions read beside the prompt: the reply before them, and what is wrong with it."""
        return Load(prompt=(calls - 1) * (reply_tokens + FEEDBACK_TOKENS))

    def _scoring(self, replies: float, reply_tokens: float, rounds: int = 1) -> Load:
        """What scoring this many replies reads and says; nothing where the score comes with the reply.

        In `rounds` of so many replies each, `reply_tokens` is the sum of the rounds' lengths.
        judge: a knockout of pairs, each compared twice with swapped positions.
        """
        match self.spec.scorer:
            case "p_true" | "reward":
                asked, read = replies, reply_tokens
            case "judge":
                asked, read = 2 * max(0.0, replies - 1), 2 * reply_tokens
            case _:
                return Load()
        calls = rounds * asked
        return Load(calls, asked * read + calls * (self.prompt_tokens + SCORE_TOKENS - 1), calls)
