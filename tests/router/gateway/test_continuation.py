"""A stream that breaks off anywhere and goes on elsewhere is, to its client, one that did not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.forwarding.continuation import (
    KNOWN,
    MOST_EVENT,
    Continuation,
    Diverged,
    is_determined,
)
from router.http.shorten import SMALL

TEXTS = st.text(alphabet="ab é中😀\n", max_size=30)


def stream(name: str, tokens: list[str], *, chat: bool, gap: str = "\n\n") -> bytes:
    """As engines send it; each event has a token, the last one why it ended."""
    events: list[str] = [": hello"]
    for k, token in enumerate(tokens):
        reason = "stop" if k == len(tokens) - 1 else None
        said: dict[str, Any] = {"text": token}
        if chat:
            role = {} if k else {"role": "assistant"}
            said = {"delta": {**role, "content": token}}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        events.append("data: " + json.dumps({"id": name, "created": 1, "choices": [choice]}))
    usage = {"id": name, "created": 1, "choices": [], "usage": {"completion_tokens": len(tokens)}}
    return gap.join([*events, "data: " + json.dumps(usage), "data: [DONE]", ""]).encode()


def told(body: bytes) -> tuple[str, list[str], set[str], int]:
    """Its text, its reasons to end, the ids that it names, how often it says that it is over."""
    text, reasons, names, done = "", [], set(), 0
    for event in body.split(b"\n\n"):
        data = event.partition(b"data: ")[2]
        if data == b"[DONE]":
            done += 1
        elif data:
            read = json.loads(data)
            names.add(read["id"])
            for choice in read["choices"]:
                text += choice.get("delta", choice).get("content" if "delta" in choice else "text")
                reasons += [choice["finish_reason"]] * (choice["finish_reason"] is not None)
    return text, reasons, names, done


@st.composite
def broken_off(draw: st.DrawFn) -> tuple[bytes, bytes, int, str, int]:
    """Two streams of the same text in tokens of their own; where the first breaks off."""
    text, chat = draw(TEXTS), draw(st.booleans())
    both = []
    for name in ("first", "second"):
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
        tokens = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        gap = draw(st.sampled_from(["\n\n", "\r\n\r\n"]))
        both.append(stream(name, tokens, chat=chat, gap=gap))
    cut = draw(st.integers(0, len(both[0]) - len("data: [DONE]") - 3))
    return both[0], both[1], cut, text, draw(st.integers(1, 400))


@given(broken_off())
def test_the_client_gets_one_answer(case: tuple[bytes, bytes, int, str, int]) -> None:
    first, second, cut, text, size = case
    again, got = Continuation(), b""
    for body in (first[:cut], second):
        again.restart()
        got += b"".join(again.feed(body[k : k + size]) for k in range(0, len(body), size))
    got += again.flush()
    assert again.possible
    said, reasons, names, done = told(got)
    assert (said, reasons, done) == (text, ["stop"], 1)
    assert len(names) == 1


@given(broken_off())
def test_a_stream_that_does_not_break_off_passes_as_it_is(
    case: tuple[bytes, bytes, int, str, int],
) -> None:
    first, _, _, _, size = case
    again = Continuation()
    again.restart()
    got = b"".join(again.feed(first[k : k + size]) for k in range(0, len(first), size))
    assert got + again.flush() == first.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("other", [["a ", "bird"], ["a "], ["a c"], []])
def test_who_says_something_else_is_not_passed_on(other: list[str]) -> None:
    again = Continuation()
    again.restart()
    again.feed(stream("first", ["a ", "cat ", "sat"], chat=False).partition(b'"sat"')[0])
    again.restart()
    with pytest.raises(Diverged):
        again.feed(stream("second", other, chat=False))
    assert not again.possible


EXACT: dict[str, Any] = {"model": "m", "prompt": "a", "stream": True, "temperature": 0}
NOT_EXACT: list[dict[str, Any]] = [
    {"temperature": 0.5},
    {"temperature": None},
    {"stream": False},
    {"n": 2},
    {"prompt": ["a", "b"]},
    {"logprobs": 1},
    {"tools": []},
    {"response_format": {"type": "json_object"}},
    {"best_of": 3},
    {"a field of tomorrow": 1},
]


def test_what_is_determined() -> None:
    def is_so(**more: object) -> bool:
        return is_determined(json.dumps({**EXACT, **more}).encode())

    assert is_so()
    assert is_so(temperature=0.7, seed=3)
    assert is_so(prompt=[1, 2, 3], n=1)
    assert is_so(stop=["x"], stream_options={"include_usage": True})
    assert not any(is_so(**more) for more in NOT_EXACT)
    assert not is_determined(b"nonsense")
    assert not KNOWN & {"logprobs", "tools", "response_format", "guided_json", "best_of", "echo"}


@pytest.mark.parametrize("event", [b'{"error": {"message": "no memory"}}', b"[1]", b"nonsense"])
def test_what_is_no_text_is_passed_on_and_never_said_again(event: bytes) -> None:
    again = Continuation()
    again.restart()
    assert again.feed(b"data: " + event + b"\n\n") == b"data: " + event + b"\n\n"
    assert not again.possible


def test_an_event_without_end_passes_and_is_not_kept() -> None:
    part, endless = b"data: " + b"x" * 1000, Continuation()
    passed = b"".join(endless.feed(part) for _ in range(3 * MOST_EVENT // len(part)))
    assert len(passed) >= 2 * MOST_EVENT
    assert not endless.possible
    again = Continuation()
    again.feed(stream("first", ["a", "b"], chat=True))
    again.restart()
    with pytest.raises(Diverged):
        again.feed(b"data: " + b"x" * (MOST_EVENT + 1))


def test_large_requests_are_not_read_for_it() -> None:
    body = json.dumps({"model": "m", "prompt": "x", "stream": True, "temperature": 0}).encode()
    assert is_determined(body)
    assert not is_determined(body + b" " * SMALL)
