"""OpenAI's ``/v1/responses``, in and out of a chat's form, and the answers that are kept."""

from __future__ import annotations

import time
from collections import OrderedDict
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

# Answers, and bytes of what led to them: a prompt may be as large as a body.
MOST_KEPT, MOST_KEPT_BYTES = 1000, 64 << 20
# What is said of the answer only, or asks for nothing that an engine of ours could do otherwise.
_OWN = frozenset(
    (
        "input", "instructions", "max_output_tokens", "previous_response_id", "store", "include",
        "metadata", "text", "reasoning", "truncation", "parallel_tool_calls", "service_tier",
        "prompt_cache_key", "safety_identifier", "max_tool_calls", "stream_options", "tool_choice",
        "background", "top_logprobs", "n",
    )
)  # fmt: skip
# What would change the answer, and is not done here.
_UNDONE = {"background": (False,), "conversation": (), "prompt": ()}


class Responses:
    """The form; see `router.agent.conversations`. Keeps the latest answers with what led to them.

    `MOST_KEPT` of them, and no more than `MOST_KEPT_BYTES`; the latest one always.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[dict[str, Any], list[Message], int]] = OrderedDict()
        self._bytes = 0

    def to_chat(self, body: Body) -> Body:
        """Part of `Form`."""
        for name, usual in _UNDONE.items():
            if body.get(name) is not None and body[name] not in usual:
                raise RequestError(
                    f"This engine does not do '{name}'.", param=name, code="unsupported_parameter"
                )
        chat = {name: value for name, value in body.items() if name not in _OWN}
        instructions = text_of(body.get("instructions"), "instructions")
        messages: list[Message] = []
        if instructions:
            messages.append({"role": "system", "content": instructions})
        chat["messages"] = messages + self._before(body) + _messages(body)
        if body.get("max_output_tokens") is not None:
            chat["max_tokens"] = body["max_output_tokens"]
        form = body["text"].get("format") if isinstance(body.get("text"), dict) else None
        if form is not None:
            chat["response_format"] = form
        if body.get("store") is False:
            chat["store"] = False
        return chat

    def _before(self, body: Body) -> list[Message]:
        """What was said up to the answer that it goes on from."""
        name = body.get("previous_response_id")
        if name is None:
            return []
        kept = self._kept.get(name) if isinstance(name, str) else None
        if kept is None:
            raise RequestError(
                f"The response '{name}' is not known here.",
                param="previous_response_id",
                code="previous_response_not_found",
                status=404,
            )
        return kept[1]

    def formatter(self, body: Body, model: str, engine: str, prompt_tokens: int) -> _Formatter:  # noqa: ARG002
        """Part of `Form`."""
        said = [one for one in body["messages"] if one.get("role") != "system"]
        return _Formatter(self, model, said, keep=body.get("store") is not False)

    def keep(self, answer: dict[str, Any], said: list[Message]) -> None:
        """An answer has ended."""
        size = len(orjson.dumps(said))
        self._kept[answer["id"]] = answer, said, size
        self._bytes += size
        while len(self._kept) > MOST_KEPT or (
            self._bytes > MOST_KEPT_BYTES and len(self._kept) > 1
        ):
            self._bytes -= self._kept.popitem(last=False)[1][2]

    def find(self, name: str) -> dict[str, Any]:
        """An answer that is kept.

        Raises:
            RequestError: 404 if it is not.
        """
        kept = self._kept.get(name)
        if kept is None:
            message = f"The response '{name}' is not known here."
            raise RequestError(message, code="response_not_found", status=404)
        return kept[0]

    def delete(self, name: str) -> dict[str, Any]:
        """Forget it.

        Raises:
            RequestError: 404 if it is not kept.
        """
        self.find(name)
        self._bytes -= self._kept.pop(name)[2]
        return {"id": name, "object": "response.deleted", "deleted": True}


def _messages(body: Body) -> list[Message]:
    value = body.get("input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    found = []
    for k, item in enumerate(items_of(body, "input")):
        kind = item.get("type", "message")
        if kind == "message":
            found.append({"role": _role(item), "content": _content(item, f"input[{k}].content")})
        elif kind == "function_call":
            found.append(call_of(item.get("name"), item.get("arguments"), item.get("call_id")))
        elif kind == "function_call_output":
            told = text_of(item.get("output"), f"input[{k}].output")
            call_id = item.get("call_id")
            found.append({"role": "tool", "tool_call_id": call_id, "content": told})
        elif kind != "reasoning":
            raise RequestError(
                "This engine takes messages, calls of functions and their outputs in 'input'.",
                param=f"input[{k}].type",
                code="unsupported_parameter",
            )
    if not found:
        raise RequestError("'input' must not be empty.", param="input", code="invalid_value")
    return found


def _role(item: Message) -> object:
    role = item.get("role")
    return "system" if role == "developer" else role


def _content(item: Message, name: str) -> object:
    content = item.get("content")
    if not isinstance(content, list):
        return text_of(content, name)
    text_of(content, name)  # whether it is made of objects
    kinds = ("input_text", "output_text")
    return [{**part, "type": "text"} if part.get("type") in kinds else part for part in content]


class _Formatter:
    """One answer, of one message of text."""

    def __init__(
        self, responses: Responses, model: str, said: list[Message], *, keep: bool
    ) -> None:
        self._responses, self._said, self._keep = responses, said, keep
        self.id, self._item_id = new_id("resp"), new_id("msg")
        self._number, self._texts, self._reason = 0, list[str](), "stop"
        self._answer: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
        }
        self._at = {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **told: object) -> bytes:
        self._number += 1
        return event(kind, {"sequence_number": self._number - 1, **told})

    def chunk(self, outputs: Sequence[ChoiceOutput]) -> bytes:
        """Part of `Formatter`."""
        events = []
        if not self._number:
            events.append(self._event("response.created", response=self._answer))
            events.append(self._event("response.in_progress", response=self._answer))
            item = {**self._item("in_progress"), "content": []}
            events.append(self._event("response.output_item.added", output_index=0, item=item))
            part = _part("")
            events.append(self._event("response.content_part.added", **self._at, part=part))
        for output in outputs:
            text = output.token.text
            self._texts.append(text)
            self._reason = output.token.finish_reason or self._reason
            kind = "response.output_text.delta"
            events.append(self._event(kind, **self._at, delta=text, logprobs=[]))
        return b"".join(events)

    def _item(self, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self._item_id, "type": "message", "role": "assistant"}
        return {**item, "status": status, "content": [_part("".join(self._texts))]}

    def end(self, usage: Mapping[str, Any]) -> bytes:
        """Part of `Formatter`."""
        text, whole = "".join(self._texts), self._whole(usage)
        (item,) = whole["output"]
        return b"".join(
            (
                self._event("response.output_text.done", **self._at, text=text, logprobs=[]),
                self._event("response.content_part.done", **self._at, part=_part(text)),
                self._event("response.output_item.done", output_index=0, item=item),
                self._event(f"response.{whole['status']}", response=whole),
            )
        )

    def full(self, outputs: Sequence[ChoiceOutput], usage: Mapping[str, Any]) -> bytes:
        """Part of `Formatter`."""
        self._texts = [text_in(outputs)]
        self._reason = outputs[-1].token.finish_reason or self._reason
        return orjson.dumps(self._whole(usage))

    def _whole(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, which is kept from now on."""
        cut = self._reason == "length"
        status = "incomplete" if cut else "completed"
        prompt, output = usage["prompt_tokens"], usage["completion_tokens"]
        answer = {
            **self._answer,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._item(status)],
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + output,
            },
        }
        if self._keep:
            message = {"role": "assistant", "content": "".join(self._texts)}
            self._responses.keep(answer, [*self._said, message])
        return answer


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
