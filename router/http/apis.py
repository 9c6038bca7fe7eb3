"""The paths that are planned, a row each: all that a router must know of one.

Where a body has its prompt and its limit on output, how its stream is counted and ends, and the
form of its errors. Nothing else asks which path a request came by; what is read from any of them
becomes the same `CompletionRequest`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from router.http.errors import Headers, NoCapacityError, RouterError, error_body, sse_error
from router.http.event_meter import EventMeter
from router.http.prompts import (
    chat_prompts,
    completion_prompts,
    message_prompts,
    response_prompts,
)
from router.http.schemas import Prompt
from router.http.usage import StreamMeter
from router.wire import REQUEST_ID

# Anthropic's types of errors, by status; of others by whose fault they are.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


# OpenAI's, and llama.cpp's own; of `best_of` engines make so many and answer with some.
CHOICES = ("n", "best_of", "n_cmpl")


@dataclass(frozen=True, slots=True)
class Api:
    """One path.

    Attributes:
        path: where it is served.
        chat: a conversation, whose answer runs to the end of the context unless limited.
        field: which holds the prompt: what errors name.
        prompts: reads the prompts from a body's object and size.
        limits: fields of the most output tokens; the first that is there counts.
        stop: field of stop strings.
        choices: fields that ask for several answers; the most that any of them asks for counts.
        meter: counts a stream.
        error: an error's body; `name` is the request's.
        last_event: an error as the end of a stream that has begun; `number` is that of the event.
        names: headers of an answer that tell the request's name.
        continues: another worker may go on with its stream.
        kept: answers have names by which they can be asked for, and gone on from.
    """

    path: str
    chat: bool
    field: str
    prompts: Callable[[dict[str, Any], int], tuple[Prompt, ...]]
    limits: tuple[str, ...]
    stop: str = "stop"
    choices: tuple[str, ...] = ()
    meter: Callable[[], StreamMeter | EventMeter] = EventMeter
    error: Callable[[RouterError, str], bytes] = lambda error, _: error.body()
    last_event: Callable[[RouterError, int, str], bytes] = lambda error, *_: sse_error(error)
    names: tuple[bytes, ...] = (REQUEST_ID,)
    continues: bool = False
    kept: bool = False

    def named(self, name: str) -> Headers:
        """What an answer's head says of the request's name."""
        return [(header, name.encode()) for header in self.names]


def messages_error(error: RouterError, name: str) -> bytes:
    """Anthropic's error object."""
    kind = _TYPES.get(error.status)
    if isinstance(error, NoCapacityError):
        kind = "overloaded_error"
    if kind is None:
        kind = "api_error" if error.status >= 500 else "invalid_request_error"
    told = {"type": kind, "message": str(error)}
    return orjson.dumps({"type": "error", "error": told, "request_id": name})


def _messages_event(error: RouterError, _: int, name: str) -> bytes:
    return b"\n\nevent: error\ndata: " + messages_error(error, name) + b"\n\n"


def _responses_event(error: RouterError, number: int, _: str) -> bytes:
    """With an error's object beside its fields: clients raise it by that."""
    body = orjson.loads(error_body(str(error), error.type, error.param, error.code))
    fields = {"code": error.code, "message": str(error), "param": error.param}
    event = {"type": "error", "sequence_number": number, **fields, **body}
    return b"\n\nevent: error\ndata: " + orjson.dumps(event) + b"\n\n"


COMPLETIONS = Api(
    "/v1/completions",
    chat=False,
    field="prompt",
    prompts=completion_prompts,
    limits=("max_tokens",),
    choices=CHOICES,
    meter=StreamMeter,
    continues=True,
)
CHAT = Api(
    "/v1/chat/completions",
    chat=True,
    field="messages",
    prompts=chat_prompts,
    limits=("max_completion_tokens", "max_tokens"),
    choices=CHOICES,
    meter=StreamMeter,
    continues=True,
)
RESPONSES = Api(
    "/v1/responses",
    chat=True,
    field="input",
    prompts=response_prompts,
    limits=("max_output_tokens",),
    last_event=_responses_event,
    kept=True,
)
MESSAGES = Api(
    "/v1/messages",
    chat=True,
    field="messages",
    prompts=message_prompts,
    limits=("max_tokens",),
    stop="stop_sequences",
    error=messages_error,
    last_event=_messages_event,
    names=(REQUEST_ID, b"request-id"),
)
APIS = (COMPLETIONS, CHAT, RESPONSES, MESSAGES)


def form_of(path: str) -> Api:
    """Whose form errors have on a path, planned or not: Anthropic's on its own, else OpenAI's."""
    return MESSAGES if path.startswith(MESSAGES.path) else COMPLETIONS
