"""The bytes of a streamed answer: OpenAI's chunks as server-sent events."""

from __future__ import annotations

import json

from backends.task import Progress
from router.http.errors import error_body
from router.http.replies import usage
from router.http.wire import finite, to_json
from router.request import Reply, ReplyStream

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

# A C function in CPython: the text of a chunk is all that has to be encoded for it.
_string = json.encoder.encode_basestring_ascii


class Frames:
    """All chunks of one stream: the same id, `created` and model, encoded once."""

    __slots__ = ("_include_usage", "_prefix", "_roles", "_suffix")

    def __init__(self, stream: ReplyStream, *, include_usage: bool) -> None:
        head = {
            "id": stream.id,
            "object": "chat.completion.chunk",
            "created": stream.created_s,
            "model": stream.model,
        }
        self._prefix = "data: " + to_json(head).decode("ascii")[:-1]
        # With include_usage every chunk but the last has a null usage, as OpenAI's do.
        self._suffix = ',"usage":null}\n\n' if include_usage else "}\n\n"
        self._include_usage = include_usage
        self._roles: set[int] = set()

    def text(self, text: str, index: int = 0) -> bytes:
        """A piece of choice `index`; its first one is preceded by the chunk that names the role."""
        return self._role(index) + self._choice(index, f'{{"content":{_string(text)}}}', "null")

    def _role(self, index: int) -> bytes:
        if index in self._roles:
            return b""
        self._roles.add(index)
        return self._choice(index, '{"role":"assistant","content":""}', "null")

    def _choice(self, index: int, delta: str, finish: str) -> bytes:
        choice = f'{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":{finish}}}'
        return f'{self._prefix},"choices":[{choice}]{self._suffix}'.encode("ascii")

    def end(self, reply: Reply) -> bytes:
        """Whatever choices have not been streamed, the finish of each, the usage if asked, and [DONE]."""
        out: list[bytes] = []
        for index, choice in enumerate(reply.choices):
            if index > 0 and choice.text:
                out.append(self.text(choice.text, index))
            out.append(self._role(index))
            out.append(self._choice(index, "{}", _string(choice.finish_reason)))
        if self._include_usage:
            spent = to_json(usage(reply.receipt)).decode("ascii")
            out.append(f'{self._prefix},"choices":[],"usage":{spent}}}\n\n'.encode("ascii"))
        out.append(DONE)
        return b"".join(out)


def progress_comment(progress: Progress) -> bytes:
    """`: acr.progress {...}`, a comment line.

    Not an event of another name: openai-python hands every event that has data to its caller as a chunk,
    whatever it is called, and fails on one without. Comments are skipped by every client.
    """
    facts = {
        "samples_done": progress.samples_done,
        "leader": progress.leader,
        "confidence": finite(progress.confidence),
        "tokens": progress.tokens,
    }
    return b": acr.progress " + to_json(facts) + b"\n\n"


def error_frame(error: Exception) -> bytes:
    """What openai-python turns into an APIError; nothing follows it."""
    return b"data: " + to_json(error_body(error)) + b"\n\n"
