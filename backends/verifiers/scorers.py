"""What scores replies, by the name an arm gives as its `scorer`."""

from __future__ import annotations

from collections.abc import Mapping

from backends.verifiers.base import Scorer
from backends.verifiers.likelihood import mean_logprob

SCORERS: Mapping[str, Scorer] = {"logprob": mean_logprob}
