"""Answers out of texts: extraction to a canonical form, so that votes are compared and not prose.

Two answers are equivalent when their canonical forms are equal: `1,000` = `1000.0` = `$1000`,
`1/2` = `0.5` = `\\frac{1}{2}`, `(b)` = `B`, JSON up to key order and white space, LaTeX up to spacing and
spelling, short text up to case and punctuation. What such a form cannot see, `\\frac{1}{\\sqrt2}` =
`\\frac{\\sqrt2}{2}`, is asked of another process (`classes`, `equivalence`). In this one nothing is
evaluated: numbers go through `fractions.Fraction` on bounded digits.
"""

from backends.answers.extraction import Kind, extract, matches
from backends.answers.limits import MAX_ANSWER_CHARS, MAX_DIGITS, MAX_SCAN_CHARS
from backends.answers.number import canonical_number, last_number

__all__ = [
    "MAX_ANSWER_CHARS",
    "MAX_DIGITS",
    "MAX_SCAN_CHARS",
    "Kind",
    "canonical_number",
    "extract",
    "last_number",
    "matches",
]
