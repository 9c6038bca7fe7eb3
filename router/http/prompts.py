"""Prompts of completions, as a router reads them from bodies of each form: their text, in order.

What is not understood is of unknown size, at most the body's. What is no text (images, audio)
counts for nothing, but has a name of its own where it stands: prompts that share their text alone
are not alike behind it.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

import orjson

from router.http.schemas import MOST_ANSWERS, Prompt, all_token_ids

# Of an item of a conversation, what holds text; the rest says what it is.
_TEXTS = ("text", "content", "thinking", "arguments", "output", "input", "summary")
# What is no text, by a digest.
_NAMED = re.compile("\0[0-9a-f]{16}\0")


def completion_prompts(data: dict[str, Any], size: int) -> tuple[Prompt, ...]:
    """``prompt`` of ``/v1/completions``: text, token ids, or a list of them."""
    value = data.get("prompt")
    if isinstance(value, list) and value and not all_token_ids(value):
        return tuple(_prompt(part, 0) for part in value[: MOST_ANSWERS + 1])
    return (_prompt(value, size),)


def chat_prompts(data: dict[str, Any], size: int) -> tuple[Prompt, ...]:
    """``messages`` of ``/v1/chat/completions``, a line each, after its tools."""
    messages = data.get("messages")
    if not isinstance(messages, list):
        return (Prompt("", more_bytes=size),)
    return _lines(*_tools(data), *map(_message, messages))


def response_prompts(data: dict[str, Any], size: int) -> tuple[Prompt, ...]:
    """``input`` of ``/v1/responses``, text or a list of items, after tools and instructions."""
    head, value = (*_tools(data), *_given(data, "instructions")), data.get("input")
    if isinstance(value, str):
        return _lines(*head, value)
    if not isinstance(value, list):
        return (Prompt("", more_bytes=size),)
    return _lines(*head, *map(_text, value))


def message_prompts(data: dict[str, Any], size: int) -> tuple[Prompt, ...]:
    """``messages`` of ``/v1/messages``, after its tools and ``system``."""
    messages = data.get("messages")
    if not isinstance(messages, list):
        return (Prompt("", more_bytes=size),)
    return _lines(*_tools(data), *_given(data, "system"), *map(_text, messages))


def _lines(*texts: str) -> tuple[Prompt, ...]:
    text = "\n".join(texts)
    if "\0" in text and (plain := _NAMED.sub("", text)) != text:
        return (Prompt(plain, named=text),)
    return (Prompt(text),)


def _tools(data: dict[str, Any]) -> tuple[str, ...]:
    """Templates put them first, and an agent's are longer than what it says."""
    tools = data.get("tools")
    return (orjson.dumps(tools).decode(),) if tools and isinstance(tools, list) else ()


def _given(data: dict[str, Any], name: str) -> tuple[str, ...]:
    text = _text(data.get(name))
    return (text,) if text else ()


def _prompt(value: object, size: int) -> Prompt:
    if isinstance(value, str):
        return Prompt(value)
    if isinstance(value, list) and value and all_token_ids(value):
        return Prompt.of_ids(value)
    return Prompt("", more_bytes=size)


def _message(message: object) -> str:
    """What is said in it, and the tools that it calls."""
    if not isinstance(message, dict):
        return _content(message)
    said, calls = _content(message.get("content")), message.get("tool_calls")
    return "\n".join((said, *map(_call, calls))) if isinstance(calls, list) else said


def _content(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(map(_part, content))
    return content if isinstance(content, str) else ""


def _call(call: object) -> str:
    """Name and arguments; templates leave out by what name its result comes back."""
    function = call.get("function") if isinstance(call, dict) else None
    return orjson.dumps(function, option=orjson.OPT_NON_STR_KEYS).decode() if function else ""


def _part(part: object) -> str:
    """The text of one part of a message, or the name of one that is none."""
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else _name(part)


def _name(part: object) -> str:
    """Nothing that has no type is a part."""
    if not isinstance(part, dict) or "type" not in part:
        return ""
    found = orjson.dumps(part, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return f"\0{blake2b(found, digest_size=8).hexdigest()}\0"


def _text(item: object, depth: int = 8) -> str:
    """The text of an item, a message, or a part of one: those are within each other."""
    if isinstance(item, str) or not depth:
        return item if isinstance(item, str) else ""
    if isinstance(item, list):
        return "\n".join(_text(part, depth - 1) for part in item)
    if not isinstance(item, dict):
        return ""
    found = [item[name] for name in _TEXTS if name in item]
    if not found:
        return _name(item)
    if item.get("type") == "tool_use":  # its input has a shape of its own
        return orjson.dumps(found).decode()
    return "\n".join(text for value in found if (text := _text(value, depth - 1)))
