"""The most central of several texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.medoid import MAX_WORDS, medoid, overlap, words

TEXTS = st.lists(st.text(alphabet="ab c\n日本", max_size=20), min_size=1, max_size=8)


def test_the_odd_one_out_loses() -> None:
    texts = [
        "Bananas are yellow.",
        "Paris is the capital of France.",
        "The capital of France is Paris, on the Seine.",
        "France has the capital Paris.",
    ]
    assert medoid(texts) != 0
    assert medoid(texts[1:] + texts[:1]) != 3


def test_overlap_by_hand() -> None:
    first, second = words("a a b"), words("A b c")
    assert overlap(first, second) == pytest.approx(2 * 2 / 6)  # one a, one b
    assert overlap(words("x"), words("y")) == 0.0
    assert overlap(words(""), words("!?")) == 0.0


def test_repeating_a_word_is_no_agreement() -> None:
    assert overlap(words("no no no no"), words("no")) == pytest.approx(2 / 5)


def test_languages_without_spaces_have_words_too() -> None:
    assert overlap(words("日本の首都"), words("首都は日本")) == pytest.approx(0.8)


def test_ties_go_to_the_first() -> None:
    assert medoid(["one", "two"]) == 0
    assert medoid(["one", "two", "three"]) == 0
    assert medoid(["", "", ""]) == 0


def test_a_text_without_a_word_never_wins_over_agreement() -> None:
    assert medoid(["", "the same", "the same"]) == 1


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no texts"):
        medoid([])


def test_only_the_first_words_are_read() -> None:
    start = "same " * MAX_WORDS
    assert words(start + "one more") == words(start + "other words here")
    assert len(words("w " * 10**5)) == MAX_WORDS


@given(st.text(max_size=40), st.text(max_size=40))
def test_overlap_is_symmetric_and_bounded(first: str, second: str) -> None:
    one, other = words(first), words(second)
    assert overlap(one, other) == overlap(other, one)
    assert 0.0 <= overlap(one, other) <= 1.0
    assert overlap(one, one) == (1.0 if one else 0.0)


@given(TEXTS)
def test_the_medoid_maximises_the_summed_overlap(texts: list[str]) -> None:
    def agreement(index: int) -> float:
        others = [text for i, text in enumerate(texts) if i != index]
        return sum(overlap(words(texts[index]), words(other)) for other in others)

    chosen = medoid(texts)
    assert agreement(chosen) == pytest.approx(max(agreement(i) for i in range(len(texts))))
