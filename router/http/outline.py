"""Completion bodies as a router reads them: what it needs to place them, and nothing refused.

Numbers are read as leniently as engines read them, so that no way to write one makes it cheaper.

Engines differ in what they take, and the body reaches them as it came. So what is not understood
here is of unknown size, no error: the engine says what is wrong with it. Refused is what could go
nowhere: no JSON object, or a model that is no name. Engines of our own read strictly, by
`router.http.schemas`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from math import ceil, isfinite
from typing import Any

import orjson

from router.http.apis import Api
from router.http.errors import RequestError
from router.http.schemas import (
    MOST_TOKENS,
    NO_CLAIMS,
    Claims,
    CompletionRequest,
    load,
    require_few_answers,
)
from router.http.shorten import STUB, Shortened
from router.kv_wire import XARGS, may_be_name

_ADAPTERS = "lora_path"
# Fields beside the prompt that decide which blocks an engine has of it: two requests that differ in
# one share no block. Names are vLLM's (0.32), and SGLang's where that has others. An engine that
# passes one over tells by its events that it has the same blocks for both.
_APART = frozenset((
    *("cache_salt", "extra_key"),
    *("prompt_embeds", _ADAPTERS),  # vLLM's adapters are models
    # what a template makes of a conversation
    *("chat_template", "chat_template_kwargs", "documents", "reasoning_effort", "reasoning"),
    "add_special_tokens",
    *("mm_processor_kwargs", "media_io_kwargs"),
))  # fmt: skip
# With these nothing is found, or nobody knows what: a prompt's probabilities are not in a cache,
# and of one that is cut at its begin nobody knows where it begins.
_UNKNOWN = frozenset(("prompt_logprobs", "truncate_prompt_tokens"))
# An answer that begins with its prompt has that one's probabilities, too, if it has any.
_ECHOED = frozenset(("logprobs", "top_logprobs", "logprob_token_ids"))

# What most bodies have, and what says no more than `_outline` reads of each; with anything else all
# is looked for that could be there.
_PLAIN = frozenset((
    *("model", "messages", "prompt", "input", "instructions", "system", "tools", "tool_choice"),
    *("max_tokens", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "user"),
    *("frequency_penalty", "presence_penalty", "response_format", "metadata"),
))  # fmt: skip

_LONGEST_NUMBER = 32
# What some engine takes for a limit on its output: llama.cpp takes its own before OpenAI's.
_LIMITS = frozenset(
    ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict")
)
# Of longer names, a hash of so many characters: as many as are kept of one in a large body.
LONGEST_SESSION, MOST_OF_SESSION = 256, 1024


def outline(body: bytes, api: Api) -> CompletionRequest:
    """What is known of a body that came by `api`.

    `model` is empty where it names none.

    Raises:
        RequestError: if it cannot be routed.
    """
    return _outline(load(body), len(body), api, LONGEST_SESSION)


def outline_shortened(found: Shortened, size: int, api: Api) -> CompletionRequest:
    """The same of a body of `size` bytes, of which not everything was looked at."""
    request = _outline(load(found.body), size, api, STUB)
    each = found.token_ids // len(request.prompts)
    prompts = [
        prompt if prompt.token_ids is None else replace(prompt, token_ids=prompt.token_ids + each)
        for prompt in request.prompts
    ]
    longest = max(range(len(prompts)), key=lambda k: len(prompts[k].text))
    prompts[longest] = replace(prompts[longest], more_bytes=found.text_bytes)
    return replace(request, prompts=tuple(prompts))


def _outline(data: dict[str, Any], size: int, api: Api, longest_session: int) -> CompletionRequest:
    prompts = api.prompts(data, size)
    role = _first_role(data)
    plain = _PLAIN.issuperset(data) and len(prompts) == 1 and role in _OF_ROLES
    if not plain:
        check_session(data, longest_session)
    request = CompletionRequest(
        api.chat,
        model_of(data, plain=plain),
        prompts,
        limit_of(data, api),
        1,
        data.get("stream") is True,
        include_usage=False,
        ignore_eos=False,
        stop=(),
        apart=_OF_ROLES[role] if plain else apart(data),
    )
    if not plain:
        _add_rare(request, data, api)
    return request


def _add_rare(request: CompletionRequest, data: dict[str, Any], api: Api) -> None:
    """What only fields say that few bodies have."""
    request.n = max((1, *(_count(data.get(name)) or 1 for name in api.choices)))
    require_few_answers(len(request.prompts), request.n)
    request.other_limit = _most_asked(data)
    options = data.get("stream_options")
    request.include_usage = isinstance(options, dict) and options.get("include_usage") is True
    request.ignore_eos = data.get("ignore_eos") is True
    request.stop = _stop(data.get(api.stop))
    request.stop_tokens = bool(data.get("stop_token_ids"))
    request.session = short_session(_name(data.get("prompt_cache_key")))
    request.tier = _name(data.get("service_tier"))
    request.previous = previous_of(data) if api.kept else ""
    request.unknown = _is_unknown(data)
    request.claims = claims_of(data, keeps=api.kept)


def model_of(data: dict[str, Any], *, plain: bool = False) -> str:
    """The model that a body names; empty if it names none. `plain`: it has but plain fields.

    Raises:
        RequestError: if it is no name, or in a field that only some engines take for it.
    """
    if not plain and list(map(str.lower, data)).count("model") > ("model" in data):
        name = next(name for name in data if name != "model" and name.lower() == "model")
        message = f"'{name}' is a model for some engines and nothing for others; say 'model'."
        raise RequestError(message, param=name, code="ambiguous_model")
    model = data.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError("'model' must be a string.", param="model", code="invalid_type")
    return model or ""


def short_session(told: str) -> str:
    """A conversation by what its client calls it: a name of any length takes little room."""
    if len(told) <= LONGEST_SESSION:
        return told
    beginning = told[:MOST_OF_SESSION].encode("utf-8", "surrogatepass")
    return blake2b(beginning, digest_size=16).hexdigest()


def previous_of(data: dict[str, Any]) -> str:
    """The answer that a body goes on from; empty if it names none."""
    return _name(data.get("previous_response_id"))


def claims_of(data: Mapping[str, Any], *, keeps: bool = True) -> Claims:
    """What of a body keys may not allow: SGLang takes adapters by a field of their own.

    `keeps`: engines may keep conversations there.
    """
    told, rank = data.get(_ADAPTERS), data.get("priority")
    kept = keeps and data.get("conversation") is not None
    if told is None and rank is None and not kept:
        return NO_CLAIMS
    adapters = told if isinstance(told, list) else [told]
    return Claims(tuple(one for one in adapters if isinstance(one, str)), rank, kept)


def check_session(data: dict[str, Any], longest: int = LONGEST_SESSION) -> None:
    """Whoever asks names no request as gateways do: vLLM takes a body's session before a header's.

    Raises:
        RequestError: if it does, or has a session that is too long to be sure.
    """
    if "session_id" not in data and XARGS not in data:
        return
    xargs = data.get(XARGS)
    for told in (data, xargs if isinstance(xargs, dict) else {}):
        session = told.get("session_id")
        if isinstance(session, str) and (len(session) > longest or may_be_name(session)):
            raise RequestError(
                f"'session_id' must have at most {longest} characters, and less than three '|'.",
                param="session_id",
            )


def apart(data: Mapping[str, Any]) -> str:
    """What of a body makes an engine share nothing with the same prompt without it.

    Who says the first message is of that: a template begins with it.
    """
    found: dict[str, Any] = {}
    if not _APART.isdisjoint(data):
        found = {name: value for name in _APART if (value := data.get(name)) is not None}
    role = _first_role(data)
    return _digest(found | {"role": role} if role else found)


def _first_role(data: Mapping[str, Any]) -> str:
    """Of the first message, if a template puts it before all."""
    messages = data.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    role = first.get("role") if isinstance(first, dict) else None
    return role if isinstance(role, str) and role != "user" else ""


def _digest(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    return blake2b(orjson.dumps(found, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


# As `apart`, of who says the first message alone.
_OF_ROLES = {"": ""} | {role: _digest({"role": role}) for role in ("system", "developer")}


def _is_unknown(data: dict[str, Any]) -> bool:
    """Whether nobody knows what of its prompt an engine finds in its cache."""
    names = _UNKNOWN | _ECHOED if data.get("echo") is True else _UNKNOWN
    return not names.isdisjoint(data) and any(data.get(name) is not None for name in names)


def _name(value: object) -> str:
    return value if isinstance(value, str) else ""


def limit_of(data: Mapping[str, Any], api: Api) -> int | None:
    """Most output tokens of one answer; None: it asks for no limit."""
    for name in api.limits:
        value = _count(data[name]) if name in data else None
        if value is not None and value >= 0:  # engines that take 0 make none, and below it no limit
            return max(1, min(value, MOST_TOKENS))
    return None


def _most_asked(data: Mapping[str, Any]) -> int:
    """By whichever name, if by several; below 0 there is no limit."""
    names, most = _LIMITS.intersection(data), 0
    for name in names if len(names) > 1 else ():
        asked = _count(data[name])
        if asked is not None and asked < 0:
            return MOST_TOKENS
        most = max(most, asked or 0)
    return most


def _count(value: object) -> int | None:
    """A number, also as a string or with a fraction, as vLLM and llama.cpp take it; else None."""
    if type(value) is int:
        return value
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float):
        return ceil(value) if isfinite(value) else None
    return int(value) if isinstance(value, int) else None


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    parts = value if isinstance(value, list) else [value]
    return tuple(part for part in parts if isinstance(part, str) and part)
