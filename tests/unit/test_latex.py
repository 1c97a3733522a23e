"""Formulas in one spelling, found where models write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.answers import extract
from backends.answers.latex import canonical_latex, formulas, looks_like_latex


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", "1/2"),
        (r"\frac12", "0.5"),
        (r"-\frac{3}{4}", r"\frac{-3}{4}"),
        (r"1\frac{1}{2}", "3/2"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"\frac{\sqrt2}{2}", r"\dfrac{ \sqrt{2} }{ 2 }"),
        (r"x = 5", "5"),
        (r"2 \times 3 = 6", "6"),
        (r"f(x) = x^{2}", "x^2"),
        (r"90^\circ", r"90^{\circ}"),
        (r"5\text{ cm}", "5"),
        (r"5\,\mathrm{cm}^2", "5"),
        (r"12{,}345", "12,345"),
        (r"\$18.90", "18.9"),
        (r"10\%", "10"),
        (r"2 \cdot x", r"2 * x"),
        (r"x \leq 3", r"x≤3"),
        (r"2π", r"2\pi"),
        (r"$\pi$", r"\(\pi\)"),
        (r"x_{1}", "x_1"),
        (r"\left[0, \infty\right)", r"[0,\infty)"),
        (r"\text{Paris}", r"\textbf{ paris }"),
    ],
)
def test_spellings_of_one_formula_have_one_form(one: str, other: str) -> None:
    assert canonical_latex(one) == canonical_latex(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(1,2)", "12"),
        ("[0,1]", "(0,1)"),
        ("x+1", "x-1"),
        ("X", "x"),
        (r"2\pi", r"2\pi r"),
        ("x^2+y^2=1", "1"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        (r"\{1,2\}", "(1,2)"),
        (r"x^{10}", "x^10"),
    ],
)
def test_different_formulas_keep_apart(one: str, other: str) -> None:
    assert canonical_latex(one) != canonical_latex(other)


@pytest.mark.parametrize("text", ["", "  ", "the answer", r"\frac{1", "}{", "a" * 300, r"\boxed{}}"])
def test_what_is_no_formula_is_none(text: str) -> None:
    assert canonical_latex(text) is None


def test_formulas_are_found_between_their_marks() -> None:
    assert formulas(r"so $a$, then \(b\) and \[c\] and $$d$$.") == ["a", "b", "c", "d"]
    assert formulas("it costs $5") == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"thus \boxed{\frac{\sqrt{3}}{2}}.", r"\frac{\sqrt{3}}{2}"),
        (r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"(3,\frac{\pi}{2})"),
        (r"\boxed{\text{(B)}}", "B"),
        (r"\boxed{\text{Paris}}", "paris"),
        (r"\boxed{[0,1)}", "[0,1)"),
        (r"\boxed{y = 2x + 1}", "2x+1"),
        ("Answer: (1, 2)", "(1,2)"),
        ("The answer is $\\frac{1}{2}$.", "1/2"),
        ("so x = $\\frac{1}{2}$.", "1/2"),
        (r"we get \(2 \times 3 = 6\)", "6"),
        ("hence $3 + 4 = 7$ apples", "7"),
        # Dollars are also money.
        ("The answer is $18 per day, so $36", "18"),
        ("costs $5 and $6", "6"),
        ("Answer: 3 kg", "3"),
        ("Answer: well-known", "well-known"),
        ("Answer: .5", "1/2"),
    ],
)
def test_extract_reads_formulas_and_leaves_the_rest_as_it_was(text: str, answer: str) -> None:
    assert extract(text) == answer


def test_a_formula_of_the_asked_kind() -> None:
    assert extract(r"It is $\frac{1}{2}$", "number") == "1/2"
    assert extract(r"It is $x^2$, clearly", "latex") == "x^2"
    assert extract("no formula here at all", "latex") is None
    assert extract(r"\boxed{\text{(C)}}", "choice") == "C"


@pytest.mark.parametrize(
    ("answer", "formula"),
    [
        (r"\frac{\pi}{2}", True),
        ("(1,2)", True),
        ("x^2+1", True),
        ("7", False),
        ("1/2", False),
        ("-3", False),
        ("paris", False),
        ("well-known", False),
        ('{"a":"x^2"}', False),
        ("[1,2]", True),
    ],
)
def test_only_formulas_are_worth_asking_about(answer: str, formula: bool) -> None:
    assert looks_like_latex(answer) is formula


@given(st.text(alphabet="\\{}$^_()[],.0123456789abx+-*/= frctqsdei", max_size=300))
def test_any_text_is_read_and_its_form_is_stable(text: str) -> None:
    form = canonical_latex(text)
    extract(text)
    if form is not None:
        assert 0 < len(form) <= 120
        assert canonical_latex(form) in (form, None)  # None: letters that stood apart read as a word


@given(st.integers(-999, 999), st.integers(1, 999))
def test_a_fraction_is_its_number(over: int, under: int) -> None:
    sign = "-" if over < 0 else ""
    assert canonical_latex(rf"{sign}\frac{{{abs(over)}}}{{{under}}}") == extract(f"Answer: {over}/{under}")
