"""Whatever a worker sends is read within a short turn of the event loop, and within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

import orjson
import pytest

from router.gateway.fleet.reports import MOST_MODELS_BYTES, Unusable, read_models
from router.gateway.fleet.worker import Worker
from router.gateway.planning.recaller import MOST_ANSWER_BYTES
from router.http.usage import MOST_TOKENS, JsonMeter, StreamMeter
from router.wire import LONGEST_STATE, MOST_CONTEXT, AgentState, Recall, SlotReport, WireError
from solver.routing.slots import PlainSlots
from tests.router.gateway.fleet import COST

MOST_TURN_S = 0.05
LINE = 1 << 17  # aiohttp gives no longer ones
CHUNK = 1 << 18  # read from a connection at once


def fill(head: bytes, part: bytes, tail: bytes, size: int) -> bytes:
    return head + part * ((size - len(head) - len(tail)) // len(part)) + tail


PARTS = (b"[],", b"{},", b'"",', b"0,", b"[[]],", b'{"id":"m"},', b'{"a":[]},', b"1e9,", b" ",
         b'"\\u0001",', b"-", b"[", b'{"a":', "é".encode())  # fmt: skip


def stream(chunk: bytes) -> None:
    meter = StreamMeter()
    for _ in range(2):
        meter.feed(chunk)
    meter.tokens(meter.usage())
    meter.response_info()
    meter.error()


def whole(text: bytes) -> None:
    meter = JsonMeter()
    meter.feed(text)
    meter.usage()
    meter.response_info()


READERS: dict[str, tuple[Callable[[bytes], object], bytes, bytes, int]] = {
    "models": (lambda text: read_models(text, "it"), b'{"data":[', b"{}]}", MOST_MODELS_BYTES),
    "models, each a name": (
        lambda text: read_models(text, "it"), b'{"data":[{"id":[', b"0]}]}", MOST_MODELS_BYTES,
    ),
    "state": (AgentState.decode, b'{"cost_ms":[', b"0]}\n", LONGEST_STATE),
    "slots": (SlotReport.decode, b'{"held":[', b"0]}\n", LINE),
    "recall": (Recall.decode, b'{"requests":[', b'""]}', MOST_ANSWER_BYTES),
    "answer": (whole, b'{"usage":{},"choices":[', b"0]}", CHUNK // 2),
    "long answer": (whole, b'{"usage":{},"choices":[', b"0]}", CHUNK),
    "events": (stream, b"data: [", b"0]\n\n", CHUNK),
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_nothing_takes_long_to_read(kind: str) -> None:
    """In seconds of this thread's processor, the best of three."""
    read, head, tail, size = READERS[kind]
    lines = (b"data:\n", b"\n", b'data: {"usage":1}\n', b"data: {}\n", b'data: {"error":1}\n')
    for part in (*PARTS, *(lines if kind == "events" else ())):
        text, best = fill(head, part, tail, size), inf
        for _ in range(3):
            begun = time.thread_time()
            with suppress(WireError, Unusable):
                read(text)
            best = min(best, time.thread_time() - begun)
            if best < MOST_TURN_S:
                break
        assert best < MOST_TURN_S, part


@pytest.mark.parametrize("name", [1, None, [], {}, "", "x" * 600, "a\nb", "\x1b[2J", "\x85"])
def test_what_is_no_name_is_no_model(name: object) -> None:
    text = orjson.dumps({"data": [{"id": "m"}, {"id": name}]})
    with pytest.raises(Unusable, match=r"no name|not OpenAI's list"):
        read_models(text, "it")


@pytest.mark.parametrize("length", [True, 0, -5, 1.5, "9", None, MOST_CONTEXT + 1, 1 << 63, []])
def test_a_context_that_is_no_length_is_unknown(length: object) -> None:
    worker = Worker("http://w:1", PlainSlots(4), COST)
    worker.update_models({"m": {"id": "m", "max_model_len": length}, "n": {"max_model_len": 7}})
    assert worker.max_model_len("m") is None
    assert worker.max_model_len("n") == 7


@pytest.mark.parametrize("count", [-1, MOST_TOKENS, 1 << 64, 1e400, "x", None, [], {}])
def test_usage_that_makes_no_sense_is_none(count: object) -> None:
    told = f'{{"usage":{{"prompt_tokens":1,"completion_tokens":{json(count)}}}}}'.encode()
    meter, events = JsonMeter(), StreamMeter()
    meter.feed(told)
    events.feed(b"data: " + told + b"\n\n")
    assert meter.usage() is None
    assert events.usage() is None


def json(value: object) -> str:
    return (
        "1e400" if value == inf else orjson.dumps(value).decode() if value != 1 << 64 else "9" * 30
    )
