"""Manners: what is said around a question, and what is said where nothing is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence

from classifier.features.words import word_set

# Edges of a text are looked at this far: what is stripped there is short, and a search stays bounded.
_EDGE = 160
_MOST_WORDS = 16

_MANNERS = word_set(
    "please kindly thanks thank thx hello hi hey greetings dear help sorry appreciate appreciated grateful "
    "thankful cheers regards sincerely bother"
)
_AROUND = word_set(
    "you your u me my i i'm i'd i'll i've we it its it's this that the a an any some one all there could can "
    "would will may might be am is are was have had do did if to for with from of on in at and so very much "
    "many lot bunch ton really just again advance time assistance support help question questions problem "
    "task request following below quick small little favor favour mind let know need want wish like love "
    "glad happy hope well day morning afternoon evening everyone all assistant best kind warm excuse "
    "possible soon great nice good answer reply response"
)
# What a reply to is easy whatever came before it: nothing is asked.
_CLOSERS = word_set(
    "thanks thank thx ty tysm hello hi hey greetings bye goodbye cheers cool great perfect awesome nice "
    "wonderful excellent brilliant amazing lovely fantastic understood lol haha hooray yay appreciated "
    "appreciate welcome night morning afternoon evening clear helpful danke merci gracias grazie obrigado "
    "obrigada спасибо 谢谢 ありがとう 감사합니다"
)
# Assent: it closes a talk, or, after an offer, takes it up.
_ASSENT = word_set("ok okay k alright fine sure right yes yeah yep")
_DONE = word_set("all done got see sense nothing")
_CLOSING = (
    _CLOSERS
    | _ASSENT
    | word_set(
        "you u so very much a lot the that that's thats it its it's is was all for now your help i i'm me my "
        "got get see makes sense good have done day there in advance really are this and oh ah well works "
        "helps helped too kind of one more most be will later soon know what needed wanted need exactly just "
        "nothing else no nope nah questions friend buddy again great job work answer explanation everything "
        "today"
    )
)

_LEAD = re.compile(
    r"(?:(?:hi|hello|hey|greetings|dear)(?: (?:there|all|everyone|assistant))?[,!.]? |"
    r"(?:please|kindly),? |"
    r"(?:could|can|would|will) (?:you|u) (?:please |kindly |be so kind(?: as)? to |"
    r"mind (?=\w+ing))?(?:help me (?:to |with )?)?|"
    r"(?:i'd like|i would like|i want|i need) you to )",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?:^|[,;:\-–—]? +)(?:(?:many |no,? )?thanks(?: a lot| so much| very much| in advance| again)*|"
    r"thank you(?: a lot| so much| very much| in advance| again| kindly)*|please|cheers|thx|"
    r"(?:much|greatly) appreciated|(?:kind |best )?regards)[ .!?]*$",
    re.IGNORECASE,
)
# What `_TAIL` ends with: asking the last word first spares most sentences the search.
_TAIL_WORD = re.compile(
    "thanks|lot|much|advance|again|you|kindly|please|cheers|thx|appreciated|regards", re.IGNORECASE
)
_END_MARKS = " .!?"
_SPOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def spoken(text: str) -> list[str]:
    """The words of a short text, in small letters and with straight apostrophes."""
    return [word.lower().replace("’", "'") for word in _SPOKEN.findall(text)]


def nothing_asked(text: str, after_offer: bool = False) -> bool:
    """Whether a message only greets, thanks, or takes note; `after_offer`: of an assistant's question."""
    if len(text) > _EDGE or "?" in text or any("0" <= c <= "9" for c in text):
        return False
    words = spoken(text)
    if not words or not all(word in _CLOSING for word in words):
        return False
    told = set(words)
    return bool(told & _CLOSERS or told & _DONE) or (bool(told & _ASSENT) and not after_offer)


def without_manners(sentences: Sequence[str]) -> list[str]:
    """A text's sentences without those that are manners alone at its edges, and without "please" around a
    sentence; all of them if nothing else would be left."""
    first, last = 0, len(sentences)
    while first < last and _is_manners(sentences[first]):
        first += 1
    while first < last and _is_manners(sentences[last - 1]):
        last -= 1
    return [told for told in map(_bare, sentences[first:last]) if told] or list(sentences)


def _bare(sentence: str) -> str:
    """A sentence without its polite frame, which does not change what is asked."""
    start = 0
    while found := _LEAD.match(sentence, start, start + _EDGE):
        start = found.end()
    cut = max(start, len(sentence) - _EDGE)
    edge = sentence[cut:]
    while _may_end_politely(edge) and (tail := _TAIL.search(edge)):
        mark = edge[-1] if tail.group()[0] == "," and edge[-1] in ".?" else ""
        edge = edge[: tail.start()] + mark
    return sentence[start:cut] + edge


def _may_end_politely(edge: str) -> bool:
    told = edge.rstrip(_END_MARKS)
    return _TAIL_WORD.fullmatch(told, told.rfind(" ") + 1) is not None


def _is_manners(sentence: str) -> bool:
    if len(sentence) > _EDGE:
        return False
    words = spoken(sentence)
    return (
        0 < len(words) <= _MOST_WORDS
        and not any("0" <= c <= "9" for c in sentence)
        and any(word in _MANNERS for word in words)
        and all(word in _MANNERS or word in _AROUND for word in words)
    )
