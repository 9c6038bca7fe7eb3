"""Anthropic's ``/v1/messages``, in and out of a chat's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from router.agent.conversations import (
    Body,
    Message,
    call_of,
    event,
    items_of,
    new_id,
    text_in,
    text_of,
)
from router.agent.loop import ChoiceOutput
from router.http.errors import RequestError

# What a chat has under another name, or not at all.
_OWN = frozenset(
    ("system", "messages", "stop_sequences", "metadata", "thinking", "tool_choice", "n")
)
_REASONS = {"stop": "end_turn", "length": "max_tokens"}


class Messages:
    """The form; see `router.agent.conversations`. `counted`: of a body that asks for no answer."""

    def __init__(self, *, counted: bool = False) -> None:
        self._counted = counted

    def to_chat(self, body: Body) -> Body:
        """Part of `Form`."""
        if not self._counted and body.get("max_tokens") is None:
            raise RequestError("'max_tokens' is required.", param="max_tokens")
        chat = {name: value for name, value in body.items() if name not in _OWN}
        system = text_of(body.get("system"), "system")
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        for k, message in enumerate(items_of(body, "messages")):
            messages += _messages(message, f"messages[{k}].content")
        chat["messages"] = messages
        if body.get("stop_sequences"):
            chat["stop"] = body["stop_sequences"]
        if body.get("tools"):
            chat["tools"] = [_tool(tool) for tool in items_of(body, "tools")]
        return chat

    def formatter(self, body: Body, model: str, engine: str, prompt_tokens: int) -> _Formatter:  # noqa: ARG002
        """Part of `Form`."""
        return _Formatter(model, prompt_tokens)


def _tool(tool: Message) -> Message:
    function = {"name": tool.get("name"), "description": tool.get("description")}
    return {"type": "function", "function": {**function, "parameters": tool.get("input_schema")}}


def _messages(message: Message, name: str) -> list[Message]:
    """What one message is in a chat: results of tools are messages of their own there."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(content, list):
        return [{"role": role, "content": text_of(content, name)}]
    text_of(content, name)  # whether it is made of objects
    found: list[Message] = []
    parts: list[Message] = []
    for part in content:
        if part.get("type") == "tool_use":
            found.append(call_of(part.get("name"), part.get("input"), part.get("id")))
        elif part.get("type") == "tool_result":
            told = text_of(part.get("content"), name)
            found.append({"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": told})
        elif part.get("type") != "thinking":
            parts.append(part)
    if parts or not found:
        found.append({"role": role, "content": parts})
    return found


class _Formatter:
    """One answer, of one block of text."""

    def __init__(self, model: str, prompt_tokens: int) -> None:
        self.id = new_id("msg")
        self._prompt_tokens, self._begun, self._reason = prompt_tokens, False, "end_turn"
        self._message: dict[str, Any] = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": prompt_tokens, "output_tokens": 0},
        }

    def chunk(self, outputs: Sequence[ChoiceOutput]) -> bytes:
        """Part of `Formatter`."""
        events = []
        if not self._begun:
            self._begun = True
            block = {"type": "text", "text": ""}
            events.append(event("message_start", {"message": self._message}))
            events.append(event("content_block_start", {"index": 0, "content_block": block}))
        for output in outputs:
            self._see(output)
            delta = {"type": "text_delta", "text": output.token.text}
            events.append(event("content_block_delta", {"index": 0, "delta": delta}))
        return b"".join(events)

    def _see(self, output: ChoiceOutput) -> None:
        reason = output.token.finish_reason
        if reason is not None:
            self._reason = _REASONS.get(reason, reason)

    def end(self, usage: Mapping[str, Any]) -> bytes:
        """Part of `Formatter`."""
        delta = {"stop_reason": self._reason, "stop_sequence": None}
        last = {"delta": delta, "usage": _usage(usage)}
        return b"".join(
            (
                event("content_block_stop", {"index": 0}),
                event("message_delta", last),
                event("message_stop", {}),
            )
        )

    def full(self, outputs: Sequence[ChoiceOutput], usage: Mapping[str, Any]) -> bytes:
        """Part of `Formatter`."""
        self._see(outputs[-1])
        block = {"type": "text", "text": text_in(outputs)}
        told = {"content": [block], "stop_reason": self._reason, "usage": _usage(usage)}
        return orjson.dumps({**self._message, **told})


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """Anthropic's: what was found in the cache is no input."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"] - cached,
        "cache_read_input_tokens": cached,
        "output_tokens": usage["completion_tokens"],
    }
