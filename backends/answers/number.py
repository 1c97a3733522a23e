"""Numbers as people write them, as canonical fractions: digits only, nothing is evaluated."""

from __future__ import annotations

import re
from fractions import Fraction

from backends.answers.limits import MAX_DIGITS, MAX_SCAN_CHARS

TRIM = " \t\r\n*_`\"'“”‘’.,;:!?$()[]{}"
NUMBER = re.compile(r"(?<![\w.])[-+−]?\$?\d[\d,]*(?:\.\d+)?(?:\s?/\s?\d+)?(?![\d])")
_BARE_DECIMAL = re.compile(r"^([\s*_`$(]*[-+−]?)\.(?=\d)")


def canonical_number(text: str) -> str | None:
    """The number that `text` is, as a canonical fraction; None if it is none or too long."""
    cleaned = _BARE_DECIMAL.sub(r"\g<1>0.", text)
    cleaned = cleaned.strip(TRIM).replace(",", "").replace("$", "").replace("−", "-").replace(" ", "")
    cleaned = cleaned.rstrip("%")
    if not cleaned or len(cleaned) > MAX_DIGITS or not re.fullmatch(r"[-+]?\d+(\.\d+)?(/\d+)?", cleaned):
        return None
    numerator, _, denominator = cleaned.partition("/")
    if denominator and int(denominator) == 0:
        return None
    return str(Fraction(numerator) / Fraction(denominator or "1"))


def last_number(text: str) -> str | None:
    """The last number in `text` in canonical form."""
    for match in reversed(list(NUMBER.finditer(text[-MAX_SCAN_CHARS:]))):
        if (number := canonical_number(match.group())) is not None:
            return number
    return None
