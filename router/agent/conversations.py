"""Conversations of other forms as chats, which engines of our own know, and chats' answers back.

A `Form` is that of one path: bodies become those of ``/v1/chat/completions``, and tokens become the
path's own answer. Text only: what else there is, an engine sees as it would in a chat.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from router.agent.loop import ChoiceOutput
from router.http.errors import RequestError

Body = dict[str, Any]
Message = dict[str, Any]


class Formatter(Protocol):
    """Makes one request's answer."""

    @property
    def id(self) -> str:
        """What the answer calls itself."""
        ...

    def chunk(self, outputs: Sequence[ChoiceOutput]) -> bytes:
        """Events of a stream for these tokens."""
        ...

    def end(self, usage: Mapping[str, Any]) -> bytes:
        """The stream's last events; `usage` is OpenAI's object."""
        ...

    def full(self, outputs: Sequence[ChoiceOutput], usage: Mapping[str, Any]) -> bytes:
        """The answer in one piece."""
        ...


class Form(Protocol):
    """One path's form."""

    def to_chat(self, body: Body) -> Body:
        """The same as a body of a chat.

        Raises:
            RequestError: naming the field that is wrong.
        """
        ...

    def formatter(self, body: Body, model: str, engine: str, prompt_tokens: int) -> Formatter:
        """What makes the answer to `body`, which is the chat's."""
        ...


def new_id(prefix: str) -> str:
    """A name that never comes twice."""
    return f"{prefix}_{uuid.uuid4().hex}"


def event(kind: str, told: Mapping[str, Any]) -> bytes:
    """A server-sent event that has a name."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **told}))


def wrong(name: str, expected: str) -> RequestError:
    """A field is of a wrong kind."""
    return RequestError(f"'{name}' must be {expected}.", param=name, code="invalid_type")


def items_of(body: Body, name: str) -> list[Message]:
    """A field that is a list of objects.

    Raises:
        RequestError: if it is none.
    """
    value = body.get(name)
    if value is None:
        raise RequestError(f"'{name}' is required.", param=name, code="missing_field")
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise wrong(name, "an array of objects")
    return value


def text_of(content: object, name: str) -> str:
    """Text, or the text of a list of parts; parts that are not text count for nothing.

    Raises:
        RequestError: if it is neither.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise wrong(name, "a string or an array of objects")
    texts = [part.get("text") for part in content]
    return "\n".join(text for text in texts if isinstance(text, str))


def text_in(outputs: Sequence[ChoiceOutput]) -> str:
    """What the tokens say."""
    return "".join(output.token.text for output in outputs)


def call_of(name: object, arguments: object, call_id: object) -> Message:
    """An assistant's message that calls a tool, as chats have it."""
    told = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    function = {"name": name, "arguments": told}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}
