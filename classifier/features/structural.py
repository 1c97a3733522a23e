"""Columns that can be named: sizes of numbers, operators, wh-words, formats, turns, language."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from classifier.features.text import View
from classifier.features.tokens import is_number
from classifier.features.words import COLUMNS_OF, GROUPS, word_set

# Token or word in small letters -> how often it is there.
Counts = Mapping[str, int]

_OPERATORS = {"+": 0, "-": 1, "−": 1, "*": 2, "×": 2, "x": 2, "X": 2, "/": 3, "÷": 3, "^": 4}
_OP_NAMES = ("add", "sub", "mul", "div", "pow")

_PRODUCTS = word_set("times multiply multiplied product")
_SUMS = word_set("plus minus sum add subtract difference")
_WH = ("what", "which", "who", "where", "when", "why", "how")
_YES_NO = word_set("is are was were do does did can could will would should has have")
_SYMBOLS = ("?", "=", "(", "%", "$", "\\", "{", "}", ";", "[", "<", '"', ":", ",", ".", "!", "`", "#", "|")

NAMES: tuple[str, ...] = (
    *(
        "chars",
        "words",
        "lines",
        "sentences",
        "mean_word",
        "longest_word",
        "longest_quoted",
        "distinct_words",
    ),
    *("last_word", "after_colon"),
    *("numbers", "max_digits", "second_digits", "sum_digits", "decimals"),
    *(f"op_{name}" for name in _OP_NAMES),
    *("terms", "chain_digits", "chain_min_digits"),
    *("kind_none", "kind_sum", "kind_product", "kind_other"),
    *GROUPS,
    *(f"wh_{word}" for word in _WH),
    *("wh_yes_no", "how_many"),
    *(f"symbol_{index}" for index in range(len(_SYMBOLS))),
    *("code_fence", "latex", "choices"),
    *("digit_share", "space_share", "non_ascii_share", "cjk_share"),
    *("user_turns", "assistant_turns", "follow_up", "context_chars", "system_chars", "system_format"),
    "nothing_asked",
)
COUNT = len(NAMES)
INDEX: dict[str, int] = {name: index for index, name in enumerate(NAMES)}
# From here on: what stands around the question, not in it.
AROUND = INDEX["user_turns"]


def structural(view: View) -> NDArray[np.float64]:
    """The named columns of one conversation, shape (COUNT,), finite; counts of text grow as log(1+n)."""
    tokens, question = view.tokens, view.question
    counted = Counter(tokens)
    words: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for token, count in counted.items():
        if token[0].isalpha():
            word = token.lower()
            words[word] = words.get(word, 0) + count
        elif is_number(token):
            numbers[token] = count
    values = [
        *_sizes(view, question, words),
        *_numbers(numbers),
        *_arithmetic(tokens, words),
        *_word_groups(words),
        *_question(view, tokens, words),
        *_symbols(question),
        *_script(question),
        math.log1p(view.user_turns),
        math.log1p(view.assistant_turns),
        float(view.follow_up),
        math.log1p(view.context_chars),
        math.log1p(len(view.system)),
        float(any(word in view.system.lower() for word in ("json", "only", "format", "step"))),
        float(view.nothing_asked),
    ]
    return np.array(values, dtype=np.float64)


def _sizes(view: View, text: str, words: Counts) -> list[float]:
    """What is quoted, and what follows a colon, is looked for within a sentence: their order is free."""
    spoken = sum(words.values())
    letters = sum(len(word) * count for word, count in words.items())
    quoted = [p for s in view.sentences for p in s.split('"')[1::2]] if '"' in text else ()
    after = [len(s) - s.rfind(":") for s in view.sentences if ":" in s] if ":" in text else ()
    # a line that does not end a sentence: a list, a table, code
    lines = sum(1 for s in view.sentences[:-1] if s[-1:] not in (".", "!", "?"))
    return [
        math.log1p(view.chars),
        math.log1p(spoken),
        math.log1p(lines),
        math.log1p(len(view.sentences) - 1),
        letters / spoken if spoken else 0.0,
        float(min(max(map(len, words), default=0), 40)),
        math.log1p(max((len(part) for part in quoted), default=0)),
        len(words) / spoken if spoken else 0.0,
        float(min(len(_last_word(view)), 40)),
        math.log1p(max(after) - 1) if after else 0.0,
    ]


def _last_word(view: View) -> str:
    return next((t.lower() for s in reversed(view.spoken) for t in reversed(s) if t[0].isalpha()), "")


def _numbers(numbers: Counts) -> list[float]:
    """Sizes are counted in digits before the point: no number is ever parsed, so none is too long."""
    digits = sorted(
        (size for number, count in numbers.items() for size in repeat(_digits(number), count)), reverse=True
    )
    return [
        math.log1p(len(digits)),
        float(digits[0]) if digits else 0.0,
        float(digits[1]) if len(digits) > 1 else 0.0,
        math.log1p(sum(digits)),
        math.log1p(sum(count for number, count in numbers.items() if "." in number)),
    ]


def _digits(number: str) -> int:
    whole = number.split(".", 1)[0].replace(",", "")
    return min(len(whole.lstrip("0")) or 1, 20)


def _arithmetic(tokens: Sequence[str], words: Counts) -> list[float]:
    """Operators by kind, the longest chain of them (in terms) and the digits of its operands."""
    counts = [0] * len(_OP_NAMES)
    terms, longest, last = 0, 0, -10
    smallest, largest = 20, 0
    for index in [i for i, token in enumerate(tokens) if token in _OPERATORS]:
        if not _is_operation(tokens, index):
            continue
        counts[_OPERATORS[tokens[index]]] += 1
        # "2 + (3 * 4)" is one chain: operators at most one bracketed operand apart
        linked = index - last <= 5 and all(_operand(t) or t in "()-" for t in tokens[last + 1 : index])
        terms = terms + 1 if linked else 2
        longest, last = max(longest, terms), index
        for side in (tokens[index - 1], tokens[index + 1]):
            if is_number(side):
                size = _digits(side)
                smallest, largest = min(smallest, size), max(largest, size)
    add, sub, mul, div, power = counts
    spoken_mul = not _PRODUCTS.isdisjoint(words)
    spoken_sum = not _SUMS.isdisjoint(words)
    product = mul > 0 or spoken_mul
    other = div + power > 0
    sums = (add + sub > 0 or spoken_sum) and not product and not other
    return [
        *(math.log1p(count) for count in counts),
        float(min(longest, 12)),
        float(largest),
        float(smallest) if largest else 0.0,
        *(float(flag) for flag in (not (product or other or sums), sums, product, other)),
    ]


def _operand(token: str) -> bool:
    return is_number(token) or (len(token) == 1 and token.isalpha())


def _is_operation(tokens: Sequence[str], index: int) -> bool:
    """Between operands, at least one of them a number or a bracket: not a dash, a bullet or "and/or"."""
    if not 0 < index < len(tokens) - 1:
        return False
    left, right = tokens[index - 1], tokens[index + 1]
    if tokens[index] in "xX":
        return is_number(left) and is_number(right)
    if not ((_operand(left) or left == ")") and (_operand(right) or right in "(-")):
        return False
    return is_number(left) or is_number(right) or left == ")" or right == "("


def _word_groups(words: Counts) -> list[float]:
    counts = [0] * len(GROUPS)
    for word in words.keys() & COLUMNS_OF.keys():
        for column in COLUMNS_OF[word]:
            counts[column] += words[word]
    return [math.log1p(count) for count in counts]


def _question(view: View, tokens: Sequence[str], words: Counts) -> list[float]:
    begun = any(spoken[0].lower() in _YES_NO for spoken in view.spoken if spoken)
    how_many = "how" in words and ("many" in words or "much" in words) and _asks_how_many(tokens)
    flags = [word in words for word in _WH]
    return [float(flag) for flag in (*flags, begun, how_many)]


def _asks_how_many(tokens: Sequence[str]) -> bool:
    """Whether "many" or "much" is the next word after some "how"."""
    after = False
    for token in tokens:
        if not token[0].isalpha():
            continue
        if after and token.lower() in ("many", "much"):
            return True
        after = len(token) == 3 and token.lower() == "how"
    return False


def _symbols(text: str) -> list[float]:
    count: Callable[[str], int] = text.count
    counts = [math.log1p(count(symbol)) for symbol in _SYMBOLS]
    low = text.lower()
    latex = "\\frac" in low or "\\(" in text or "$$" in text or "\\sqrt" in low or "\\begin" in low
    # "A." ends a sentence, so a line ends there
    dotted = all(f"\n{mark}\n" in f"\n{low}\n" or f" {mark}\n" in f"{low}\n" for mark in ("a.", "b."))
    choices = ("a)" in low and "b)" in low) or "(a)" in low or dotted
    return [*counts, math.log1p(count("```")), float(latex), float(choices)]


def _script(text: str) -> list[float]:
    """Capitals are no column: a text that is shouted is not harder."""
    if not text:
        return [0.0] * 4
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    size = codes.size
    return [
        np.count_nonzero((codes >= 48) & (codes <= 57)) / size,
        np.count_nonzero(codes <= 32) / size,
        np.count_nonzero(codes > 127) / size,
        np.count_nonzero((codes >= 0x3040) & (codes <= 0x9FFF)) / size,
    ]
