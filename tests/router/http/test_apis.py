"""What a router reads of each planned path: prompts, limits, streams, usage, errors."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.http.apis import APIS, CHAT, COMPLETIONS, MESSAGES, RESPONSES, Api
from router.http.errors import NoCapacityError, RequestError, RouterError, WorkerFailed
from router.http.event_meter import EventMeter
from router.http.outline import outline
from router.http.usage import MOST_JSON_BYTES, JsonMeter, StreamMeter, Usage, read_usage

SAID = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
PARTS = [{"type": "text", "text": "hi"}, {"type": "image", "source": {"data": "AAAA"}}]
TOOLS = [{"name": "f", "description": "does"}]
TOOLS_TEXT = '[{"name":"f","description":"does"}]'
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "1", "output": "42"}
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "input": {"a": 1}}]}
BACK = {"role": "user", "content": [{"type": "tool_result", "content": [PARTS[0]]}]}


@pytest.mark.parametrize(
    ("api", "body", "text"),
    [
        (COMPLETIONS, {"prompt": "hi", "tools": TOOLS}, "hi"),
        (CHAT, {"messages": SAID}, "hi\nyes?"),
        (CHAT, {"messages": SAID, "tools": TOOLS}, f"{TOOLS_TEXT}\nhi\nyes?"),
        (RESPONSES, {"input": "hi"}, "hi"),
        (RESPONSES, {"input": "hi", "instructions": "short", "tools": TOOLS},
         f"{TOOLS_TEXT}\nshort\nhi"),
        (RESPONSES, {"input": [*SAID, CALL, RESULT]}, "hi\nyes?\n{}\n42"),
        (RESPONSES, {"input": [{"role": "user", "content": PARTS}]}, "hi\n"),
        (CHAT, {"messages": [{"role": "user", "content": PARTS}]}, "hi\n"),
        (MESSAGES, {"messages": [{"role": "user", "content": PARTS}]}, "hi\n"),
        (RESPONSES, {"input": 7}, None),
        (MESSAGES, {"messages": SAID, "system": "short"}, "short\nhi\nyes?"),
        (MESSAGES, {"messages": SAID, "system": [PARTS[0]], "tools": TOOLS},
         f"{TOOLS_TEXT}\nhi\nhi\nyes?"),
        (MESSAGES, {"messages": [USE, BACK]}, '[{"a":1}]\nhi'),
        (MESSAGES, {"messages": None}, None),
    ],
)  # fmt: skip
def test_prompts(api: Api, body: dict[str, Any], text: str | None) -> None:
    raw = orjson.dumps({"model": "m", **body})
    (prompt,) = outline(raw, api).prompts
    assert prompt.text == (text or "")
    assert prompt.more_bytes == (len(raw) if text is None else 0)


@pytest.mark.parametrize(
    ("api", "field"),
    [(COMPLETIONS, "max_tokens"), (CHAT, "max_tokens"), (CHAT, "max_completion_tokens"),
     (RESPONSES, "max_output_tokens"), (MESSAGES, "max_tokens")],
)  # fmt: skip
def test_limits(api: Api, field: str) -> None:
    request = outline(orjson.dumps({"model": "m", field: 7, "n": 3}), api)
    assert request.max_tokens == 7
    assert request.choices == (3 if api.choices else 1)
    unlimited = outline(b'{"model": "m"}', api)
    assert unlimited.output_limit(1000) == (1000 if api.chat else 16)


LEAVES = st.none() | st.integers(-9, 9) | st.text("ab", max_size=3)
NAMES = st.sampled_from(["content", "text", "input", "type", "output", "role"])
VALUES = st.recursive(
    LEAVES,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(NAMES, one, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(VALUES, st.sampled_from(APIS))
def test_whatever_a_body_has_is_no_error(value: object, api: Api) -> None:
    body = {"model": "m", api.field: value, "system": value, "instructions": value, "tools": value}
    assert outline(orjson.dumps(body), api).choices >= 1


def event(kind: str, told: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(told)}\n\n".encode()


def responses_stream(tokens: int, *, padding: int = 0, end: str = "completed") -> list[bytes]:
    """As vLLM writes them: the type last, the whole answer once more at the end."""
    answer: dict[str, Any] = {"id": "resp_1", "model": "m", "object": "response"}
    whole = {**answer, "output": "x" * padding, "status": end}
    usage = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}}
    whole["usage"] = {**usage, "output_tokens": tokens, "total_tokens": 9 + tokens}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": answer}),
        ("response.in_progress", {"response": answer}),
        ("response.output_item.added", {"item": {"type": "message"}}),
        *[("response.output_text.delta", {"delta": 'a "usage": {}'})] * tokens,
        ("response.output_text.done", {"text": "a" * tokens}),
        (f"response.{end}", {"response": whole}),
    ]
    return [
        event(kind, {**told, "sequence_number": k, "type": kind})
        for k, (kind, told) in enumerate(events)
    ]


def messages_stream(tokens: int) -> list[bytes]:
    used = {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 1}
    begin = {"id": "msg_1", "type": "message", "model": "m", "usage": used}
    delta = {"index": 0, "delta": {"type": "text_delta", "text": "data: a"}}
    told = {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": tokens}}
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": begin}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("ping", {}),
        *[("content_block_delta", delta)] * tokens,
        ("content_block_stop", {"index": 0}),
        ("message_delta", told),
        ("message_stop", {}),
    ]
    return [event(kind, {"type": kind, **told}) for kind, told in events]


@given(st.integers(1, 20), st.lists(st.integers(1, 300), max_size=30), st.booleans())
def test_streams_are_counted_however_they_are_cut(
    tokens: int, cuts: list[int], messages: bool
) -> None:
    text = b"".join(messages_stream(tokens) if messages else responses_stream(tokens))
    meter, seen = EventMeter(), 0
    for cut in cuts:
        seen += meter.feed(text[:cut])
        text = text[cut:]
    seen += meter.feed(text)
    assert (meter.finished, meter.error()) == (True, None)
    assert meter.usage() == Usage(9, tokens, 4)
    assert seen == meter.tokens(None) == tokens
    assert meter.answer_id == ("msg_1" if messages else "resp_1")
    assert meter.response_info().finish_reasons == ("end_turn" if messages else "completed",)
    assert meter.sequence == (-1 if messages else tokens + 4)


@pytest.mark.parametrize("size", [1000, 1 << 15, MOST_JSON_BYTES + 1, 1 << 20])
def test_the_last_event_of_a_long_answer_is_known_by_its_name_and_its_end(size: int) -> None:
    meter = EventMeter()
    for one in responses_stream(3, padding=MOST_JSON_BYTES * 2):
        for at in range(0, len(one), size):
            meter.feed(one[at : at + size])
    assert (meter.finished, meter.usage(), meter.events) == (True, Usage(9, 3, 4), 3)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "full"}}, "full"),
        ({"type": "error", "message": "full", "code": "x", "param": None}, "full"),
        ({"type": "response.failed", "response": {"error": {"message": "full"}}}, "full"),
        ({"type": "error"}, "error"),
    ],
)
def test_streams_that_fail_say_why(told: dict[str, Any], why: str) -> None:
    meter = EventMeter()
    meter.feed(b"".join(responses_stream(3)[:4]))
    meter.feed(b"data: " + orjson.dumps(told) + b"\n\n")
    assert (meter.error(), meter.finished) == (why, False)


CHUNK = b'data: {"choices":[{"index":%d,"text":" a","finish_reason":%s}]}\n\n'


@pytest.mark.parametrize(
    ("events", "finished"),
    [
        ([(0, b"null"), (0, b'"stop"')], True),
        ([(0, b"null"), (0, b"null")], False),
        ([(0, b'"stop"'), (1, b"null")], False),
        ([(0, b'"stop"'), (1, b"null"), (1, b'"length"')], True),
        ([], False),
    ],
)
def test_a_stream_without_done_has_ended_with_its_choices(
    events: list[tuple[int, bytes]], finished: bool
) -> None:
    meter = StreamMeter()
    for one in events:
        meter.feed(CHUNK % one)
    assert meter.finished is finished
    assert meter.tokens(None) == len(events)


def test_usage_of_all_forms() -> None:
    chat = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None}
    response = {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": None}
    message = {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": None}
    message |= {"cache_creation_input_tokens": 6}
    for usage in (chat, response, message):
        assert read_usage({"usage": usage}) == Usage(9, 2)
        meter = JsonMeter()
        meter.feed(b'{"id": "resp_7", "usage": ' + orjson.dumps(usage) + b"}")
        assert (meter.usage(), meter.answer_id) == (Usage(9, 2), "resp_7")


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RequestError("no", param="x"), "invalid_request_error"),
        (RequestError("no", status=404), "not_found_error"),
        (RequestError("no", status=413), "request_too_large"),
        (NoCapacityError("no", 1.0), "overloaded_error"),
        (WorkerFailed("no"), "api_error"),
    ],
)
def test_errors_have_the_form_of_their_path(api: Api, error: RouterError, kind: str) -> None:
    body = orjson.loads(api.error(error, "req-1"))
    assert body["error"]["message"] == "no"
    last = orjson.loads(api.last_event(error, 7, "req-1").partition(b"data: ")[2])
    assert last["error"] == body["error"]
    if api is MESSAGES:
        assert last["request_id"] == "req-1"
        assert body == {"type": "error", "request_id": "req-1", "error": body["error"]}
        assert body["error"]["type"] == kind
    else:
        assert body["error"].keys() == {"message", "type", "param", "code"}
    if api is RESPONSES:
        assert (last["type"], last["sequence_number"], last["message"]) == ("error", 7, "no")
