"""The quick passes over a text do what the plain ones would: each against its one-line specification."""

from __future__ import annotations

import hashlib
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from classifier.features import extract
from classifier.features.courtesy import _TAIL, _may_end_politely
from classifier.features.lexical import lexical
from classifier.features.structural import INDEX, structural
from classifier.features.text import view
from classifier.features.tokens import plain, sentences, tokenize
from classifier.tables import read_table

TABLE = Path(__file__).parents[2] / "benchmarks/data/smollm2_135m.jsonl"

TOKEN = re.compile(r"[0-9]+(?:[.,][0-9]+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\w\s]")
BLANKS, BREAKS = re.compile(r"[^\S\n]+"), re.compile(r" ?\n[\n ]*")
ENDED_LINE, SENTENCE = re.compile(r"(?<=[.!?])\n"), re.compile(r"(?<=[.!?]) |\n")

# Letters that change their number or their form with their case, digits that are no ASCII ones, odd blanks.
odd = st.text(
    alphabet="aAzΣςßİıſK²½٣0123456789.,!?;:'’\"_-+*/= \t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u3000", max_size=80
)
texts = st.text(max_size=200) | odd | st.text(alphabet=st.characters(max_codepoint=127), max_size=120)


@given(texts)
@settings(max_examples=500, deadline=None)
def test_tokens(text: str) -> None:
    assert tokenize(text) == TOKEN.findall(text)


@given(texts)
@example(" \n. \nfoo.\n\n bar ")
@settings(max_examples=500, deadline=None)
def test_blanks_breaks_and_sentences(text: str) -> None:
    told = ENDED_LINE.sub(" ", BREAKS.sub("\n", BLANKS.sub(" ", text))).strip()
    assert plain(text) == told
    assert sentences(told) == SENTENCE.split(told)


POLITE = """a lot so much very in advance again kindly please thanks thank you Thx THANKS pleaſe cheers
regards kind best no many greatly appreciated sum 7 x , ; : . ! ? – Kindly"""
words = st.sampled_from(POLITE.split())


@given(
    st.lists(words, max_size=8), st.sampled_from(["", " ", ".", "!!", " ?"]), st.sampled_from(["", " ", ", "])
)
@settings(max_examples=500, deadline=None)
def test_no_polite_tail_is_passed_over(said: list[str], end: str, glue: str) -> None:
    edge = (glue or " ").join(said) + end
    if _TAIL.search(edge):
        assert _may_end_politely(edge)


@given(texts)
@settings(max_examples=300, deadline=None)
def test_what_is_counted_by_distinct_tokens_is_what_is_counted_one_by_one(text: str) -> None:
    seen = view([{"role": "user", "content": text}])
    said = [token.lower() for token in seen.tokens if token[0].isalpha()]
    found = structural(seen)
    lengths = [len(word) for word in said]
    assert found[INDEX["words"]] == math.log1p(len(said))
    assert found[INDEX["mean_word"]] == (sum(lengths) / len(lengths) if lengths else 0.0)
    assert found[INDEX["distinct_words"]] == (len(set(said)) / len(said) if said else 0.0)
    assert found[INDEX["last_word"]] == (min(lengths[-1], 40) if lengths else 0)
    pairs = list(pairwise(said))
    assert found[INDEX["how_many"]] == any(pair in (("how", "many"), ("how", "much")) for pair in pairs)
    numbers = [token for token in seen.tokens if "0" <= token[0] <= "9"]
    assert found[INDEX["numbers"]] == math.log1p(len(numbers))
    assert found[INDEX["decimals"]] == math.log1p(sum("." in number for number in numbers))


def test_how_many_across_symbols_and_not_from_afar() -> None:
    def asked(text: str) -> float:
        return float(extract([{"role": "user", "content": text}]).structural[INDEX["how_many"]])

    assert asked('HOW "many" are there') == 1.0
    assert asked("how 2 much") == 1.0
    assert asked("how are many of them") == 0.0
    assert asked("many say how") == 0.0


def test_digits_count_as_one_digit_in_character_triples() -> None:
    one, other = (lexical([["n"]], [f"n{digits}"]) for digits in ("190", "583"))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_recorded_prompts_have_the_features_that_they_had() -> None:
    """Quicker passes must leave every bit of this: saved weights are for these columns."""
    whole = hashlib.sha256()
    for item in read_table(TABLE).items:
        features = extract(item.messages)
        whole.update(features.structural.round(9).tobytes())
        whole.update(features.buckets.astype("<i8").tobytes())
        whole.update(features.values.round(9).tobytes())
    assert whole.hexdigest()[:16] == "51db49dd820d9f1b"
