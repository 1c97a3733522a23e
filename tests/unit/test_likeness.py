from __future__ import annotations

import pytest

from router.likeness import content, marks, minimal_pair


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 7 + 5?", "What is 7 + 6?"),
        ("What is 7 - 5?", "What is 5 - 7?"),
        ("What is 7 + 5?", "What is 7 * 5?"),
        ("Is it 1.5 m?", "Is it 15 m?"),
        ("Is it safe?", "Is it not safe?"),
        ("Why can dogs eat it?", "Why can't dogs eat it?"),
        ("Why can dogs eat it?", "Why can’t dogs eat it?"),
        ("Users with rights", "Users without rights"),
        ("Is Paris in France?", "Is France in Paris?"),
        ("Did Alice pay Bob?", "Did Bob pay Alice?"),
        ('Spell "colour".', 'Spell "color".'),
        ("What does 'bank' mean?", "What does 'bark' mean?"),
        ("Run `rm a`.", "Run `rm b`."),
        ("Write foo_bar.", "Write foo_baz."),
        ("Is it utf8?", "Is it utf16?"),
        ("Sort ascending.", "Sort descending."),
        ("I have three apples.", "I have four apples."),
        ("Open on Monday?", "open on sunday?"),
        ("About World War I", "About World War II"),
        ("10 miles to kilometers", "10 kilometers to miles"),
        ("price in $", "price in €"),
    ],
)
def test_what_turns_an_answer_makes_other_marks(one: str, other: str):
    assert marks(one) != marks(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "What's the capital of France?"),
        ("What is 7 + 5?", "Calculate 7 + 5."),
        ("How do I boil an egg?", "How should I boil an egg?"),
        ("Is it not safe?", "Isn't it safe?"),
        ("Explain rain", "Explain rain, please!"),
        ("caf\u00e9 in Paris", "cafe\u0301 in Paris"),
    ],
)
def test_what_says_the_same_has_the_same_marks(one: str, other: str):
    assert marks(one) == marks(other)


def test_plain_words_have_no_marks():
    assert marks("please explain photosynthesis to me") == []


def test_it_takes_anything_in_linear_time():
    odd = ["", "\x00", "'" * 32_000, '"' * 32_001, "a'" * 16_000, "1." * 16_000, "\u0301" * 1000]
    for text in odd:
        marks(text)
        content(text)


def test_content_is_in_order_and_of_one_case():
    assert content("What does the Dog chase?") == ["dog", "chase"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is this legal here?", "Is this illegal here?"),
        ("Does the dog chase the cat?", "Does the cat chase the dog?"),
        ("What are the pros of tea?", "What are the cons of tea?"),
        ("Can dogs eat it?", "Can cats eat it?"),
    ],
)
def test_one_word_for_another_or_another_order_is_a_minimal_pair(one: str, other: str):
    assert minimal_pair(content(one), content(other))
    assert minimal_pair(content(other), content(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I boil an egg?", "How should I boil an egg?"),
        ("Who wrote Hamlet?", "Who was it that wrote the play Hamlet?"),
        ("boil an egg", "boil an egg well"),
        ("", ""),
    ],
)
def test_a_paraphrase_is_none(one: str, other: str):
    assert not minimal_pair(content(one), content(other))
