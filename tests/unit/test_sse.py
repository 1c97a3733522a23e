from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from backends.task import Progress, TextDelta
from router.errors import TierUnavailable, UpstreamFailed
from router.http.errors import ClientLeft
from router.http.frames import Frames, progress_comment
from router.http.mailbox import Mailbox
from router.http.settings import HttpSettings
from router.http.sse import SseResponse, StreamBroken
from router.http.watch import unless_left
from router.request import Choice, ReplyStream
from tests.fakes_http import DELTAS, HEAD, LIMITS, REPLY, Exchange, ScriptedEvents, Step, replace

FAST = HttpSettings(first_event_s=0.02, heartbeat_s=0.02, coalesce_s=0.01)
PROGRESS = Progress(samples_done=2, leader="4\n", confidence=0.75, tokens=30)


class Stage:
    """A script, its stream, its response and the exchange that takes it."""

    def __init__(
        self,
        *steps: Step,
        settings: HttpSettings = FAST,
        include_usage: bool = False,
        progress: bool = False,
        clean_up: Any = None,
    ) -> None:
        self.events = ScriptedEvents(steps, clean_up)
        stream = ReplyStream("chatcmpl-1", 1_700_000_000, "auto", LIMITS, HEAD, self.events)
        self.response = SseResponse(
            stream, request_id="req-1", include_usage=include_usage, progress=progress, settings=settings
        )
        self.exchange = Exchange(b"")
        self.exchange._incoming.clear()  # the body has been read

    async def run(self) -> Exchange:
        async with asyncio.timeout(5):
            await self.response.run(self.exchange.receive, self.exchange.send)
        return self.exchange

    def start(self) -> asyncio.Task[Exchange]:
        return asyncio.create_task(self.run())


def data(body: bytes) -> list[Any]:
    """Data of the events, decoded; comments left out."""
    events = [block for block in body.decode().split("\n\n") if block and not block.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event[6:] if event == "data: [DONE]" else json.loads(event[6:]) for event in events]


def texts(body: bytes, index: int = 0) -> list[str]:
    choices = [c for chunk in data(body) if isinstance(chunk, dict) for c in chunk["choices"]]
    return [c["delta"]["content"] for c in choices if c["index"] == index and c["delta"].get("content")]


def never() -> asyncio.Event:
    return asyncio.Event()


