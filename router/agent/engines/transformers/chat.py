"""Messages to a prompt, by the model's own template."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from router.agent.engines.transformers.output_params import flag
from router.http.errors import RequestError

OPTIONS = "chat_template_kwargs"


def render(tokenizer: Any, body: Mapping[str, Any]) -> str:  # noqa: ANN401 - transformers' own
    """The prompt of a chat.

    Raises:
        RequestError: if the template does not take the messages, or a field is wrong.
    """
    options = _options(tokenizer, body)
    go_on = flag(body, "continue_final_message", default=False)
    begin = flag(body, "add_generation_prompt", default=not go_on)
    if go_on and begin:
        name = "continue_final_message"
        message = f"'{name}' and 'add_generation_prompt' contradict each other."
        raise RequestError(message, param=name, code="invalid_value")
    messages = [_flat(message) for message in body["messages"]]
    try:
        text = tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=begin,
            continue_final_message=go_on,
            tokenize=False,
            **options,
        )
    except Exception as error:  # a template is a program, and may refuse in any way
        message = f"The model's chat template does not take these messages: {error}"
        raise RequestError(message, param="messages", code="invalid_value") from error
    return str(text)


def _options(tokenizer: Any, body: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ANN401
    """What the template's own variables are to be; nothing that is transformers'."""
    options = body.get(OPTIONS) or {}
    if not isinstance(options, Mapping):
        raise RequestError(f"'{OPTIONS}' must be an object.", param=OPTIONS, code="invalid_type")
    theirs = inspect.signature(tokenizer.apply_chat_template).parameters
    for name in options:
        if name in theirs:
            message = f"'{OPTIONS}' must not set '{name}'."
            raise RequestError(message, param=OPTIONS, code="invalid_value")
    return options


def _flat(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates know it: its content in one string.

    Raises:
        RequestError: if there is anything but text in it.
    """
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "content": content or ""}
    for part in content:
        if part.get("type", "text") != "text":
            text = f"This engine takes text, not {part['type']!r}."
            raise RequestError(text, param="messages", code="unsupported_parameter")
    return {**message, "content": "\n".join(part["text"] for part in content)}
