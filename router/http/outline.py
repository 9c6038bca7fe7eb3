"""Completion bodies as a router reads them: what it needs to place them, and nothing refused.

Engines differ in what they take, and the body reaches them as it came. So what is not understood
here is of unknown size, no error: the engine says what is wrong with it. Refused is what could go
nowhere: no JSON object, or a model that is no name. Engines of our own read strictly, by
`router.http.schemas`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from router.http.errors import RequestError
from router.http.schemas import (
    MOST_ANSWERS,
    MOST_TOKENS,
    CompletionRequest,
    Prompt,
    all_token_ids,
    load,
    require_few_answers,
)
from router.http.shorten import Shortened


def outline(body: bytes, *, chat: bool) -> CompletionRequest:
    """What is known of a body of ``/v1/chat/completions`` (`chat`) or ``/v1/completions``.

    `model` is empty where it names none.

    Raises:
        RequestError: if it cannot be routed.
    """
    return _outline(load(body), len(body), chat=chat)


def outline_shortened(found: Shortened, size: int, *, chat: bool) -> CompletionRequest:
    """The same of a body of `size` bytes, of which not everything was looked at."""
    request = _outline(load(found.body), size, chat=chat)
    each = found.token_ids // len(request.prompts)
    prompts = [
        prompt if prompt.token_ids is None else replace(prompt, token_ids=prompt.token_ids + each)
        for prompt in request.prompts
    ]
    longest = max(range(len(prompts)), key=lambda k: len(prompts[k].text))
    prompts[longest] = replace(prompts[longest], more_bytes=found.text_bytes)
    return replace(request, prompts=tuple(prompts))


def _outline(data: dict[str, Any], size: int, *, chat: bool) -> CompletionRequest:
    options, n = data.get("stream_options"), data.get("n")
    limit = _limit(data, "max_tokens")
    if chat:
        limit = _limit(data, "max_completion_tokens") or limit
    prompts = (_chat(data, size),) if chat else _prompts(data.get("prompt"), size)
    n = n if type(n) is int and n > 0 else 1
    require_few_answers(len(prompts), n)
    return CompletionRequest(
        chat=chat,
        model=_model(data),
        prompts=prompts,
        max_tokens=limit,
        n=n,
        stream=data.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        ignore_eos=data.get("ignore_eos") is True,
        stop=_stop(data.get("stop")),
        stop_tokens=bool(data.get("stop_token_ids")),
    )


def _model(data: dict[str, Any]) -> str:
    model = data.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError("'model' must be a string.", param="model", code="invalid_type")
    return model or ""


def _limit(data: dict[str, Any], name: str) -> int | None:
    """Output tokens; engines that take 0 make none, and below it stands for no limit."""
    value = data.get(name)
    return max(1, min(value, MOST_TOKENS)) if type(value) is int and value >= 0 else None


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    parts = value if isinstance(value, list) else [value]
    return tuple(part for part in parts if isinstance(part, str) and part)


def _prompts(value: object, size: int) -> tuple[Prompt, ...]:
    if isinstance(value, list) and value and not all_token_ids(value):
        return tuple(_prompt(part, 0) for part in value[: MOST_ANSWERS + 1])
    return (_prompt(value, size),)


def _prompt(value: object, size: int) -> Prompt:
    if isinstance(value, str):
        return Prompt(value)
    if isinstance(value, list) and value and all_token_ids(value):
        return Prompt.of_ids(value)
    return Prompt("", more_bytes=size)


def _chat(data: dict[str, Any], size: int) -> Prompt:
    """The text of all messages, a line each."""
    messages = data.get("messages")
    if not isinstance(messages, list):
        return Prompt("", more_bytes=size)
    return Prompt("\n".join(_message(message) for message in messages))


def _message(message: object) -> str:
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, list):
        return "\n".join(map(_part, content))
    return content if isinstance(content, str) else ""


def _part(part: object) -> str:
    """The text of one part of a message; parts that are not text count for nothing."""
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else ""
