"""What of a worker's answers is none, by its first bytes and at its end."""

from __future__ import annotations

import pytest

from router.http.event_meter import EventMeter
from router.http.said import MOST_HELD, Beginning, is_at_fault, no_answer, says_something
from router.http.usage import JsonMeter, StreamMeter, Usage

FAILED = b'{"error": {"message": "CUDA", "code": 500}}'
REFUSED = b'{"error": {"message": "too long", "code": 400}}'


@pytest.mark.parametrize(
    ("first", "stream", "wrong"),
    [
        (b'{"id": "c", "choices": [{"text": "error"}]}', False, False),
        (b' \n{"id": "c"', False, False),
        (b"<html>", False, True),
        (b"null", False, True),
        (b"[]", False, True),
        (b"\x1f\x8b\x08", False, True),
        (FAILED, False, True),
        (b"\n " + FAILED[:30], False, True),
        (REFUSED, False, False),
        (b'{"error": null, "output": []}', False, False),
        (b'{"object": "error", "message": "x", "code": 500}', False, True),
        (b'{"object": "error", "message": "x", "code": 404}', False, False),
        (b'{"type": "error", "error": {"type": "overloaded_error"}}', False, True),
        (b'{"type": "error", "error": {"type": "invalid_request_error"}}', False, False),
        (b'data: {"choices": [{"text": "error"}]}\n\n', True, False),
        (b": error\n\ndata: {}\n\n", True, False),
        (b"data: " + FAILED + b"\n\ndata: [DONE]\n\n", True, True),
        (b"data:" + FAILED + b"\r\n\r\n", True, True),
        (b"data: " + REFUSED + b"\n\n", True, False),
        (b'event: error\ndata: {"type": "error", "error": {}}\n\n', True, True),
    ],
)
def test_by_its_first_bytes(first: bytes, stream: bool, wrong: bool) -> None:
    assert (no_answer(first, stream=stream) is not None) == wrong


SILENT, PING = [b"", b"\n", b" \r\n"], b": ping\n\n"


@pytest.mark.parametrize(
    ("chunks", "stream", "came"),
    [
        ([*SILENT, b'{"'], False, b'\n \r\n{"'),
        ([b"<"], False, b"<"),
        ([PING], False, PING),
        ([PING, b"\r", b": p", b"ong\n\nda", b"x"], True, PING + b"\r: pong\n\nda"),
        ([*SILENT, b"event: x"], True, b"\n \r\nevent: x"),
        ([PING] * 9999 + [b": x", b"y\n\n", b"data:"], True, None),
        ([b": "] + [b"x" * 999] * 99 + [b"\n\ndata:"], True, None),
        ([b" "] * 9999 + [b"{"], False, None),
        ([PING, *SILENT], True, b""),
    ],
)
def test_what_says_nothing_is_no_beginning(
    chunks: list[bytes], stream: bool, came: bytes | None
) -> None:
    """`came` None: of more than is kept the end, which means the same."""
    beginning = Beginning(stream=stream)
    taken = [beginning.take(chunk) for chunk in chunks]
    first = next(filter(None, taken), b"")
    if came is not None:
        assert first == came
    else:
        assert not any(taken[:-1])
        assert len(first) <= MOST_HELD + len(chunks[-1])
        lines = [line for line in first.split(b"\n") if line.strip()]
        assert all(line.startswith((b":", b"data:", b" ", b"{")) for line in lines)


@pytest.mark.parametrize(
    ("answer", "something"),
    [
        (None, False),
        ([], False),
        ({}, False),
        ({"choices": []}, False),
        ({"choices": None}, False),
        ({"choices": [5, {"text": ""}]}, False),
        ({"choices": [{"message": {"role": "assistant", "content": None}}]}, False),
        ({"choices": [{"message": {"tool_calls": [{}]}}]}, True),
        ({"choices": [{"text": ""}, {"text": "a"}]}, True),
        ({"choices": [{"text": "", "finish_reason": "length"}]}, True),
        ({"choices": [{"delta": {"reasoning_content": "hm"}}]}, True),
        ({"output": [], "status": "queued"}, True),
        ({"content": []}, True),
        ({"error": {"code": 400}}, True),
        ({"error": {"code": 500}}, False),
    ],
)
def test_at_its_end(answer: object, something: bool) -> None:
    assert says_something(answer) == something


@pytest.mark.parametrize("code", [408, 429, 500, None, "context", [], 4])
def test_what_is_not_the_requests_fault(code: object) -> None:
    assert not is_at_fault({"error": {"code": code}})
    assert not is_at_fault({"error": "x", "code": code})


WORD = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
ROLE = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
NONE = Usage(3, 0)


@pytest.mark.parametrize(
    ("events", "usage", "nothing"),
    [
        (b"", None, True),
        (b": ping\n\n", None, True),
        (b"data: [DONE]\n\n", None, True),
        (ROLE, None, False),
        (ROLE, NONE, True),
        (ROLE + WORD, NONE, False),
        (WORD * 500, NONE, False),
    ],
)
def test_streams_that_say_nothing(events: bytes, usage: Usage | None, nothing: bool) -> None:
    meter = StreamMeter()
    meter.feed(events)
    assert meter.says_nothing(usage) == nothing


def test_what_is_too_large_to_be_read_says_something() -> None:
    meter = JsonMeter()
    meter.feed(b'{"choices": [' + b"{}," * 10_000 + b"{}]}")
    assert not meter.says_nothing(None)
    named = EventMeter()
    assert named.says_nothing(None)
    named.feed(b'data: {"type": "response.completed", "response": {"object": "response", ')
    named.feed(b'"id": "resp_1"}}\n\n')
    assert not named.says_nothing(None)
