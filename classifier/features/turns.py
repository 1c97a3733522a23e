"""What a conversation's last turn means in the light of the turns before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from classifier.features.courtesy import nothing_asked
from classifier.features.tokens import is_number, tokenize
from classifier.features.words import word_set

# Further back nobody points.
_LOOK_BACK = 32
# Longer turns stand alone: nobody says "go on" in so many letters.
_MOST_CHARS = 400
_MOST_TOKENS = 24
_MOST_WORDS = 12

# "continues" adds nothing to what was asked; "adds" changes it a little.
Kind = Literal["alone", "continues", "adds", "nothing"]

_OPENERS = word_set("and or now again also then but so ok okay yes no y und et e pero aber mais")
_ASKS_ABOUT = (["what", "about"], ["how", "about"], ["what", "if"])
_POINTERS = word_set("it them they these those same again instead previous above former latter both")
# "that" points where nothing hangs on it: "translate that into French", not "is it true that".
_AFTER_THAT = word_set(
    "to in into with for as again by at from on and or instead please mean means work works"
)
# Without any other word a turn only asks for more of what there was.
_THIN = (
    _OPENERS
    | _POINTERS
    | word_set(
        "a an the of for to in on at by with from as is are was were be been do does did done can could "
        "would will should must may i you we me us my your our this that there here if not don't that's it's "
        "i'm let's let who what which where when why how go continue carry keep going more further next last "
        "earlier other another others one rest result answer please try think explain elaborate clarify show "
        "tell give say check verify recheck redo repeat retry reconsider rethink step steps detail details "
        "detailed careful carefully sure really certain wrong incorrect mistake error correct right true too "
        "just only still yet very much well hmm oh wait proceed yeah yep yup alright fine thanks thank great "
        "nice good perfect once first second third fourth fifth part question problem time way work working "
        "out over up down clearly quickly slowly harder easier differently about like mean finish complete "
        "make any else look see doesn't didn't isn't ja nein weiter bitte mach warum noch mal nochmal oui "
        "non continuez pourquoi encore si sí sigue continua por qué porque perché ancora "
        "继续 为什么 好的 はい 続けて なぜ да нет дальше почему"
    )
)


@dataclass(frozen=True, slots=True)
class Read:
    """What the last turn asks: `base` (it, or the turn it points to) and what it `added` to that.

    `nothing`: it greets, thanks or takes note, and asks nothing.
    """

    base: str
    added: str | None = None
    follow_up: bool = False
    nothing: bool = False


def read_last(users: Sequence[str], said_before: str) -> Read:
    """Read the last of the user's turns (one or more) in the light of those before.

    A turn that points back is read with the latest one that stands alone, and with the latest one since that
    added something; a turn that adds nothing is not read itself. Without such a turn it is read with
    `said_before`, the assistant's last words.
    """
    last = users[-1]
    kind = kind_of(last, said_before)
    if kind in ("alone", "nothing"):
        return Read(last, nothing=kind == "nothing")
    added = last if kind == "adds" else None
    base = None
    for turn in reversed(users[-1 - _LOOK_BACK : -1]):
        kind = kind_of(turn)
        if kind == "nothing":
            continue
        base = turn
        if kind == "alone":
            break
        if kind == "adds" and added is None:
            added = turn
    base = base or said_before
    if not base:
        return Read(last)
    return Read(base, None if added == base else added, follow_up=True)


def kind_of(text: str, said_before: str = "") -> Kind:
    """What a turn adds to those before it, by its words alone."""
    if len(text) > _MOST_CHARS:
        return "alone"
    if nothing_asked(text, after_offer=said_before.rstrip().endswith("?")):
        return "nothing"
    tokens = tokenize(text)
    if not tokens or len(tokens) > _MOST_TOKENS:
        return "alone"
    words = [token.lower().replace("’", "'") for token in tokens if token[0].isalpha()]
    numbers = sum(1 for token in tokens if is_number(token))
    told = sum(1 for word in words if word not in _THIN)
    opens = bool(words) and (words[0] in _OPENERS or words[:2] in _ASKS_ABOUT)
    if numbers >= 2:
        return "adds" if opens else "alone"
    if not told:
        return "adds" if numbers else "continues"
    if len(words) > _MOST_WORDS:
        return "alone"
    points = told <= 5 and _points(words)
    short = told == 1 and len(words) <= 3
    return "adds" if points or short or (opens and told <= 2) else "alone"


def _points(words: Sequence[str]) -> bool:
    if any(word in _POINTERS for word in words):
        return True
    return any(
        word in ("that", "this") and (at + 1 == len(words) or words[at + 1] in _AFTER_THAT)
        for at, word in enumerate(words)
    )
