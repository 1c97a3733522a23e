"""The last turn in the light of the turns before it, and manners around a question."""

from __future__ import annotations

import numpy as np
import pytest

from classifier.artifact import Artifact
from classifier.evaluation.robustness import robustness
from classifier.features import extract
from classifier.features.courtesy import nothing_asked, without_manners
from classifier.features.matrix import feature_matrix
from classifier.features.structural import AROUND, INDEX
from classifier.features.text import MAX_CHARS, view
from classifier.features.turns import kind_of
from classifier.model import ArmClassifier
from classifier.predictor import Predictor
from tests.outcomes import sums

HARD = "What is 987 * 654? Show how the product comes about"


def talk(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    """User and assistant in turn, the user first."""
    roles = ("user", "assistant")
    told = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return [{"role": "system", "content": system}, *told] if system is not None else told


@pytest.mark.parametrize(
    "last",
    [
        "yes, go on",
        "Why?",
        "please think again",
        "Do the same for the second one",
        "Are you sure?",
        "no",
        "...",
        "That's wrong.",
        "Could you please continue?",
        "thanks, but why?",
        "ja, weiter",
        "继续",
        "Try it again",
    ],
)
def test_a_turn_that_adds_nothing_asks_what_was_asked_before(last: str) -> None:
    assert kind_of(last) == "continues"
    first, later = extract(talk(HARD)), extract(talk(HARD, "It is 12.", last))
    np.testing.assert_array_equal(later.structural[:AROUND], first.structural[:AROUND])
    np.testing.assert_array_equal(later.values, first.values)
    assert later.structural[INDEX["follow_up"]] == 1.0


@pytest.mark.parametrize(
    "last",
    [
        "and now for 17?",
        "And 17 * 23?",
        "What about Spain?",
        "Now double that",
        "Write it in Python instead",
        "Translate that to French",
        "great, now prove it for n = 5",
        "In Python?",
        "explain step 3",
    ],
)
def test_a_turn_that_adds_something_is_read_with_what_it_adds_to(last: str) -> None:
    seen = view(talk(HARD, "It is 645498.", last))
    assert seen.follow_up
    assert seen.sentences[0] == "What is 987 * 654?"
    assert seen.sentences[-1] == last.strip()


@pytest.mark.parametrize(
    "last",
    [
        "What is the capital of France?",
        "17 + 5 = ?",
        "Define entropy",
        "Now write a poem about spring",
        "Capital of France?",
        "thanks. Now do 8 + 9",
        "word " * 30,
        "it " * 300,
    ],
)
def test_another_topic_stands_alone(last: str) -> None:
    seen = view(talk(HARD, "It is 645498.", last))
    assert not seen.follow_up
    assert seen.sentences[-1] in last
    assert "987" not in seen.question


@pytest.mark.parametrize(
    "last",
    ["thanks!", "Thanks, that's all", "Perfect, thank you so much!", "ok", "I see", "Hello", "谢谢", "Bye."],
)
def test_thanks_ask_nothing(last: str) -> None:
    seen = view(talk(HARD, "It is 645498.", last))
    assert seen.nothing_asked
    assert not seen.follow_up
    assert "987" not in seen.question


@pytest.mark.parametrize("last", ["ok", "yes", "sure", "alright"])
def test_assent_takes_up_an_offer_and_otherwise_takes_note(last: str) -> None:
    assert view(talk(HARD, "It is 645498.", last)).nothing_asked
    taken_up = view(talk(HARD, "Shall I show every step?", last))
    assert taken_up.follow_up
    assert taken_up.sentences[0] == "What is 987 * 654?"
    assert view(talk(HARD, "Shall I show every step?", "no, thanks")).nothing_asked


@pytest.mark.parametrize(
    "text", ["thanks 7", "Thanks?", "", "great circle distance", "x" * 200, "is it clear that p"]
)
def test_what_asks_something_is_not_taken_for_thanks(text: str) -> None:
    assert not nothing_asked(text)


def test_forty_turns_later_the_question_is_still_the_question() -> None:
    turns = [HARD, "It is 12."]
    for _ in range(13):
        turns += ["yes, go on", "Then it is 13."]
    assert view(talk(*turns, "thanks!", "With pleasure.", "Hm, why?")).sentences[0] == "What is 987 * 654?"
    # and a change in between stays in force
    changed = view(talk(*turns, "and for 17?", "It is 14.", "please think again"))
    assert changed.sentences[0] == "What is 987 * 654?"
    assert changed.sentences[-1] == "and for 17?"
    assert view(talk(*turns, "Define entropy", "It is disorder.", "why?")).question == "Define entropy"


def test_without_a_question_before_it_the_assistants_words_are_what_is_meant() -> None:
    offered = [{"role": "assistant", "content": "Shall I prove that 7 is prime?"}, *talk("yes")]
    assert view(offered).question == "Shall I prove that 7 is prime?"
    assert view(talk("Hello", "Hi! What is it about?", "why?")).question == "What is it about?"
    assert view(talk("why?")).question == "why?"
    assert not view(talk("why is that?")).follow_up


@pytest.mark.parametrize("role", ["tool", "function", "critic", ""])
def test_what_tools_say_is_not_asked(role: str) -> None:
    turns = [*talk(HARD, "I look it up."), {"role": role, "content": "Result: 645498?"}]
    assert view(turns).sentences[0] == "What is 987 * 654?"
    # nor is it an offer that an "ok" takes up
    assert view([*turns, *talk("ok")]).nothing_asked


def test_long_turns_keep_both_ends_within_the_bound() -> None:
    first = "begin " + "y" * 40_000 + " end?"
    for last in ("why?", "and for " + "z" * 300 + " that?"):
        seen = view(talk(first, "Well.", last))
        assert seen.follow_up
        assert len(seen.question) <= MAX_CHARS
        assert seen.question.startswith("begin")
        assert "end?" in seen.question
    assert seen.question.endswith("that?")


POLITE = [
    "Could you please help me with this? {} Thank you!",
    "Hi there! {} Thanks a lot in advance.",
    "Hello, I would really appreciate your help. {} Kind regards",
    "{} Thanks!",
    "Please help me. {}",
    "Thank you for your help! {} Please.",
]


@pytest.mark.parametrize("frame", POLITE)
@pytest.mark.parametrize(
    "text", ["What is 7 + 5?", "Add: 3, 4", "Is 17 prime? Say yes or no.", "x = 3\ny = 5"]
)
def test_manners_around_a_question_change_nothing(frame: str, text: str) -> None:
    polite, plain = extract(talk(frame.format(text))), extract(talk(text))
    np.testing.assert_array_equal(polite.buckets, plain.buckets)
    np.testing.assert_array_equal(polite.values, plain.values)
    np.testing.assert_array_equal(polite.structural, plain.structural)


@pytest.mark.parametrize(
    ("polite", "plain"),
    [
        ("Please sort these", "sort these"),
        ("Could you kindly add 3 and 4?", "add 3 and 4?"),
        ("Hey, can you please help me to spell cat, please?", "spell cat?"),
        ("Would you mind adding 3 and 4, please.", "adding 3 and 4."),
        ("I'd like you to say it, thanks!", "say it"),
    ],
)
def test_the_polite_frame_of_a_sentence_is_left_out(polite: str, plain: str) -> None:
    assert without_manners([polite]) == [plain]


@pytest.mark.parametrize(
    "text",
    [
        "Thank you!",
        "Can a please b?",
        "Help",
        "Spell thanks backwards",
        "I need to buy 3 pears",
        "please",
        "Hi, ",
    ],
)
def test_manners_alone_and_words_inside_stay(text: str) -> None:
    assert without_manners([text]) == [text]


def test_many_polite_sentences_are_linear() -> None:
    kept = without_manners(["please."] * 10_000 + ["Add 3."] + ["thanks!"] * 10_000)
    assert kept == ["Add 3."]
    assert without_manners(["please " * 4_000 + "add 3"]) == ["add 3"]
    assert without_manners(["add 3" + ", please" * 20]) == ["add 3"]


def artifact() -> Artifact:
    table = sums(300)
    model = ArmClassifier(arms=table.arms).fit(
        feature_matrix([item.messages for item in table.items]), table.scores, table.tokens
    )
    return Artifact(table.arms, model.export(), {}, "0" * 12)


def test_the_arm_stays_where_the_question_does() -> None:
    known, table = artifact(), sums(60, seed=1)
    found = robustness(known, table)
    # "What is" begins some of these, so nothing but the numbers tells them apart
    assert set(found.values()) == {0.0}
    predictor = Predictor(known)
    asked = talk("What is 512 + 311?")
    plain, again = (
        predictor.predict(asked),
        predictor.predict([*asked, *talk("12", "So?")[1:], *talk("go on")]),
    )
    assert again.p == plain.p
    assert again.ood == plain.ood


def test_any_arm_will_do_where_nothing_is_asked() -> None:
    known = artifact()
    told = Predictor(known).predict(talk("What is 512 + 311?", "823", "Thanks!"))
    assert len(set(told.p.values())) == 1
    assert min(told.p.values()) > 0.99
    assert told.difficulty < 0.01


def test_a_table_with_such_turns_decides_itself() -> None:
    table = sums(300)
    conversations = [item.messages for item in table.items]
    scores = table.scores.copy()
    thanks = np.arange(300) % 5 == 0
    conversations = [
        talk(*(m[0]["content"], "12", "thanks!")) if t else m
        for m, t in zip(conversations, thanks, strict=True)
    ]
    scores[thanks] = 0.0
    model = ArmClassifier(arms=table.arms).fit(feature_matrix(conversations), scores, table.tokens)
    predictor = Predictor(Artifact(table.arms, model.export(), {}, "0" * 12))
    assert max(predictor.predict(talk("What is 5 + 3?", "8", "thanks!")).p.values()) < 0.3
