"""How a request wants its tokens chosen: OpenAI's parameters, and vLLM's where OpenAI has none.

What an engine cannot do is refused by name; fields that are nobody's are ignored, as OpenAI's own
servers of open models do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from router.http.errors import RequestError
from router.http.schemas import CompletionRequest

MOST_LOGPROBS = 20
# Fields that change what an answer is, with the values that change nothing.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "documents": ([],),
    "echo": (False,),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen.

    Attributes:
        temperature: 0: always the likeliest.
        top_k: only so many of the likeliest; 0: all.
        top_p: only the likeliest that make up this much probability.
        min_p: only those at least this likely, relative to the likeliest.
        presence, frequency: taken off a token's score if it is there, and each time that it is.
        repetition: scores of tokens in prompt or answer are divided by it.
        bias: added to the scores of these tokens.
        seed: makes the choice reproducible; None: anything.
        logprobs: how many of the likeliest tokens to tell of, beside the one chosen; None: none.
        min_tokens: the answer does not end by itself before it has so many.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    min_tokens: int = 0

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is what it takes, as the model scores them."""
        penalties = self.presence or self.frequency or self.repetition != 1.0
        others = self.bias or self.min_tokens or self.logprobs is not None
        return self.temperature == 0 and not penalties and not others


def read_sampling_params(
    request: CompletionRequest,
    body: Mapping[str, Any],
    defaults: Mapping[str, Any],
    vocabulary: int,
) -> SamplingParams:
    """From a request's body; where it is silent, the model's own `defaults` hold, then OpenAI's.

    Raises:
        RequestError: naming the field that is wrong, or that cannot be done.
    """
    for name, harmless in UNSUPPORTED.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            message = f"'{name}' is not supported by this engine."
            raise RequestError(message, param=name, code="unsupported_parameter")
    known = {**{k: v for k, v in defaults.items() if v is not None}, **_given(body)}
    return SamplingParams(
        temperature=_number(known, "temperature", 1.0, 0.0, 100.0),
        top_k=max(0, _whole(known, "top_k", 0, -1, vocabulary)),
        top_p=_number(known, "top_p", 1.0, 0.0, 1.0),
        min_p=_number(known, "min_p", 0.0, 0.0, 1.0),
        presence=_number(known, "presence_penalty", 0.0, -2.0, 2.0),
        frequency=_number(known, "frequency_penalty", 0.0, -2.0, 2.0),
        repetition=_number(known, "repetition_penalty", 1.0, 1e-3, 100.0),
        bias=_bias(known, vocabulary),
        seed=_whole(known, "seed", 0, -(1 << 63), (1 << 63) - 1) if "seed" in known else None,
        logprobs=_logprobs(request, known),
        min_tokens=_whole(known, "min_tokens", 0, 0, 1 << 31),
    )


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _number(known: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = known.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"'{name}' must be a number.", param=name, code="invalid_type")
    if not low <= value <= high or value in (inf, -inf):
        message = f"'{name}' must be between {low:g} and {high:g}, not {value:g}."
        raise RequestError(message, param=name, code="invalid_value")
    return float(value)


def _whole(known: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = known.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"'{name}' must be an integer.", param=name, code="invalid_type")
    if not low <= value <= high:
        message = f"'{name}' must be between {low} and {high}, not {value}."
        raise RequestError(message, param=name, code="invalid_value")
    return value


def _bias(known: Mapping[str, Any], vocabulary: int) -> tuple[tuple[int, float], ...]:
    value = known.get("logit_bias", {})
    if not isinstance(value, dict):
        raise RequestError("'logit_bias' must be an object.", param="logit_bias")
    found: list[tuple[int, float]] = []
    for key in value:
        if not key.isdigit() or int(key) >= vocabulary:
            message = f"'logit_bias' names '{key}', which is no token of 0 to {vocabulary - 1}."
            raise RequestError(message, param="logit_bias", code="invalid_value")
        found.append((int(key), _bias_of(key, value[key])))
    return tuple(found)


def _bias_of(token: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
        message = f"'logit_bias' of {token} must be a number between -100 and 100, not {value!r}."
        raise RequestError(message, param="logit_bias", code="invalid_value")
    return float(value)


def _logprobs(request: CompletionRequest, known: Mapping[str, Any]) -> int | None:
    """Chat has a flag and a number beside it, completions only a number."""
    if not request.chat:
        return _whole(known, "logprobs", 0, 0, MOST_LOGPROBS) if "logprobs" in known else None
    wanted = known.get("logprobs", False)
    if not isinstance(wanted, bool):
        raise RequestError("'logprobs' must be a boolean.", param="logprobs", code="invalid_type")
    top = _whole(known, "top_logprobs", 0, 0, MOST_LOGPROBS)
    if top and not wanted:
        raise RequestError("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    return top if wanted else None
