"""Tokens are counted from bytes that pass by, however they are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.usage import MOST_JSON_BYTES, JsonMeter, StreamMeter, Usage, read_any_usage

EVENT = b'data: {"choices":[{"text":" a"}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":40}}\n\n'
DONE = b"data: [DONE]\n\n"


@given(st.integers(0, 40), st.booleans(), st.lists(st.integers(1, 400), max_size=30))
def test_streams(tokens: int, with_usage: bool, cuts: list[int]) -> None:
    text = EVENT * tokens + (USAGE if with_usage else b"") + DONE
    meter = StreamMeter()
    for cut in cuts:
        meter.feed(text[:cut])
        text = text[cut:]
    meter.feed(text)
    assert meter.finished
    usage = meter.usage()
    assert usage == (Usage(7, 40) if with_usage else None)
    assert meter.tokens(usage) == (40 if with_usage else tokens)


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"prompt_tokens": 7, "total_tokens": 7}, Usage(7, 0)),
        ({"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}, Usage(7, 0)),
        ({"total_tokens": 9}, Usage(9, 0)),
        ({"type": "tokens", "input_tokens": 4, "output_tokens": 2}, Usage(4, 2)),
        ({"input_tokens": 4}, Usage(4, 0)),
        ({"type": "duration", "seconds": 3}, None),
        ({"total_tokens": -9}, None),
        ({"total_tokens": "many"}, None),
        ({"prompt_tokens": None}, None),
        ([1], None),
        (None, None),
    ],
)
@pytest.mark.parametrize("padding", [0, MOST_JSON_BYTES])
def test_whatever_is_relayed_is_counted_as_far_as_it_tells(
    usage: object, found: Usage | None, padding: int
) -> None:
    answer = json.dumps({"data": "x" * padding, "usage": usage}).encode()
    meter = JsonMeter(read_any_usage)
    for at in range(0, len(answer), 10_000):
        meter.feed(answer[at : at + 10_000])
    assert meter.usage() == found
    stream = StreamMeter(read_any_usage)
    event = json.dumps({"type": "done", "usage": usage}).encode()
    stream.feed(b"data: {}\n\ndata: " + event + b"\n\n")
    assert stream.usage() == found


def test_comments_are_no_tokens() -> None:
    meter = StreamMeter()
    assert meter.feed(b": ping\n\n: ping\n\n") == 0
    assert meter.feed(EVENT) == 1


def test_json() -> None:
    meter = JsonMeter()
    assert meter.feed(b'{"usage":{"prompt_tokens":3,') == 0
    meter.feed(b'"completion_tokens":5}}')
    assert meter.usage() == Usage(3, 5)
    assert meter.tokens(meter.usage()) == 5


@pytest.mark.parametrize(
    ("end", "usage"),
    [
        (b'"usage":{"prompt_tokens":3,"completion_tokens":5}}', Usage(3, 5)),
        (b'"usage": {"prompt_tokens":3,"completion_tokens":5},"id":"x"}', Usage(3, 5)),
        (b'"usage":{"prompt_tokens":3,"completion_tokens":1e400}}', None),
        (b'"usage":{"prompt_tokens":3,"completion_tokens":-5}}', None),
        (b'"usage":{"prompt_tokens":3,"completion_tokens":' + b"9" * 4000 + b"}}", None),
        (b'"usage":' + b"[" * 4000, None),
        (b'"text":"\\"usage\\":{\\"prompt_tokens\\":3}"}', None),
        (b'"usage":', None),
        (b"", None),
    ],
)
def test_of_a_large_answer_the_end_tells(end: bytes, usage: Usage | None) -> None:
    text = b'{"choices":[' + b"[1]," * 60_000 + b"[1]]," + end
    meter = JsonMeter()
    for start in range(0, len(text), 50_000):
        meter.feed(text[start : start + 50_000])
    assert not meter._parts
    assert meter.usage() == usage
    assert meter.response_info().finish_reasons == ()


@pytest.mark.parametrize("padding", [0, 1000, MOST_JSON_BYTES, 1 << 20])
@pytest.mark.parametrize("place", ["first", "middle", "last", "twice"])
@pytest.mark.parametrize("cut", [1 << 20, 65_536, 9_999])
def test_it_is_found_wherever_it_stands(padding: int, place: str, cut: int) -> None:
    """Not what has its name within other objects, or in text."""
    wrong = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    data = {"object": "usage", "data": [wrong, "x" * padding, json.dumps(wrong), '"usage'] * 2}
    told = {"usage": {"prompt_tokens": 7, "completion_tokens": 40}}
    answer = {
        "first": told | data,
        "middle": {"id": "a"} | told | data,
        "last": data | told,
        "twice": wrong | data | told,
    }[place]
    text = json.dumps(answer).encode()
    if place == "twice":
        text = b'{"usage":{"prompt_tokens":2,"completion_tokens":2},' + text[1:]
    meter = JsonMeter()
    for start in range(0, len(text), cut):
        meter.feed(text[start : start + cut])
    assert meter.usage() == Usage(7, 40)


def test_answers_without_usage() -> None:
    for text in (
        b"",
        b"{}",
        b"[]",
        b'{"usage": 3}',
        b'{"usage":{"prompt_tokens":1e999,"completion_tokens":1}}',
        b'{"usage":{"prompt_tokens":"x"}}',
    ):
        meter = JsonMeter()
        meter.feed(text)
        assert meter.usage() is None
        assert meter.tokens(None) is None


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (b'data: {"error":{"message":"no memory","code":500}}\n\n', "no memory"),
        (b'data: {"error":{"message":"no memory"}}\n\n' + DONE, "no memory"),
        (b'data: {"error":"no memory"}\n\n', "no memory"),
        (b'data: {"error":{"code":7}}\n\n', "{'code': 7}"),
        (b'data: {"error":null,"choices":[]}\n\n' + DONE, None),
        (b'data: {"error"', None),
        (b'data: {"choices":[{"text":"\\"error\\""}]}\n\n' + DONE, None),
        (b'data: ["error"]\n\n', None),
        (DONE, None),
        (b"", None),
    ],
)
def test_what_a_stream_says_of_its_failure(end: bytes, told: str | None) -> None:
    meter = StreamMeter()
    for part in (EVENT * 3, end[:9], end[9:]):
        meter.feed(part)
    assert meter.error() == told
