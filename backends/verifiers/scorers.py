"""What scores replies, by the name an arm gives as its `scorer`."""

from __future__ import annotations

from collections.abc import Mapping

from backends.verifiers.arithmetic import arithmetic
from backends.verifiers.base import Scorer
from backends.verifiers.caller_check import caller_check
from backends.verifiers.judge import judge
from backends.verifiers.likelihood import mean_logprob
from backends.verifiers.p_true import p_true
from backends.verifiers.reward import reward
from backends.verifiers.self_certainty import CERTAINTY, self_certainty

SCORERS: Mapping[str, Scorer] = {
    "check": caller_check,
    "arithmetic": arithmetic,
    "logprob": mean_logprob,
    "p_true": p_true,
    CERTAINTY: self_certainty,
    "judge": judge,
    "reward": reward,
}
