"""The text that features are taken from: bounded, and the last question read with what it refers to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from classifier.features.courtesy import without_manners
from classifier.features.tokens import MAX_CHARS, bounded, is_number, plain, sentences, tokenize
from classifier.features.turns import Read, read_last

MAX_MESSAGES = 256
_SYSTEM_CHARS = 4_096

__all__ = ["MAX_CHARS", "MAX_MESSAGES", "View", "bounded", "is_number", "tokenize", "view"]


@dataclass(frozen=True, slots=True)
class View:
    """What a conversation asks. `question` is at most MAX_CHARS long; `chars` is its length uncut.

    `sentences` are those of the question, `spoken` (same length) their tokens. `nothing_asked`: the last
    turn only greets, thanks or takes note.
    """

    sentences: tuple[str, ...]
    spoken: tuple[tuple[str, ...], ...]
    chars: int
    system: str
    context_chars: int
    user_turns: int
    assistant_turns: int
    follow_up: bool
    nothing_asked: bool

    @property
    def question(self) -> str:
        """The sentences, one a line."""
        return "\n".join(self.sentences)

    @property
    def tokens(self) -> list[str]:
        """Of all sentences."""
        return list(chain.from_iterable(self.spoken))


def view(messages: Sequence[Mapping[str, str]]) -> View:
    """Read a conversation; never raises on odd content, and costs the same above MAX_CHARS.

    A last question that points back ("and with 17?", "yes, go on") is read together with what it points to
    (`turns.read_last`). Without any user turn the last message stands in for the question. Polite words
    around the question are left out.
    """
    recent = messages[-MAX_MESSAGES:]
    users: list[str] = []
    assistant_turns = context_chars = 0
    system = said = ""
    for message in recent:
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            continue
        if role == "user":
            users.append(content)
        elif role in ("system", "developer"):
            system = bounded(f"{system}\n{bounded(content, _SYSTEM_CHARS)}", _SYSTEM_CHARS)
        else:
            assistant_turns += 1
            said = content if role == "assistant" and content else said
        context_chars += len(content)
    read = read_last(users, said) if users else Read(_last_content(recent))
    own = len(read.base) + len(read.added or "")
    text = plain(_joined(read))
    parts = sentences(text) if read.nothing else without_manners(sentences(text))
    return View(
        sentences=tuple(parts),
        spoken=tuple(tuple(tokenize(part)) for part in parts),
        chars=own if own > MAX_CHARS else sum(map(len, parts)) + len(parts) - 1,
        system=system,
        context_chars=max(0, context_chars - own),
        user_turns=len(users),
        assistant_turns=assistant_turns,
        follow_up=read.follow_up,
        nothing_asked=read.nothing,
    )


def _joined(read: Read) -> str:
    if read.added is None:
        return bounded(read.base)
    return f"{bounded(read.base, MAX_CHARS // 2)}\n{bounded(read.added, MAX_CHARS // 2 - 1)}"


def _last_content(messages: Sequence[Mapping[str, str]]) -> str:
    content = messages[-1].get("content") if messages else ""
    return content if isinstance(content, str) else ""
