"""What must be equal in two questions before their likeness counts.

A sentence embedding hardly moves when a number, a name or a "not" changes, and the answer does. What is named
here goes into the key of the questions that are compared at all; order counts, since "5 - 7" is not "7 - 5".
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files

_WORDS = json.loads(files("router").joinpath("data", "turning_words.json").read_text(encoding="utf-8"))
# Words that can be exchanged for one another, or left out, and the question stays what it was.
_PLAIN = frozenset(_WORDS.pop("plain"))
_KIND = {word: kind for kind, words in _WORDS.items() for word in words}
_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|«([^»]*)»|`([^`]*)`|(?<!\w)\'([^\']+)\'(?!\w)')
_TOKEN = re.compile(r"\d+(?:[.,:/]\d+)*|\w+(?:['’]\w+)*|[^\w\s]")
_ENDS = frozenset(".!?:")
# What says nothing by itself; a question mark more or less is the same question.
_SILENT = frozenset(".,;:!?'’\"“”«»`()-–—")


def marks(text: str) -> list[str]:
    """What a likeness may not cross, in order: numbers, signs, names, quotations, words that turn a meaning.

    Names are words with a capital that does not begin a sentence, and words with digits, underscores or
    capitals inside. Empty for a text in which nothing of it occurs.
    """
    text = unicodedata.normalize("NFKC", text)
    found = ["quoted " + "".join(part or "" for part in match) for match in _QUOTED.findall(text)]
    begins = True
    for match in _TOKEN.finditer(text):
        token = match[0]
        mark = _mark(token, begins)
        if mark is not None:
            found.append(mark)
        begins = token in _ENDS or (begins and token in _SILENT)
    return found


def _mark(token: str, begins: bool) -> str | None:
    if token[0].isdigit():
        return "number " + token
    if not (token[0].isalnum() or token[0] == "_"):
        return None if token in _SILENT else "sign " + token
    word = token.replace("’", "'").replace("'", "").casefold()
    if "n't" in token.casefold().replace("’", "'"):
        return "negation not"
    kind = _KIND.get(word)
    if kind == "negation" and word in ("not", "no", "cannot", "cant", "dont"):
        return "negation not"
    if kind is not None:
        return f"{kind} {word}"
    inside = token[1:] != token[1:].lower() or any(c.isdigit() or c == "_" for c in token)
    name = token[0].isupper() and not begins and word != "i"
    return "name " + word if inside or name else None


def content(text: str) -> list[str]:
    """The words that carry the question, in order, whatever their case."""
    told = re.findall(r"\w+", unicodedata.normalize("NFKC", text))
    return [word for word in (each.casefold() for each in told) if word not in _PLAIN]


def minimal_pair(one: Sequence[object], other: Sequence[object]) -> bool:
    """Whether two questions' words (or digests of them) differ by one of them, or by their order alone.

    That is how questions look that are alike and mean something else: legal, illegal; who chases whom.
    A paraphrase changes more, or only what `content` leaves out.
    """
    if len(one) != len(other) or one == other:
        return False
    apart = sum(a != b for a, b in zip(one, other, strict=True))
    return apart == 1 or Counter(one) == Counter(other)
