"""OpenAI request bodies, read strictly, for engines of our own: what is wrong is named.

Fields that are not known here are the engine's business. Gateways, and sidecars, which pass bodies
on, read by `router.http.outline`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from router.http.errors import NoMemoryError, RequestError

# OpenAI's default for /v1/completions; chat has none and runs to the end of the context.
DEFAULT_COMPLETION_TOKENS = 16
MOST_CHOICES = 128
MOST_ANSWERS = 2048  # prompts times choices of one request
MOST_TOKENS = 1 << 31  # output tokens of one choice


@dataclass(slots=True)
class Prompt:
    """One prompt: its text, or the number of token ids that came instead of text.

    `ids` are those, four bytes each, to be told apart by; empty if they are none that fit.
    `more_bytes` of text follow, or may, that nobody has looked at. `named` is its text with a name
    for what is no text, where that stands; empty if there is nothing.
    """

    text: str
    token_ids: int | None = None
    ids: bytes = field(default=b"", repr=False)
    more_bytes: int = 0
    named: str = field(default="", repr=False)

    @property
    def text_bytes(self) -> int:
        """Length of its text in UTF-8."""
        text = self.text
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        return size + self.more_bytes

    @classmethod
    def of_ids(cls, ids: list[int]) -> Prompt:
        """A prompt that came as token ids."""
        try:
            return cls("", len(ids), array("I", ids).tobytes())
        except OverflowError:
            return cls("", len(ids))


class Claims(NamedTuple):
    """What a body asks of an engine that its sender's key may not allow.

    `adapters`: beside the model's name; `rank`: the engine's own priority, None if it has none;
    `kept`: a conversation that the engine keeps for somebody.
    """

    adapters: tuple[str, ...] = ()
    rank: object = None
    kept: bool = False


NO_CLAIMS = Claims()


@dataclass(slots=True)
class CompletionRequest:
    """What is known of a request. `max_tokens` None: none was asked for.

    `other_limit`: what it asks for at most, by the several names that engines have for that.
    `stop_tokens`: it may stop at tokens that it names. `previous`: the answer that it goes on
    from, by its name. `session`: the conversation that it belongs to, if its body says so. `tier`:
    its ``service_tier``. `apart`: by what else than its prompt its engine tells caches apart.
    `unknown`: nobody knows what of its prompt an engine finds in its cache.
    """

    chat: bool
    model: str
    prompts: tuple[Prompt, ...]
    max_tokens: int | None
    n: int
    stream: bool
    include_usage: bool
    ignore_eos: bool
    stop: tuple[str, ...]
    stop_tokens: bool = False
    previous: str = ""
    session: str = ""
    tier: str = ""
    apart: str = ""
    unknown: bool = False
    other_limit: int = 0
    claims: Claims = NO_CLAIMS

    @property
    def choices(self) -> int:
        """Answers that it wants."""
        return len(self.prompts) * self.n

    @property
    def least_tokens(self) -> int:
        """Output tokens of one choice that it surely makes."""
        may_stop = not self.ignore_eos or self.stop or self.stop_tokens
        return 1 if may_stop or self.max_tokens is None else self.max_tokens

    def output_limit(self, context_left: int) -> int:
        """Most output tokens of one choice, if `context_left` remain after the prompt."""
        if self.max_tokens is not None:
            return self.max_tokens
        return context_left if self.chat else min(context_left, DEFAULT_COMPLETION_TOKENS)


def read(data: dict[str, Any], *, chat: bool) -> CompletionRequest:
    """Read a body of ``/v1/chat/completions`` (`chat`) or ``/v1/completions``.

    Raises:
        RequestError: naming the field that is wrong.
    """
    stream = _boolean(data, "stream")
    options = data.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "an object", options)
    if options and not stream:
        raise RequestError(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        _number(data, name)
    limit = _positive(data, "max_tokens")
    if chat and data.get("max_completion_tokens") is not None:
        limit = _positive(data, "max_completion_tokens")
    model = _model(data)
    prompts = (Prompt(_messages(data)),) if chat else _prompts(data)
    n = _positive(data, "n", MOST_CHOICES) or 1
    require_few_answers(len(prompts), n)
    return CompletionRequest(
        chat=chat,
        model=model,
        prompts=prompts,
        max_tokens=limit,
        n=n,
        stream=stream,
        include_usage=bool(options and _boolean(options, "include_usage", "stream_options.")),
        ignore_eos=_boolean(data, "ignore_eos"),
        stop=_stop(data),
        stop_tokens=bool(data.get("stop_token_ids")),
    )


def load(body: bytes) -> dict[str, Any]:
    """A body's JSON object.

    Raises:
        RequestError: if it is none.
        NoMemoryError: if nobody can tell.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if lacks_memory(error):
            raise NoMemoryError from error
        raise RequestError(f"The request's body is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise RequestError(f"The request's body must be a JSON object, not {_kind(data)}.")
    return data


def lacks_memory(error: orjson.JSONDecodeError) -> bool:
    """Whether it is not the text that is wrong: `orjson` tells of either by the same error."""
    return error.msg.startswith("Not enough memory")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _wrong(name: str, expected: str, value: object) -> RequestError:
    return RequestError(
        f"'{name}' must be {expected}, not {_kind(value)}.", param=name, code="invalid_type"
    )


def require_few_answers(prompts: int, choices: int) -> None:
    """What one request may want.

    Raises:
        RequestError: if it wants more than `MOST_ANSWERS`.
    """
    if prompts * choices > MOST_ANSWERS:
        raise RequestError(
            f"{prompts} prompts with {choices} choices each: one request may want at most "
            f"{MOST_ANSWERS} answers.",
            param="n" if choices > 1 else "prompt",
            code="invalid_value",
        )


def _model(data: dict[str, Any]) -> str:
    model = data.get("model")
    if model is None:
        raise RequestError("'model' is required.", param="model", code="missing_field")
    if not isinstance(model, str):
        raise _wrong("model", "a string", model)
    return model


def _boolean(data: dict[str, Any], name: str, within: str = "") -> bool:
    value = data.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _wrong(within + name, "a boolean", value)
    return value


def _number(data: dict[str, Any], name: str) -> None:
    value = data.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise _wrong(name, "a number", value)


def _positive(data: dict[str, Any], name: str, most: int = MOST_TOKENS) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "an integer", value)
    if not 1 <= value <= most:
        raise RequestError(
            f"'{name}' must be between 1 and {most}, not {value}.",
            param=name,
            code="invalid_value",
        )
    return value


