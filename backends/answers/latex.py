r"""LaTeX answers in a canonical spelling: `\dfrac12` = `\frac{1}{2}` = `1/2`, `\left(1, 2\right)` = `(1,2)`.

Rewriting of text alone: nothing is parsed as mathematics and nothing is evaluated.
"""

from __future__ import annotations

import re

from backends.answers.limits import MAX_ANSWER_CHARS
from backends.answers.number import canonical_number

_WRAPPED = re.compile(
    r"\$\$(.{1,400}?)\$\$|\$([^$]{1,400}?)\$|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_UNIT = re.compile(_TEXT.pattern + r"(?:\s*\^\s*\{?-?[1-3]\}?)?")
_INVISIBLE = re.compile(
    r"\\(?:left|right|displaystyle|limits|[bB]igg?[lr]?)(?![a-zA-Z])|\\[!,;:> ]|\\q?quad(?![a-zA-Z])|~"
)
_DEGREES = re.compile(r"\^\{?\\circ\}?|\\degree(?![a-zA-Z])|°")
_TAIL = re.compile(r"(?:\\?%|[.,;:])+$")
_SPELLINGS = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\times(?![a-zA-Z])|\*|×|·"), r"\\cdot "),
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])|≤|<="), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])|≥|>="), r"\\ge "),
    (re.compile(r"\\(?:neq)(?![a-zA-Z])|≠"), r"\\ne "),
    (re.compile(r"\\(?:lbrace)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"π"), r"\\pi "),
    (re.compile(r"∞"), r"\\infty "),
    (re.compile(r"√(\d+)"), r"\\sqrt{\1}"),
    (re.compile(r"−"), "-"),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), ""),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z]))"), r"\\sqrt{\1}"),
    (re.compile(r"([\^_])\s*\{([^{}\\])\}"), r"\1\2"),
)
_SPACE = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])|\s+")  # the one after a command, before a letter, counts
_FRACTION = re.compile(r"([-+]?)(\d*)\\frac\{(-?\d+)\}\{(\d+)\}")
# "x = 5", "f(x) = 5", "2 \cdot 3 = 6": the answer is on the right; of "x^2 + y^2 = 1" it is the whole.
_ASSIGNED = re.compile(
    r"^(?:[a-zA-Z](?:_\w)?(?:\([a-zA-Z]\))?|(?:\\(?:cdot|div|frac|sqrt) ?|[^a-zA-Z=<>\\])+)=(.+)$"
)
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_OPERATOR = re.compile(r"[-+*/^_=<>]")
_LIST = re.compile(r"^[\[(].*,.*[\])]$")


def formulas(text: str) -> list[str]:
    r"""What stands between `$`, `$$`, `\(` `\)` or `\[` `\]`, in order."""
    return [next(part for part in match.groups() if part is not None) for match in _WRAPPED.finditer(text)]


def canonical_latex(text: str) -> str | None:
    r"""The canonical spelling of a formula; None where `text` is prose, too long, or braces do not match.

    A plain number or fraction becomes a canonical number (`canonical_number`), text in `\text{}` alone its
    words in lower case. Units, degrees, a percent sign and the `x =` of an assignment are left out.
    """
    body = text.strip()
    if (whole := _WRAPPED.fullmatch(body)) is not None:
        body = next(part for part in whole.groups() if part is not None).strip()
    if len(body) > 2 * MAX_ANSWER_CHARS:
        return None
    if (only_text := _TEXT.fullmatch(body.rstrip(" ."))) is not None:
        return " ".join(only_text.group(1).strip(" .()").casefold().split()) or None
    # What is left of \text{} is a unit or a word like "or": neither changes which number it is.
    body = _UNIT.sub(" ", body)
    body = _INVISIBLE.sub(" ", body.replace("\\$", "").replace("$", ""))
    body = _DEGREES.sub("", body)
    for pattern, spelling in _SPELLINGS:
        body = pattern.sub(spelling, body)
    if _WORD.search(body) or not _balanced(body):
        return None
    body = _SPACE.sub(lambda found: f"{found[1]} " if found[1] else "", body)
    body = _TAIL.sub("", body)
    while (assigned := _ASSIGNED.match(body)) is not None:
        body = assigned.group(1)
    if not body or len(body) > MAX_ANSWER_CHARS:
        return None
    return _number(body) or body


def looks_like_latex(answer: str) -> bool:
    """Whether a canonical answer is a formula, so that another spelling may mean the same."""
    if _WORD.search(answer) or '"' in answer:  # prose, or JSON
        return False
    return "\\" in answer or bool((_LIST.match(answer) or _OPERATOR.search(answer)) and not _number(answer))


def _number(body: str) -> str | None:
    if _LIST.match(body) or body[:1] in "([{" or body[:2] == "\\{":
        return None
    fraction = _FRACTION.fullmatch(body)
    if fraction is None:
        return canonical_number(body)
    sign, whole, over, under = fraction.groups()
    if whole and over.startswith("-"):
        return None
    # "1\frac{1}{2}" is a mixed number in an answer, never a product.
    top = int(whole) * int(under) + int(over) if whole else int(over)
    return canonical_number(f"{-top if sign == '-' else top}/{under}")


def _balanced(body: str) -> bool:
    depth = 0
    for mark in re.sub(r"\\[{}]", "", body):
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if depth < 0:
            return False
    return depth == 0
