"""How a request wants its answer written: what ends it, and what of its tokens becomes text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.http.errors import RequestError
from router.http.schemas import CompletionRequest


@dataclass(frozen=True, slots=True)
class OutputParams:
    """What ends an answer, and what becomes of its tokens.

    Attributes:
        stop: strings that end it.
        ends: tokens that end it.
        include_stop: what ended it is part of its text.
        skip_special: special tokens have no text.
    """

    stop: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    include_stop: bool = False
    skip_special: bool = True


def read_output_params(
    request: CompletionRequest, body: Mapping[str, Any], ends: tuple[int, ...], vocabulary: int
) -> OutputParams:
    """From a request's body; `ends` are the model's own.

    Raises:
        RequestError: naming the field that is wrong.
    """
    own = () if request.ignore_eos else ends
    return OutputParams(
        stop=request.stop,
        ends=tuple(dict.fromkeys((*own, *_stop_ids(body, vocabulary)))),
        include_stop=flag(body, "include_stop_str_in_output", default=False),
        skip_special=flag(body, "skip_special_tokens", default=True),
    )


def flag(body: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """A field that is true or false.

    Raises:
        RequestError: if it is neither.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(f"'{name}' must be a boolean.", param=name, code="invalid_type")
    return value


def _stop_ids(body: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    name = "stop_token_ids"
    value = body.get(name) or []
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        message = f"'{name}' must be an array of token ids."
        raise RequestError(message, param=name, code="invalid_type")
    for token in value:
        if not 0 <= token < vocabulary:
            message = f"'{name}' has {token}, which is no token of 0 to {vocabulary - 1}."
            raise RequestError(message, param=name, code="invalid_value")
    return tuple(value)
