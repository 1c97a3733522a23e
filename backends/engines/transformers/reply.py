"""One reply as it grows: its tokens as the manager tells them, its text, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backends.engines.base import Completion
from backends.engines.transformers.text import Detokenizer, StopText


class Reply:
    """Collects what the manager generated for one request.

    `decode` turns tokens into text, `ends` are the tokens that end a reply. `tokens` counts all that were
    generated, those after a stop string too.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        ends: frozenset[int],
        prompt: Sequence[int],
        stops: Sequence[str],
    ) -> None:
        self._prompt_tokens = len(prompt)
        self._ends = ends
        self._text = Detokenizer(decode, prompt)
        self._stop = StopText(stops)
        self._shown: list[str] = []
        self._ended = False
        self.tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: whatever comes after it is of no use."""
        return self._stop.hit is not None

    def take(self, generated: Sequence[int]) -> str:
        """The text that is new; `generated` are all tokens from the start of the reply."""
        fresh = generated[self.tokens :]
        self.tokens = len(generated)
        if self.stopped or not fresh:
            return ""
        self._ended = fresh[-1] in self._ends
        return self._show(self._stop.push(self._text.push(fresh[:-1] if self._ended else fresh)))

    def flush(self) -> str:
        """The last of the text, when no token will come any more."""
        if self.stopped:
            return ""
        return self._show(self._stop.push(self._text.flush()) + self._stop.flush())

    def completion(self, logprobs: Sequence[float], cached_tokens: int) -> Completion:
        return Completion(
            text="".join(self._shown),
            finish="stop" if self._ended or self.stopped else "length",
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self.tokens,
            cached_tokens=cached_tokens,
            stop_string=self._stop.hit,
            logprobs=tuple(logprobs),
        )

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text