def _stop(data: dict[str, Any]) -> tuple[str, ...]:
    value = data.get("stop")
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return tuple(part for part in value if part)
    raise _wrong("stop", "a string or an array of strings", value)


def _prompts(data: dict[str, Any]) -> tuple[Prompt, ...]:
    value = data.get("prompt")
    if value is None:
        raise RequestError("'prompt' is required.", param="prompt", code="missing_field")
    if isinstance(value, str):
        return (Prompt(value),)
    if not isinstance(value, list):
        raise _wrong("prompt", "a string or an array", value)
    if not value:
        raise RequestError("'prompt' must not be empty.", param="prompt", code="invalid_value")
    if all_token_ids(value):
        return (Prompt.of_ids(value),)
    return tuple(_prompt(part) for part in value)


def _prompt(value: object) -> Prompt:
    if isinstance(value, str):
        return Prompt(value)
    if isinstance(value, list) and value and all_token_ids(value):
        return Prompt.of_ids(value)
    raise _wrong("prompt", "made of strings, or of arrays of token ids", value)


def all_token_ids(value: list[Any]) -> bool:
    """Whether it is made of nothing else, and is not empty."""
    return set(map(type, value)) == {int} and min(value) >= 0


def _messages(data: dict[str, Any]) -> str:
    """The text of all messages, a line each."""
    messages = data.get("messages")
    if messages is None:
        raise RequestError("'messages' is required.", param="messages", code="missing_field")
    if not isinstance(messages, list):
        raise _wrong("messages", "an array", messages)
    if not messages:
        raise RequestError("'messages' must not be empty.", param="messages", code="invalid_value")
    return "\n".join(_message(message, f"messages[{k}]") for k, message in enumerate(messages))


def _message(message: object, where: str) -> str:
    if not isinstance(message, dict):
        raise _wrong(where, "an object", message)
    if not isinstance(message.get("role"), str):
        raise _wrong(f"{where}.role", "a string", message.get("role"))
    content = message.get("content")
    if content is None:
        return ""  # an assistant's message may consist of tool calls alone
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong(f"{where}.content", "a string or an array", content)
    return "\n".join(_part(part, f"{where}.content[{k}]") for k, part in enumerate(content))


def _part(part: object, where: str) -> str:
    """The text of one part of a message; parts that are not text count for nothing."""
    if not isinstance(part, dict):
        raise _wrong(where, "an object", part)
    text = part.get("text", "")
    if not isinstance(text, str):
        raise _wrong(f"{where}.text", "a string", text)
    return text
