"""From tokens to text while they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CONTEXT_TOKENS = 6  # of the prompt: some tokenizers drop a blank at the start of what they decode
NOT_A_CHARACTER = "\ufffd"  # what the bytes of half a character decode to


class Detokenizer:
    """Decodes the tokens that follow `prompt`; a character is given out once all its tokens are there.

    Only the tokens since the last whole character are decoded again, so a long reply costs no more a token
    than a short one.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._window = list(prompt[-CONTEXT_TOKENS:])
        self._read = len(self._window)

    def push(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""
        self._window += tokens
        before, text = self._decode(self._window[: self._read]), self._decode(self._window)
        if len(text) <= len(before) or text.endswith(NOT_A_CHARACTER):
            return ""
        del self._window[: self._read]
        self._read = len(self._window)
        return text[len(before) :]

    def flush(self) -> str:
        """What is left at the end of the reply, without half a character."""
        before, text = self._decode(self._window[: self._read]), self._decode(self._window)
        del self._window[: self._read]
        self._read = len(self._window)
        return text[len(before) :].rstrip(NOT_A_CHARACTER)


class StopText:
    """Lets text through up to the first stop string, and holds back what may be the start of one.

    The stop string that is complete first ends the text, so the size of the pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """The part of what came so far that is certainly of the reply; nothing after a hit."""
        if self.hit is not None:
            return ""
        self._held += text
        found = [(self._held.find(stop), stop) for stop in self._stops]
        ends = [(at + len(stop), at, stop) for at, stop in found if at >= 0]
        if ends:
            _, at, self.hit = min(ends)
            safe, self._held = self._held[:at], ""
            return safe
        kept = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        split = len(self._held) - kept
        safe, self._held = self._held[:split], self._held[split:]
        return safe

    def flush(self) -> str:
        """What was held back, when the reply ended without a stop string."""
        safe, self._held = self._held, ""
        return safe


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
