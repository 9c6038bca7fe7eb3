"""Attributes of spans by OpenTelemetry's conventions for generative AI, shared by both sides."""

from __future__ import annotations

from router.http.errors import Outcome
from router.http.schemas import CompletionRequest
from router.http.usage import ResponseInfo, Usage
from router.observe.spans import Value

# The client's own doing, which HTTP's conventions do not count as an error of the server.
_NO_ERROR = {
    Outcome.COMPLETED,
    Outcome.RECALLED,
    Outcome.REJECTED_INVALID,
    Outcome.REJECTED_UNAUTHORIZED,
    Outcome.REJECTED_OVER_SHARE,
}


def operation(*, chat: bool) -> str:
    """``gen_ai.operation.name``."""
    return "chat" if chat else "text_completion"


def error_of(outcome: Outcome, why: str | None) -> str | None:
    """What to say of a span that ended so; None where it is no error."""
    return None if outcome in _NO_ERROR else why or outcome.value


def request_attributes(request: CompletionRequest | None, *, chat: bool) -> dict[str, Value]:
    """What was asked for."""
    found: dict[str, Value] = {
        "gen_ai.operation.name": operation(chat=chat),
        "gen_ai.provider.name": "makespan",
    }
    if request is not None:
        found["gen_ai.request.model"] = request.model
        if request.stream:
            found["gen_ai.request.stream"] = True
        if request.max_tokens is not None:
            found["gen_ai.request.max_tokens"] = request.max_tokens
        if request.choices > 1:
            found["gen_ai.request.choice.count"] = request.choices
    return found


def answer_attributes(
    request: CompletionRequest | None,
    outcome: Outcome,
    status: int | None,
    usage: Usage | None,
    response_info: ResponseInfo | None,
) -> dict[str, Value]:
    """What came of it, as far as the answer tells."""
    found: dict[str, Value] = {}
    if status is not None:
        found["http.response.status_code"] = status
    if outcome not in _NO_ERROR:
        found["error.type"] = outcome.value
    if usage is not None:
        found["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        found["gen_ai.usage.output_tokens"] = usage.completion_tokens
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
    if response_info is not None:
        # One a choice, by the conventions: a part of them would be taken for the first choices'.
        if request is not None and len(response_info.finish_reasons) == request.choices:
            found["gen_ai.response.finish_reasons"] = response_info.finish_reasons
        if response_info.model is not None:
            found["gen_ai.response.model"] = response_info.model
        if response_info.id is not None:
            found["gen_ai.response.id"] = response_info.id
    return found
