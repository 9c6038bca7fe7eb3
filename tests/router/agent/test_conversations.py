"""Bodies of responses and messages as the chats that engines of our own know."""

from __future__ import annotations

from typing import Any

import pytest

from router.agent.conversations import Form
from router.agent.messages import Messages
from router.agent.responses import MOST_KEPT, MOST_KEPT_BYTES, Responses
from router.http.errors import RequestError

USER = {"role": "user", "content": "hi"}
TEXT = {"type": "text", "text": "hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "42"}
FUNCTION = {"name": "f", "description": "d", "parameters": {}}


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({"input": "hi"}, [USER]),
        ({"input": "hi", "instructions": "short"}, [{"role": "system", "content": "short"}, USER]),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
         [{"role": "user", "content": [TEXT]}]),
        ({"input": [{"role": "developer", "content": "short"}, {"type": "message", **USER}]},
         [{"role": "system", "content": "short"}, {"type": "message", **USER} | USER]),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"a":1}'},
                    {"type": "reasoning", "summary": []},
                    {"type": "function_call_output", "call_id": "1", "output": "42"}]},
         [CALLED, RESULT]),
    ],
)  # fmt: skip
def test_responses(body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    asked = {"model": "m", "max_output_tokens": 7, "temperature": 0.5, "store": True, **body}
    chat = Responses().to_chat(asked)
    kept = ("role", "content", "tool_calls", "tool_call_id")
    told = [{k: v for k, v in one.items() if k in kept} for one in chat.pop("messages")]
    assert told == [{k: v for k, v in one.items() if k in kept} for one in messages]
    assert chat == {"model": "m", "max_tokens": 7, "temperature": 0.5}


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({"messages": [USER]}, [USER]),
        ({"messages": [USER], "system": [TEXT]}, [{"role": "system", "content": "hi"}, USER]),
        ({"messages": [{"role": "user", "content": [TEXT]}]},
         [{"role": "user", "content": [TEXT]}]),
        ({"messages": [{"role": "assistant", "content": [
            {"type": "thinking", "thinking": "so"},
            {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]}]}, [CALLED]),
        ({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "content": "42"}, TEXT]}]},
         [RESULT, {"role": "user", "content": [TEXT]}]),
    ],
)  # fmt: skip
def test_messages(body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    asked = {"model": "m", "max_tokens": 7, "stop_sequences": ["x"], "metadata": {}, **body}
    tools = [{"name": "f", "description": "d", "input_schema": {}}]
    chat = Messages().to_chat({**asked, "tools": tools})
    assert chat.pop("messages") == messages
    assert chat.pop("tools") == [{"type": "function", "function": FUNCTION}]
    assert chat == {"model": "m", "max_tokens": 7, "stop": ["x"]}


@pytest.mark.parametrize(
    ("form", "body", "param"),
    [
        (Responses(), {}, "input"),
        (Responses(), {"input": []}, "input"),
        (Responses(), {"input": 7}, "input"),
        (Responses(), {"input": ["a"]}, "input"),
        (Responses(), {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        (Responses(), {"input": [{"role": "user", "content": 7}]}, "input[0].content"),
        (Responses(), {"input": "a", "background": True}, "background"),
        (Responses(), {"input": "a", "conversation": "c"}, "conversation"),
        (Responses(), {"input": "a", "previous_response_id": "x"}, "previous_response_id"),
        (Responses(), {"input": "a", "previous_response_id": []}, "previous_response_id"),
        (Messages(), {"messages": [USER]}, "max_tokens"),
        (Messages(), {"max_tokens": 1}, "messages"),
        (Messages(), {"max_tokens": 1, "messages": "hi"}, "messages"),
        (Messages(), {"max_tokens": 1, "messages": [USER], "system": 7}, "system"),
        (Messages(), {"max_tokens": 1, "messages": [USER], "tools": [1]}, "tools"),
        (Messages(), {"max_tokens": 1, "messages": [{"role": "user", "content": 7}]},
         "messages[0].content"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(form: Form, body: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as told:
        form.to_chat({"model": "m", **body})
    assert told.value.param == param


def test_the_latest_answers_are_kept() -> None:
    responses = Responses()
    for k in range(MOST_KEPT + 2):
        responses.keep({"id": f"r{k}"}, [USER])
    with pytest.raises(RequestError):
        responses.find("r1")
    assert responses.find("r2") == {"id": "r2"}
    chat = responses.to_chat({"input": "so?", "previous_response_id": "r2"})
    assert chat["messages"] == [USER, {"role": "user", "content": "so?"}]
    assert responses.delete("r2")["deleted"] is True
    with pytest.raises(RequestError):
        responses.delete("r2")


def test_large_prompts_are_kept_up_to_a_size_and_the_latest_always() -> None:
    responses = Responses()
    large = [{"role": "user", "content": "x" * (MOST_KEPT_BYTES // 3)}]
    for k in range(5):
        responses.keep({"id": f"resp_{k}"}, large)
    assert [k for k in range(5) if f"resp_{k}" in responses._kept] == [3, 4]
    responses.keep({"id": "larger"}, large * 4)
    assert list(responses._kept) == ["larger"]
    responses.delete("larger")
    assert (len(responses._kept), responses._bytes) == (0, 0)