async def test_a_stream_has_openais_shape():
    exchange = await Stage(*DELTAS, include_usage=True).run()
    chunks = data(exchange.body)
    assert chunks.pop() == "[DONE]"
    assert {(c["id"], c["created"], c["model"], c["object"]) for c in chunks} == {
        ("chatcmpl-1", 1_700_000_000, "auto", "chat.completion.chunk")
    }
    role, *content, finish, usage = chunks
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"]["content"] for c in content) == "2 + 2 is 4"
    assert finish["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 100
    assert usage["usage"]["compute"]["decision_id"] == "dec-1"
    assert [c["usage"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_without_include_usage_there_is_no_usage_at_all():
    exchange = await Stage(*DELTAS).run()
    assert b"usage" not in exchange.body
    assert data(exchange.body)[-2]["choices"][0]["finish_reason"] == "stop"


async def test_the_head_has_what_is_known_before_the_first_token():
    exchange = await Stage(*DELTAS).run()
    assert exchange.status == 200
    assert exchange.headers["content-type"].startswith("text/event-stream")
    assert exchange.headers["x-request-id"] == "req-1"
    assert exchange.headers["x-acr-policy"] == "p1"
    assert exchange.headers["x-acr-schema-version"] == "1"
    assert exchange.headers["x-ratelimit-limit-tokens"] == "10000"
    assert exchange.headers["cache-control"] == "no-store"
    assert exchange.sent[-1]["more_body"] is False


async def test_the_first_text_goes_out_at_once_and_the_rest_in_slices():
    ticks = [asyncio.Event() for _ in range(4)]
    steps: list[Step] = [TextDelta("a")]
    for tick in ticks:
        steps += [tick.wait, TextDelta("x")]
    stage = Stage(*steps, REPLY, settings=HttpSettings(coalesce_s=30))
    task = stage.start()
    await stage.exchange.until(lambda e: texts(e.body) == ["a"])
    for tick in ticks:
        tick.set()
        await asyncio.sleep(0)
    exchange = await task
    # Four deltas within a slice that the end cut short: one chunk, well before the 30 s are over.
    assert texts(exchange.body) == ["a", "xxxx"]


async def test_a_slice_ends_by_itself():
    gate = asyncio.Event()
    stage = Stage(TextDelta("a"), gate.wait, TextDelta("b"), never().wait)
    task = stage.start()
    await stage.exchange.until(lambda e: texts(e.body) == ["a"])
    gate.set()
    await stage.exchange.until(lambda e: texts(e.body) == ["a", "b"])
    stage.exchange.leave()
    await task


async def test_what_comes_within_one_tick_is_one_message():
    exchange = await Stage(*DELTAS).run()
    assert len(exchange.bodies) == 1


async def test_silence_is_broken_first_soon_and_then_steadily():
    gate = asyncio.Event()
    stage = Stage(gate.wait, *DELTAS)
    task = stage.start()
    await stage.exchange.until(lambda e: e.body.count(b": keep-alive\n\n") >= 3)
    assert stage.exchange.status == 200
    gate.set()
    exchange = await task
    assert texts(exchange.body) == ["2 + 2 is 4"]


async def test_a_prompt_answer_has_no_heartbeat():
    exchange = await Stage(*DELTAS).run()
    assert b"keep-alive" not in exchange.body


async def test_the_first_heartbeat_does_not_wait_for_the_rhythm():
    stage = Stage(never().wait, settings=HttpSettings(first_event_s=0.01, heartbeat_s=3600))
    task = stage.start()
    await stage.exchange.until(lambda e: e.body == b": keep-alive\n\n")
    stage.exchange.leave()
    await task


async def test_progress_goes_out_as_a_comment_where_it_was_asked_for():
    gate = asyncio.Event()
    stage = Stage(PROGRESS, gate.wait, *DELTAS, progress=True)
    task = stage.start()
    await stage.exchange.until(lambda e: b"acr.progress" in e.body)
    gate.set()
    exchange = await task
    line = next(x for x in exchange.body.split(b"\n\n") if x.startswith(b": acr.progress "))
    assert json.loads(line.removeprefix(b": acr.progress ")) == {
        "samples_done": 2,
        "leader": "4\n",
        "confidence": 0.75,
        "tokens": 30,
    }
    assert data(exchange.body)[-1] == "[DONE]"


async def test_progress_that_was_not_asked_for_is_dropped():
    exchange = await Stage(PROGRESS, *DELTAS).run()
    assert b"acr.progress" not in exchange.body


async def test_what_is_not_sent_is_no_news_and_puts_off_no_heartbeat():
    mailbox = Mailbox(keep_progress=False)
    mailbox.put(PROGRESS)
    mailbox.put(TextDelta(""))
    assert not await mailbox.news(0)
    mailbox.put(TextDelta("x"))
    assert await mailbox.news(0)


def test_a_comment_is_one_line_whatever_the_leader_says():
    comment = progress_comment(
        replace(PROGRESS, leader="a\r\n\r\ndata: [DONE]\u2028", confidence=float("nan"))
    )
    assert comment.count(b"\n") == 2
    assert b"\r" not in comment
    assert comment.endswith(b"\n\n")


def test_a_chunk_is_one_line_whatever_the_text():
    stream = ReplyStream("i", 1, 'm"\n', LIMITS, HEAD, ScriptedEvents((), None))
    text = 'a\n\ndata: [DONE]\r\n"\\\u2028\x00é\U0001f600'
    frames = Frames(stream, include_usage=False)
    role, chunk = data(frames.text(text))
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert chunk["choices"][0]["delta"]["content"] == text
    assert chunk["model"] == 'm"\n'


async def test_an_error_before_the_first_byte_is_raised_for_its_status():
    stage = Stage(TierUnavailable("Come back."))
    with pytest.raises(TierUnavailable):
        await stage.run()
    assert stage.exchange.sent == []
    assert stage.events.settled


async def test_an_error_after_the_first_byte_is_the_last_event():
    gate = asyncio.Event()
    stage = Stage(TextDelta("a"), gate.wait, UpstreamFailed("The engine died."))
    task = stage.start()
    await stage.exchange.until(lambda e: bool(texts(e.body)))
    gate.set()
    exchange = await task
    assert exchange.status == 200
    assert data(exchange.body)[-1] == {
        "error": {
            "message": "The engine died.",
            "type": "server_error",
            "param": None,
            "code": "upstream_error",
        }
    }
    assert b"[DONE]" not in exchange.body
    assert exchange.sent[-1]["more_body"] is False


async def test_an_error_together_with_the_first_text_does_not_swallow_it():
    exchange = await Stage(TextDelta("a"), UpstreamFailed("The engine died.")).run()
    assert exchange.status == 200
    assert texts(exchange.body.partition(b'data: {"error"')[0]) == ["a"]


async def test_an_unknown_error_in_a_stream_tells_nothing(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    exchange = await Stage(TextDelta("a"), ValueError("secret prompt")).run()
    assert data(exchange.body)[-1]["error"]["code"] == "internal_error"
    assert b"secret" not in exchange.body
    assert "secret" not in caplog.text
    assert "req-1" in caplog.text


async def test_events_that_end_without_a_reply_are_an_error():
    with pytest.raises(StreamBroken):
        await Stage().run()
    exchange = await Stage(TextDelta("a")).run()
    assert data(exchange.body)[-1]["error"]["code"] == "internal_error"


async def test_events_cancelled_from_within_do_not_hang_the_client():
    exchange = await Stage(TextDelta("a"), asyncio.CancelledError()).run()
    assert data(exchange.body)[-1]["error"]["code"] == "internal_error"


async def test_several_choices():
    reply = replace(
        REPLY, choices=(Choice("2 + 2 is 4", "stop"), Choice("four", "length"), Choice("", "stop"))
    )
    exchange = await Stage(*DELTAS[:-1], reply).run()
    assert "".join(texts(exchange.body)) == "2 + 2 is 4"
    assert texts(exchange.body, 1) == ["four"]
    assert texts(exchange.body, 2) == []
    choices = [c for chunk in data(exchange.body)[:-1] for c in chunk["choices"]]
    assert sorted(c["index"] for c in choices if c["delta"].get("role")) == [0, 1, 2]
    finishes = {c["index"]: c["finish_reason"] for c in choices if c["finish_reason"]}
    assert finishes == {0: "stop", 1: "length", 2: "stop"}


async def test_an_empty_answer_still_has_a_role_and_a_finish():
    exchange = await Stage(replace(REPLY, choices=(Choice("", "stop"),))).run()
    role, finish, _ = data(exchange.body)
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert finish["choices"][0]["finish_reason"] == "stop"


async def test_a_client_that_leaves_closes_the_events_soon_and_shielded():
    async def clean_up() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    stage = Stage(TextDelta("a"), never().wait, clean_up=clean_up)
    task = stage.start()
    await stage.exchange.until(lambda e: bool(texts(e.body)))
    stage.exchange.leave()
    await task
    assert stage.events.cancelled
    assert stage.events.settled


async def test_a_client_that_leaves_in_the_first_silence_gets_nothing():
    stage = Stage(never().wait, settings=HttpSettings(first_event_s=3600))
    task = stage.start()
    await asyncio.sleep(0)
    stage.exchange.leave()
    assert (await task).sent == []
    assert stage.events.settled


async def test_a_cancelled_request_settles_before_it_ends_however_often_it_is_cancelled():
    gate = asyncio.Event()
    stage = Stage(TextDelta("a"), never().wait, clean_up=gate.wait)
    task = stage.start()
    await stage.exchange.until(lambda e: bool(texts(e.body)))
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not stage.events.settled
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.events.settled


async def test_a_second_cancellation_does_not_kill_the_settling():
    gate = asyncio.Event()
    stage = Stage(TextDelta("a"), never().wait, clean_up=gate.wait)
    task = stage.start()
    await stage.exchange.until(lambda e: bool(texts(e.body)))
    for _ in range(3):
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
    gate.set()
    await asyncio.wait((task,))
    async with asyncio.timeout(5):
        await stage.events.closed.wait()
    assert stage.events.settled


async def test_a_request_cancelled_before_its_reader_ran_still_closes_the_events():
    stage = Stage(*DELTAS)

    async def doomed() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # takes effect at the first wait, when the reader has not had its turn
        await stage.response.run(stage.exchange.receive, stage.exchange.send)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(doomed())
    assert stage.events.settled


async def test_the_answer_does_not_wait_for_the_settling_and_the_settling_is_not_cut_off():
    gate = asyncio.Event()
    stage = Stage(*DELTAS, gate.wait)
    task = stage.start()
    await stage.exchange.until(lambda e: b"[DONE]" in e.body)
    assert not task.done()
    gate.set()
    await task
    assert stage.events.settled
    assert not stage.events.cancelled


async def test_a_failure_after_the_reply_is_logged_and_not_sent(caplog: pytest.LogCaptureFixture):
    exchange = await Stage(*DELTAS, ValueError("secret prompt")).run()
    assert data(exchange.body)[-1] == "[DONE]"
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_server_that_cannot_send_closes_the_events():
    stage = Stage(*DELTAS)

    async def broken(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("gone")

    await stage.response.run(stage.exchange.receive, broken)
    assert stage.events.settled


async def test_many_deltas_arrive_whole_and_in_order():
    words = [f"w{i} " for i in range(2000)]

    async def breathe() -> None:
        await asyncio.sleep(0)

    steps: list[Step] = []
    for i, word in enumerate(words):
        steps += [TextDelta(word)] + ([breathe] if i % 7 == 0 else [])
    exchange = await Stage(*steps, REPLY, settings=HttpSettings(coalesce_s=0)).run()
    assert "".join(texts(exchange.body)) == "".join(words)


async def test_the_mailbox_keeps_the_latest_progress_only():
    mailbox = Mailbox(keep_progress=True)
    mailbox.put(PROGRESS)
    mailbox.put(replace(PROGRESS, samples_done=3))
    latest = mailbox.take_progress()
    assert latest is not None
    assert latest.samples_done == 3
    assert mailbox.take_progress() is None


async def test_unless_left_returns_what_the_work_returns():
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await unless_left(work(), never().wait) == "done"  # type: ignore[arg-type]


async def test_unless_left_raises_what_the_work_raises():
    async def work() -> str:
        raise UpstreamFailed("x")

    with pytest.raises(UpstreamFailed):
        await unless_left(work(), never().wait)  # type: ignore[arg-type]


async def test_unless_left_cancels_the_work_and_waits_for_its_clean_up():
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        try:
            await never().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    async def gone() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientLeft):
        await unless_left(work(), gone)
    assert cleaned


async def test_unless_left_goes_on_where_the_server_cannot_tell():
    gate = asyncio.Event()

    async def work() -> str:
        await gate.wait()
        return "done"

    async def broken() -> dict[str, str]:
        asyncio.get_running_loop().call_soon(gate.set)
        raise OSError("no receive")

    assert await unless_left(work(), broken) == "done"


async def test_a_result_that_nobody_can_take_any_more_is_discarded_properly():
    discarded: list[str] = []

    async def discard(result: str) -> None:
        discarded.append(result)

    async def stubborn() -> str:
        try:
            await never().wait()
        except asyncio.CancelledError:
            return "late"
        raise AssertionError

    task = asyncio.create_task(unless_left(stubborn(), never().wait, discard))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert discarded == ["late"]
