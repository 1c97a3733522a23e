"""Votes for one answer in several spellings are votes for one answer."""

from __future__ import annotations

from backends.answers.classes import MAX_CLASSES, MAX_COMPARISONS, AnswerClasses
from backends.engines.base import Sampling
from tests.tasks import run_on, says, task


class Asked:
    """Says that two answers are the same where they are in one of `groups`; remembers what was asked."""

    def __init__(self, *groups: set[str]) -> None:
        self.groups = groups
        self.pairs: list[tuple[str, str]] = []

    async def __call__(self, one: str, other: str) -> bool:
        self.pairs.append((one, other))
        return any({one, other} <= group for group in self.groups)


async def test_the_first_spelling_stands_for_the_class() -> None:
    classes = AnswerClasses(Asked({r"2\pi", r"\pi\cdot 2", r"\pi 2"}))
    for answer in (r"2\pi", r"\pi\cdot 2", r"\pi 2", "7"):
        await classes.learn(answer)
    assert [classes.first(a) for a in (r"\pi\cdot 2", r"\pi 2", "7", "unseen", None)] == [
        r"2\pi",
        r"2\pi",
        "7",
        "unseen",
        None,
    ]


async def test_numbers_and_words_are_never_asked_about() -> None:
    asked = Asked()
    classes = AnswerClasses(asked)
    for answer in ("7", "8", "paris", "1/2", None, '{"a":1}'):
        await classes.learn(answer)
    assert asked.pairs == []
    await classes.learn(r"\sqrt{49}")
    assert {other for _, other in asked.pairs} == {"7", "8", "1/2"}


async def test_what_is_known_is_not_asked_again() -> None:
    asked = Asked()
    classes = AnswerClasses(asked, known=("x+1", None))
    await classes.learn("1+x")
    await classes.learn("1+x")
    await classes.learn("x+1")
    assert asked.pairs == [("1+x", "x+1")]


async def test_a_run_asks_a_bounded_number_of_times() -> None:
    asked = Asked()
    classes = AnswerClasses(asked)
    for number in range(100):
        await classes.learn(f"x+{number}")
    assert len(asked.pairs) == MAX_COMPARISONS
    assert len({other for _, other in asked.pairs}) <= MAX_CLASSES


async def test_without_anybody_to_ask_each_spelling_is_its_own() -> None:
    classes = AnswerClasses(None)
    await classes.learn("x+1")
    await classes.learn("1+x")
    assert classes.first("1+x") == "1+x"


async def test_a_run_counts_spellings_as_one_vote() -> None:
    engine = says(r"\boxed{\frac{1}{\sqrt{2}}}", r"\boxed{\frac{\sqrt2}{2}}")
    asked = Asked({r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"})
    run = await run_on(engine, task(), same=asked)
    samplings = [Sampling(max_tokens=20, temperature=1.0, seed=seed) for seed in range(8)]
    samples = [run.as_sample(call) async for call, _ in run.in_launch_order(run.messages(), samplings)]
    assert len({sample.text for sample in samples}) == 2
    assert len({sample.answer for sample in samples}) == 1
