from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.features import COUNT, FEATURE_VERSION, NAMES, WIDTH, Features, extract
from classifier.features.expand import EXPANDED, EXPANDED_NAMES, expand
from classifier.features.lexical import PAIRS_END, WORD_BUCKETS, lexical
from classifier.features.matrix import feature_matrix
from classifier.features.structural import INDEX
from classifier.features.text import MAX_CHARS, bounded, tokenize, view


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def column(text: str, name: str) -> float:
    return float(extract(user(text)).structural[INDEX[name]])


def hashed(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The words of one sentence."""
    return lexical([tokenize(text)], [text])


def digest(features: Features) -> str:
    parts = (features.structural.round(9), features.buckets.astype(np.int64), features.values.round(9))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]


conversations = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
            "content": st.text(max_size=400)
            | st.binary(max_size=200).map(lambda b: b.decode("latin-1"))
            | st.text(alphabet='0123456789+-*/^=().,x ?\n"', max_size=200),
        }
    ),
    max_size=6,
)


@given(conversations)
@settings(max_examples=300, deadline=None)
def test_any_conversation_has_finite_features_of_one_shape(messages: list[dict[str, str]]) -> None:
    features = extract(messages)
    assert features.structural.shape == (COUNT,)
    assert np.isfinite(features.structural).all()
    assert features.structural.min() >= 0.0
    assert np.isfinite(features.values).all()
    assert (features.values > 0).all()
    assert (np.diff(features.buckets) > 0).all()
    assert features.buckets.size == 0 or 0 <= features.buckets[0] <= features.buckets[-1] < WIDTH
    assert digest(extract(messages)) == digest(features)


@pytest.mark.parametrize("messages", [[], user(""), user("\ud800 lone"), [{"role": "user"}], [{}]])
def test_odd_messages_are_read_as_far_as_they_go(messages: list[dict[str, str]]) -> None:
    assert np.isfinite(extract(messages).structural).all()


def test_content_that_is_not_text_counts_as_absent() -> None:
    messages = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "user", "content": ["x"]}]
    assert view(messages).question == "What is 2 + 2?"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "unit", ["1+", "((", "\x00\xff", "a", "1", " ", "\n- ", "1,1.", "x^", "é́", '"', "```"]
)
def test_ten_megabytes_are_cut_to_a_bound_before_anything_is_counted(unit: str) -> None:
    text = unit * (10_000_000 // len(unit))
    seen = view(user(text))
    assert len(seen.question) <= MAX_CHARS
    assert len(seen.tokens) <= MAX_CHARS
    assert seen.chars == len(text)
    assert extract(user(text)).buckets.size <= WIDTH


def test_many_turns_are_bounded_too() -> None:
    turns = [{"role": "user", "content": "go on " * 100}, {"role": "system", "content": "y" * 9_000}] * 5_000
    seen = view(turns)
    assert len(seen.question) <= MAX_CHARS
    assert len(seen.system) <= 4_096
    assert seen.user_turns <= 256


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = "instructions " + "x" * 100_000 + " what is the sum?"
    cut = bounded(text)
    assert len(cut) == MAX_CHARS
    assert cut.startswith("instructions")
    assert cut.endswith("what is the sum?")
    assert bounded("short") == "short"


def test_the_same_in_every_process() -> None:
    messages = user("Add 12 and 345; naïve café, 漢字, what's 7 × 8?")
    program = (
        "import json,sys; from classifier.features import extract; f = extract(json.load(sys.stdin));"
        "print(json.dumps([f.structural.tolist(), f.buckets.tolist(), f.values.tolist()]))"
    )
    here = extract(messages)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(messages),
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(p for p in sys.path if p)},
        )
        structural, buckets, values = json.loads(done.stdout)
        assert structural == here.structural.tolist()
        assert buckets == here.buckets.tolist()
        assert values == here.values.tolist()


def test_a_change_of_features_needs_a_new_version() -> None:
    # If this fails, raise FEATURE_VERSION and pin the new digests: saved weights mean other columns now.
    prompts = ["What is 12 + 34 * 5?", 'Spell "tiger" backward: r', "Write a poem.\n\n```py\nx = 1\n```"]
    found = [digest(extract(user(prompt))) for prompt in prompts]
    assert (FEATURE_VERSION, found) == (3, PINNED)


PINNED = ["e856e1b004f3f0a7", "6d41dcfefac9d9b6", "49efd546674c0b8d"]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("What is 7 + 8?", "max_digits", 1),
        ("What is 7 + 88?", "max_digits", 2),
        ("Add 1,234,567 and 3.14159", "max_digits", 7),
        ("Add 1,234,567 and 3.14159", "second_digits", 1),
        ("007 and 0", "max_digits", 1),
        ("9" * 5_000, "max_digits", 20),
        ("1 + 2", "terms", 2),
        ("1 + 2 - 3 * 4", "terms", 4),
        ("2 + (3 * 4)", "terms", 3),
        ("1 + 2. And 3 + 4 + 5", "terms", 3),
        ("well-known and/or x - y", "terms", 0),
        ("- a bullet\n- another", "terms", 0),
        ("3 x 4", "kind_product", 1),
        ("the product of 3 and 4", "kind_product", 1),
        ("3 plus 4", "kind_sum", 1),
        ("8 / 2", "kind_other", 1),
        ("hello", "kind_none", 1),
        ("12 + 345", "chain_digits", 3),
        ("12 + 345", "chain_min_digits", 2),
        ("How many legs?", "how_many", 1),
        ("Is it so?", "wh_yes_no", 1),
        ("so it is", "wh_yes_no", 0),
        ("\\frac{1}{2}", "latex", 1),
        ("Pick. A) yes B) no", "choices", 1),
        ("spell: hawk", "last_word", 4),
        ("3 X 4", "kind_product", 1),
        ("\\FRAC{1}{2}", "latex", 1),
        ("Which? A. red B. blue", "choices", 1),
        ("thanks a lot!", "nothing_asked", 1),
        ("", "chars", 0),
    ],
)
def test_named_columns(text: str, name: str, value: float) -> None:
    assert column(text, name) == pytest.approx(value)


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [
        ("one two", "one two three four", "words"),
        ("hi", "hi hi hi hi", "chars"),
        ("no", "no?", "symbol_0"),
        ("x", "``` x ```", "code_fence"),
        ("Say hi", 'Say "hello there"', "longest_quoted"),
        ("abc", "abcdefgh", "longest_word"),
        ("hello", "привет", "non_ascii_share"),
        ("hello", "漢字", "cjk_share"),
        ("x y", "x: y", "after_colon"),
        ("add them", "twice as many, each double", "mul_words"),
    ],
)
def test_columns_that_grow(low: str, high: str, name: str) -> None:
    assert column(low, name) < column(high, name)


def test_names_are_distinct() -> None:
    assert len(set(NAMES)) == COUNT
    assert len(set(EXPANDED_NAMES)) == EXPANDED


@pytest.mark.parametrize("last", ["What is the capital of France?", "17 + 5 = ?", "word " * 30])
def test_a_question_that_stands_alone_is_read_alone(last: str) -> None:
    turns = [*user("Multiply 3 by 4"), {"role": "assistant", "content": "12"}, *user(last)]
    seen = view(turns)
    assert not seen.follow_up
    assert seen.question == last.strip().replace("? ", "?\n")


def test_a_first_question_never_points_back() -> None:
    assert not view(user("why is that?")).follow_up


def test_turns_and_system_are_columns_and_not_text() -> None:
    alone = extract(user("What is 2 + 3?"))
    talk = extract(
        [
            {"role": "system", "content": "Answer in JSON only."},
            *user("A very long first question about 12345 things"),
            {"role": "assistant", "content": "Done."},
            *user("What is 2 + 3?"),
        ]
    )
    assert digest(Features(alone.structural, talk.buckets, talk.values)) == digest(alone)
    changed = {NAMES[i] for i in np.flatnonzero(alone.structural != talk.structural)}
    assert changed == {"user_turns", "assistant_turns", "context_chars", "system_chars", "system_format"}


def test_without_a_user_the_last_message_is_the_question() -> None:
    assert view([{"role": "system", "content": "Say hello"}]).question == "Say hello"


def test_words_learn_sizes_of_numbers_and_not_numbers() -> None:
    def of(text: str) -> list[int]:
        return hashed(text)[0].tolist()

    assert of("Add 17 and 5") == of("Add 93 and 2")
    assert of("Add 17 and 5") != of("Add 170 and 5")
    assert of("Add 17 AND 5") == of("add 17 and 5")


def test_lexical_blocks_have_fixed_lengths() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    buckets, values = hashed(text)
    words, rest = values[buckets < WORD_BUCKETS], values[buckets >= WORD_BUCKETS]
    assert words.size == 8
    assert np.sqrt(words @ words) == pytest.approx(1.0)
    assert rest @ rest == pytest.approx(0.7**2 + 0.5**2)


def test_word_order_matters() -> None:
    one, other = ("man bites dog", "dog bites man")
    assert hashed(one)[0].tolist() != hashed(other)[0].tolist()


def test_steps_switch_on_with_size_and_cross_with_the_kind() -> None:
    def switched(text: str) -> set[str]:
        values = expand(extract(user(text)).structural[None])[0]
        return {name for name, v in zip(EXPANDED_NAMES, values, strict=True) if ">" in name and v}

    small, large, product = switched("3 + 4"), switched("33 + 44"), switched("33 * 44")
    assert {"max_digits>1", "kind_sum&max_digits>1"} <= large - small
    assert "kind_product&max_digits>1" in product - large


def test_expand_refuses_other_columns() -> None:
    with pytest.raises(ValueError, match="structural"):
        expand(np.zeros((2, COUNT + 1)))


def test_a_matrix_is_its_rows() -> None:
    talks = [user("What is 2 + 3?"), user(""), user("Spell tiger backward")]
    matrix = feature_matrix(talks)
    assert matrix.shape == (3, COUNT + WIDTH)
    for i, talk in enumerate(talks):
        features = extract(talk)
        dense = np.zeros(WIDTH)
        dense[features.buckets] = features.values
        np.testing.assert_array_equal(matrix[i].toarray()[0], np.concatenate([features.structural, dense]))


def test_a_matrix_of_nothing() -> None:
    assert feature_matrix([]).shape == (0, COUNT + WIDTH)


def test_spacing_changes_nothing_but_lines_do() -> None:
    def told(text: str) -> str:
        return digest(extract(user(text)))

    plain = "What is 7 + 8? Say it\nin words."
    assert told(plain) == told("  What  is\t7 +   8? Say it\nin words.\n ")
    assert told(plain) == told(plain.replace("\n", " \n\n "))
    assert told(plain) != told(plain.replace("\n", " "))


def test_the_order_of_sentences_does_not_count() -> None:
    one = 'Ann has 3 + 4 pears. Does Bob have "two"? See: he has 12. How many are there?'
    other = 'See: he has 12. Does Bob have "two"?\nAnn has 3 + 4 pears. How many are there?'
    assert digest(extract(user(one))) == digest(extract(user(other)))
    # within a sentence it does
    assert digest(extract(user("Ann bites 3 dogs."))) != digest(extract(user("3 dogs bites Ann.")))


def test_capitals_do_not_count() -> None:
    text = "Is it True that 3 x 4 = 12? Take A) or B) and \\sqrt{9}."
    assert digest(extract(user(text))) == digest(extract(user(text.upper())))


def test_words_and_pairs_of_empty_sentences() -> None:
    buckets, values = lexical([[], ["one"], [], ["two", "three"], []], ["", "one", "", "two three", ""])
    assert (np.diff(buckets) > 0).all()
    # one pair lies within a sentence
    assert np.count_nonzero((buckets >= WORD_BUCKETS) & (buckets < PAIRS_END)) == 1
    assert lexical([], [])[0].size == 0
    assert values.min() > 0
