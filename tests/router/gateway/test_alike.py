"""Prompts that an engine tells apart in its cache are not alike to a gateway, whatever their text.

As vLLM 0.32 tells them apart (``kv_cache_utils.generate_block_hash_extra_keys``): adapters and
salts from the first block on, images from the block on that has them; SGLang by the same.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from router.gateway.fleet.prefixes import hashed
from router.http import apis
from router.http.outline import outline, outline_shortened
from router.http.shorten import SMALL, shorten
from solver.routing.marks import MARKS, common_marks
from solver.routing.prefixes import TEXT_BYTES

TEXT = "A text that is long enough for some blocks. " * 60
HALF = TEXT[: len(TEXT) // 2]


def image(name: str, size: int = 100) -> dict[str, Any]:
    """Images of the same size begin alike."""
    data = "data:image/png;base64," + "A" * size + name
    return {"type": "image_url", "image_url": {"url": data}}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def chat(*parts: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}], **more}


def anthropic(*parts: dict[str, Any]) -> dict[str, Any]:
    return chat(*parts, max_tokens=9)


def source(data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "data": data}}


def response(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "input": [{"role": "user", "content": list(parts)}]}


def turns(call: str, **more: object) -> dict[str, Any]:
    """A tool is called in the midst of a conversation, and nothing is said there."""
    function = {"name": "look", "arguments": call}
    calls = [{"type": "function", "function": function, **more}]
    called = {"role": "assistant", "content": None, "tool_calls": calls}
    said = [{"role": role, "content": HALF} for role in ("user", "tool")]
    return {"model": "m", "messages": [said[0], called, said[1]]}


def by(role: str, text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": text}]}


def plain(**more: object) -> dict[str, Any]:
    return {"model": "m", "prompt": TEXT, **more}


# What two requests share of a text of 1: nothing, all, or what is before their images.
NOTHING, BEFORE, ALL = 0.0, 0.5, 1.0
BIG = 400_000
TABLE = [
    ("the same", apis.COMPLETIONS, plain(), plain(), ALL),
    ("another temperature", apis.COMPLETIONS, plain(temperature=0), plain(temperature=1), ALL),
    ("an adapter (vLLM)", apis.COMPLETIONS, plain(), plain(model="m-lora"), NOTHING),
    ("an adapter (SGLang)", apis.COMPLETIONS, plain(), plain(lora_path="lora"), NOTHING),
    ("a salt", apis.COMPLETIONS, plain(), plain(cache_salt="x"), NOTHING),
    ("another salt", apis.CHAT, chat(words(TEXT), cache_salt="y"),
     chat(words(TEXT), cache_salt="x"), NOTHING),
    ("the same salt", apis.COMPLETIONS, plain(cache_salt="x"), plain(cache_salt="x"), ALL),
    ("a salt that is none", apis.COMPLETIONS, plain(), plain(cache_salt=None), ALL),
    ("a key (SGLang)", apis.COMPLETIONS, plain(extra_key=["a"]), plain(extra_key=["b"]), NOTHING),
    ("embeddings", apis.COMPLETIONS, plain(prompt_embeds="AA"), plain(prompt_embeds="BB"), NOTHING),
    ("a template", apis.CHAT, chat(words(TEXT)), chat(words(TEXT), chat_template="x"), NOTHING),
    ("what a template is told", apis.CHAT, chat(words(TEXT), chat_template_kwargs={"a": 1}),
     chat(words(TEXT), chat_template_kwargs={"a": 2}), NOTHING),
    ("the same in another order", apis.CHAT,
     chat(words(TEXT), chat_template_kwargs={"a": 1, "b": 2}),
     chat(words(TEXT), chat_template_kwargs={"b": 2, "a": 1}), ALL),
    ("documents", apis.CHAT, chat(words(TEXT)), chat(words(TEXT), documents=[{"text": "x"}]),
     NOTHING),
    ("an effort", apis.CHAT, chat(words(TEXT)), chat(words(TEXT), reasoning_effort="low"), NOTHING),
    ("an effort in responses", apis.RESPONSES, response(words(TEXT)),
     {**response(words(TEXT)), "reasoning": {"effort": "low"}}, NOTHING),
    ("no first token", apis.COMPLETIONS, plain(), plain(add_special_tokens=False), NOTHING),
    ("an image first", apis.CHAT, chat(image("1"), words(TEXT)), chat(image("2"), words(TEXT)),
     NOTHING),
    ("the same image first", apis.CHAT, chat(image("1"), words(TEXT)),
     chat(image("1"), words(TEXT)), ALL),
    ("an image or none", apis.CHAT, chat(image("1"), words(TEXT)), chat(words(TEXT)), NOTHING),
    ("an image in the midst", apis.CHAT, chat(words(HALF), image("1"), words(HALF)),
     chat(words(HALF), image("2"), words(HALF)), BEFORE),
    ("one that is large", apis.CHAT, chat(words(HALF), image("1", BIG), words(HALF)),
     chat(words(HALF), image("2", BIG), words(HALF)), BEFORE),
    ("the same large one", apis.CHAT, chat(words(TEXT), image("1", BIG)),
     chat(words(TEXT), image("1", BIG)), ALL),
    ("another who begins", apis.CHAT, by("system", HALF), by("user", HALF), NOTHING),
    ("the same who begins", apis.CHAT, by("system", TEXT), by("system", TEXT), ALL),
    ("a tool's arguments", apis.CHAT, turns("there"), turns("here"), BEFORE),
    ("the same call by another id", apis.CHAT, turns("there", id="1"), turns("there", id="2"), ALL),
    ("Anthropic's images", apis.MESSAGES, anthropic(words(HALF), source("1"), words(HALF)),
     anthropic(words(HALF), source("2"), words(HALF)), BEFORE),
    ("images in responses", apis.RESPONSES,
     response({"type": "input_image", "image_url": "1"}, words(TEXT)),
     response({"type": "input_image", "image_url": "2"}, words(TEXT)), NOTHING),
]  # fmt: skip


def marks(api: apis.Api, body: dict[str, Any], key: str = "") -> bytes:
    raw = orjson.dumps(body)
    if len(raw) > SMALL:
        request = outline_shortened(asyncio.run(shorten(raw)), len(raw), api)
    else:
        request = outline(raw, api)
    found, _ = hashed(request, 700, key)
    return found.marks


@pytest.mark.parametrize(
    ("api", "one", "other", "shared"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_what_two_requests_share(
    api: apis.Api, one: dict[str, Any], other: dict[str, Any], shared: float
) -> None:
    first, second = marks(api, one), marks(api, other)
    common = common_marks(first, second)
    alike = MARKS[common - 1] * TEXT_BYTES if common else 0.0
    # A mark is at most 28 bytes before where they part, and a name takes some.
    assert alike == pytest.approx(len(TEXT) * shared, abs=64)
    assert (first == second) is (shared == ALL)


# Of these an engine finds nothing in its cache, or another part than a prompt's begin.
UNKNOWN: list[dict[str, Any]] = [
    {"prompt_logprobs": 0},
    {"truncate_prompt_tokens": 100},
    {"echo": True, "logprobs": 1},
    {"prompt": [TEXT, TEXT]},
]


@pytest.mark.parametrize("more", UNKNOWN, ids=str)
def test_of_some_prompts_nothing_is_predicted(more: dict[str, Any]) -> None:
    assert not marks(apis.COMPLETIONS, plain(**more))


@pytest.mark.parametrize("more", [{"prompt_logprobs": None}, {"echo": True}, {"logprobs": 1}])
def test_what_asks_for_no_probabilities_of_a_prompt_hides_nothing(more: dict[str, Any]) -> None:
    assert marks(apis.COMPLETIONS, plain(**more)) == marks(apis.COMPLETIONS, plain())


def test_who_has_another_secret_has_other_names_for_all_of_a_prompt() -> None:
    body = {"model": "m", "prompt": TEXT}
    one, other, same = (marks(apis.COMPLETIONS, body, key) for key in ("a", "b", "a"))
    assert one == same
    assert common_marks(one, other) == 0
    names = zip(*[iter(one)] * 3, *[iter(other)] * 3, strict=True)
    assert sum(row[:3] == row[3:] for row in names) <= 1, "but for chance"
