"""What the transformers engine does with text: whole characters, stop strings, ends of replies."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backends.engines.transformers.reply import Reply
from backends.engines.transformers.text import Detokenizer, StopText

END = 256


def decode(tokens: list[int]) -> str:
    """A token a byte, as the tokenizers' byte-level decoder does it; END is a special token."""
    return bytes(token for token in tokens if token != END).decode("utf-8", errors="replace")


def pieces(tokens: list[int], cuts: list[int]) -> list[list[int]]:
    places = sorted({0, len(tokens), *(cut % (len(tokens) + 1) for cut in cuts)})
    return [tokens[a:b] for a, b in pairwise(places)]


CUTS = st.lists(st.integers(min_value=0, max_value=200), max_size=12)


@given(st.text(), CUTS, st.text(max_size=4))
def test_text_survives_however_its_bytes_come(text: str, cuts: list[int], prompt: str) -> None:
    stream = Detokenizer(decode, list(prompt.encode()))
    shown = [stream.push(piece) for piece in pieces(list(text.encode()), cuts)]
    assert "".join(shown) + stream.flush() == text.rstrip("\ufffd")


@given(st.text(alphabet="aé日🚀"), CUTS)
def test_no_piece_shows_half_a_character(text: str, cuts: list[int]) -> None:
    stream = Detokenizer(decode, [])
    for piece in pieces(list(text.encode()), cuts):
        assert "\ufffd" not in stream.push(piece)


def test_a_reply_that_ends_within_a_character_ends_before_it() -> None:
    stream = Detokenizer(decode, [])
    assert stream.push(list(b"na")) == "na"
    assert stream.push(list("ï".encode())[:1]) == ""
    assert stream.flush() == ""


def test_bytes_that_are_no_text_are_replaced_once_it_is_clear() -> None:
    stream = Detokenizer(decode, [])
    assert stream.push([0xFF]) == ""
    assert stream.push([ord("a")]) == "\ufffda"


def test_a_blank_at_the_start_is_kept_when_the_tokenizer_drops_it() -> None:
    def dropping(tokens: list[int]) -> str:
        return decode(tokens).removeprefix(" ")

    stream = Detokenizer(dropping, list(b"One."))
    assert stream.push(list(b" Two")) == " Two"


STOPS = st.lists(st.text(alphabet="abc\n", min_size=1, max_size=3), max_size=3)


@given(st.text(alphabet="abc\n", max_size=30), STOPS, CUTS)
def test_a_stop_string_is_found_however_the_text_comes(text: str, stops: list[str], cuts: list[int]) -> None:
    watch = StopText(stops)
    shown = "".join(watch.push("".join(map(chr, p))) for p in pieces([ord(letter) for letter in text], cuts))
    if watch.hit is None:
        assert not any(stop in text for stop in stops)
        assert shown + watch.flush() == text
        return
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    first = min(ends)
    assert text[:first] == shown + watch.hit
    assert not any(stop in shown for stop in stops)
    assert watch.push("more") == ""
    assert watch.flush() == ""


def test_what_cannot_become_a_stop_string_is_not_held_back() -> None:
    watch = StopText(["\n\nEnd"])
    assert watch.push("one\n") == "one"
    assert watch.push("\nE") == ""
    assert watch.push("two") == "\n\nEtwo"


def test_an_empty_stop_string_stops_nothing() -> None:
    watch = StopText([""])
    assert watch.push("text") == "text"
    assert watch.hit is None


def reply(stops: tuple[str, ...] = ()) -> Reply:
    return Reply(decode, frozenset({END}), list(b"prompt"), stops)


def test_a_reply_counts_all_tokens_and_ends_at_the_end_token() -> None:
    growing = reply()
    assert growing.take(list(b"Hi")) == "Hi"
    assert growing.take([*b"Hi!", END]) == "!"
    assert growing.flush() == ""
    done = growing.completion((-0.5,) * 4, cached_tokens=3)
    assert (done.text, done.finish, done.stop_string) == ("Hi!", "stop", None)
    assert (done.prompt_tokens, done.completion_tokens, done.cached_tokens) == (6, 4, 3)
    assert len(done.logprobs) == 4


def test_a_reply_that_is_only_an_end_token_is_empty() -> None:
    growing = reply()
    assert growing.take([END]) == ""
    assert growing.completion((), 0).completion_tokens == 1
    assert growing.completion((), 0).finish == "stop"


def test_tokens_after_the_stop_string_are_counted_and_not_shown() -> None:
    growing = reply(("END",))
    assert growing.take(list(b"one EN")) == "one "
    assert not growing.stopped
    assert growing.take(list(b"one END")) == ""
    assert growing.stopped
    assert growing.take(list(b"one END two")) == ""
    assert growing.flush() == ""
    done = growing.completion((), 0)
    assert (done.text, done.finish, done.stop_string, done.completion_tokens) == ("one ", "stop", "END", 11)


def test_half_a_stop_string_at_the_end_is_text() -> None:
    growing = reply(("END",))
    assert growing.take(list(b"one EN")) == "one "
    assert growing.flush() == "EN"
    done = growing.completion((), 0)
    assert (done.text, done.finish) == ("one EN", "length")


def test_outputs_that_say_nothing_new_change_nothing() -> None:
    growing = reply()
    assert growing.take(list(b"a")) == "a"
    assert growing.take(list(b"a")) == ""
    assert growing.tokens == 1
