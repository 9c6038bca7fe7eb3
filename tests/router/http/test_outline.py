"""What a router makes of bodies that engines take, and how large ones are made small."""

from __future__ import annotations

import asyncio
import json
import random
import re
import string
import time
from math import inf
from typing import Any

import orjson
import pytest

from router.http import apis, json_slices
from router.http import shorten as module
from router.http.bodies import BodyReader
from router.http.errors import RequestError
from router.http.outline import _PLAIN, outline, outline_shortened
from router.http.schemas import MOST_TOKENS, NO_CLAIMS, Prompt
from router.http.shorten import KEPT, MOST_UNITS, STUB, shorten

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "m", "prompt": "hi"}

# What some engine takes, and what is known of it then.
TAKEN: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (TEXT, {"max_tokens": 0, "echo": True}, {"max_tokens": 1}),
    (TEXT, {"max_tokens": "16"}, {"max_tokens": 16}),
    (TEXT, {"max_tokens": " 16.0 "}, {"max_tokens": 16}),
    (TEXT, {"max_tokens": 16.0}, {"max_tokens": 16}),
    (TEXT, {"max_tokens": "many"}, {"max_tokens": None}),
    (TEXT, {"max_tokens": "1e999"}, {"max_tokens": None}),
    (TEXT, {"max_tokens": -1}, {"max_tokens": None}),
    (TEXT, {"max_tokens": 4, "n_predict": 400}, {"max_tokens": 4, "other_limit": 400}),
    (TEXT, {"max_tokens": 4, "n_predict": 399.5}, {"other_limit": 400}),
    (TEXT, {"max_tokens": 4, "n_predict": -1}, {"other_limit": MOST_TOKENS}),
    (CHAT, {"max_completion_tokens": 4, "max_tokens": "400"}, {"other_limit": 400}),
    (TEXT, {"n": "128"}, {"n": 128}),
    (TEXT, {"n": 128.0}, {"n": 128}),
    (TEXT, {"n": "x"}, {"n": 1}),
    (TEXT, {"n": -3}, {"n": 1}),
    (TEXT, {"n": 1, "best_of": 8}, {"n": 8}),
    (CHAT, {"n_cmpl": "8"}, {"n": 8}),
    (TEXT, {"max_tokens": 1 << 62}, {"max_tokens": MOST_TOKENS}),
    (TEXT, {"n": 200}, {"n": 200}),
    (TEXT, {"n": 0}, {"n": 1}),
    (TEXT, {"n": True}, {"n": 1}),
    (TEXT, {"stream": 1}, {"stream": False}),
    (TEXT, {"stream_options": [1]}, {"include_usage": False}),
    (TEXT, {"temperature": "0.5", "top_p": []}, {}),
    (TEXT, {"stop": [1, "a", None]}, {"stop": ("a",)}),
    (TEXT, {"prompt": None, "prompt_embeds": "AAAA"}, {}),
    (TEXT, {"prompt": []}, {}),
    (TEXT, {"prompt": [[]]}, {"prompts": (Prompt(""),)}),
    (TEXT, {"prompt": [["a"], 3]}, {"prompts": (Prompt(""), Prompt(""))}),
    (TEXT, {"prompt": ["a", [1, 2]]}, {"prompts": (Prompt("a"), Prompt.of_ids([1, 2]))}),
    (TEXT, {"prompt": [-1]}, {}),
    (TEXT, {"model": None}, {"model": ""}),
    (CHAT, {"messages": [{"role": "user", "content": ["hello"]}]}, {"prompts": (Prompt("hello"),)}),
    (CHAT, {"messages": ["hello"]}, {"prompts": (Prompt("hello"),)}),
    (CHAT, {"messages": [{"content": [{"type": "image_url", "text": None}]}]}, {}),
    (CHAT, {"messages": [{"content": 3}, None]}, {"prompts": (Prompt("\n"),)}),
    (CHAT, {"messages": []}, {"prompts": (Prompt(""),)}),
    (CHAT, {"messages": "hello"}, {}),
    (CHAT, {"max_completion_tokens": 7, "max_tokens": 9}, {"max_tokens": 7}),
]


@pytest.mark.parametrize(("base", "change", "known"), TAKEN)
def test_what_is_not_understood_is_of_unknown_size(
    base: dict[str, Any], change: dict[str, Any], known: dict[str, Any]
) -> None:
    raw = orjson.dumps({**base, **change})
    request = outline(raw, apis.CHAT if base is CHAT else apis.COMPLETIONS)
    assert {name: getattr(request, name) for name in known} == known
    assert 0 <= sum(prompt.text_bytes for prompt in request.prompts) <= len(raw)
    assert request.choices >= 1


UNROUTABLE = [b"", b"{", b"[1]", b"null", b'"x"', b'{"model": 7}', b'{"model": "\xff"}',
              b"[" * 100_000, b'{"model": NaN}', b'{"prompt":' + b"[1,[" * 2000,
              orjson.dumps({**TEXT, "n": 1 << 30}),
              orjson.dumps({**TEXT, "prompt": [[1]] * 3000})]  # fmt: skip


FIELDS = (
    *("n", "best_of", "n_cmpl", "stop", "stop_sequences", "stop_token_ids", "ignore_eos"),
    *("stream", "stream_options", "prompt_cache_key", "service_tier", "previous_response_id"),
    *("priority", "lora_path", "prompt_logprobs", "truncate_prompt_tokens", "cache_salt"),
    *("max_completion_tokens", "n_predict", "Model", "session_id", "conversation", "documents"),
    *sorted(_PLAIN - {"model", "messages", "prompt", "input"}),
)
VALUES = (None, 1, -1, 2.5, "7", "x", True, False, [1], ["a"], {"include_usage": True})


def told(body: dict[str, Any], api: apis.Api) -> object:
    """What is known of it, or why it is refused."""
    try:
        return outline(orjson.dumps(body), api)
    except RequestError as error:
        return str(error)


@pytest.mark.parametrize("api", apis.APIS, ids=lambda api: api.path)
@pytest.mark.parametrize("field", FIELDS)
def test_a_rare_field_says_alone_what_it_says_beside_others(api: apis.Api, field: str) -> None:
    for value in VALUES:
        body = {**CHAT, **TEXT, "input": "hi", field: value}
        beside = {**body, "echo": False, "priority": body.get("priority")}  # say nothing
        assert told(body, api) == told(beside, api)


@pytest.mark.parametrize("raw", UNROUTABLE)
@pytest.mark.parametrize("api", apis.APIS, ids=lambda api: api.path)
def test_only_what_cannot_be_routed_is_refused(raw: bytes, api: apis.Api) -> None:
    several = b"[[1]" in raw or b'"n"' in raw
    if several and not (api.choices and (api is apis.COMPLETIONS or b'"n"' in raw)):
        return
    with pytest.raises(RequestError):
        outline(raw, api)


def random_json(rng: random.Random, depth: int = 0) -> Any:  # noqa: ANN401
    kind = rng.randrange(8 if depth < 4 else 5)
    if kind == 0:
        return rng.choice([None, True, False, 1.5, -3, 1 << 40])
    if kind == 1:
        return [rng.randrange(100_000) for _ in range(rng.randrange(40))]
    if kind < 5:
        letters = string.printable + '\\"{}[],:é中😀\u0000'
        return "".join(rng.choices(letters, k=rng.choice((0, 3, 20, 200))))
    if kind < 7:
        return [random_json(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {f"k{k}": random_json(rng, depth + 1) for k in range(rng.randrange(5))}


def is_stub(small: str, whole: str) -> bool:
    """A checksum of what was left out ends what is no text."""
    return whole.startswith(small[:-8]) and re.fullmatch("[0-9a-f]{8}", small[-8:]) is not None


def same_structure(small: Any, whole: Any) -> bool:  # noqa: ANN401
    if isinstance(whole, str):
        return isinstance(small, str) and (whole.startswith(small) or is_stub(small, whole))
    if isinstance(whole, dict):
        return small.keys() == whole.keys() and all(
            same_structure(small[k], whole[k]) for k in small
        )
    if isinstance(whole, list) and not all(isinstance(one, int) for one in whole):
        return len(small) == len(whole) and all(map(same_structure, small, whole))
    return bool(small == (whole[: len(small)] if isinstance(whole, list) else whole))


def test_what_is_shortened_is_json_of_the_same_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever slices end, however it is spaced and escaped."""
    rng = random.Random(3)
    for _ in range(200):
        whole = {"model": "m", "x": random_json(rng), "prompt": random_json(rng)}
        text = json.dumps(whole, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1, 9)))
        monkeypatch.setattr(module, "KEPT", rng.choice((0, 50, 500)))
        monkeypatch.setattr(json_slices, "SLICE", rng.choice((1, 7, 64, 1000)))
        found = asyncio.run(shorten(text.encode()))
        assert same_structure(orjson.loads(found.body), whole), text


def shortened(raw: bytes, api: apis.Api) -> Any:  # noqa: ANN401
    found = asyncio.run(shorten(raw))
    assert len(found.body) <= KEPT + len(raw) // 20 + 1000
    return outline_shortened(found, len(raw), api)


def test_the_size_of_long_prompts_is_known_to_the_token() -> None:
    words = "lorem ipsum dolor " * 100_000
    message = {"role": "user", "content": words}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    asked = {"role": "user", "content": [image, {"type": "text", "text": "what is it?"}]}
    ids = list(range(100_000, 400_000))
    (prompt,) = shortened(orjson.dumps({**CHAT, "messages": [message]}), apis.CHAT).prompts
    assert prompt.text_bytes == len(words)
    assert prompt.text == words[: len(prompt.text)]
    (prompt,) = shortened(orjson.dumps({**CHAT, "messages": [asked]}), apis.CHAT).prompts
    assert prompt.text_bytes < 100
    (prompt,) = shortened(orjson.dumps({**TEXT, "prompt": ids}), apis.COMPLETIONS).prompts
    assert prompt.token_ids == len(ids)
    assert Prompt.of_ids(ids).ids.startswith(prompt.ids)
    two = shortened(orjson.dumps({**TEXT, "prompt": [ids, ids]}), apis.COMPLETIONS).prompts
    assert sum(one.token_ids for one in two) == pytest.approx(2 * len(ids), abs=2)
    late = shortened(
        orjson.dumps({"prompt": words, "max_tokens": 7, "model": "m"}), apis.COMPLETIONS
    )
    assert (late.max_tokens, late.model) == (7, "m")


NAMES = {"model": "m/é", "previous_response_id": "resp_", "prompt_cache_key": "key-",
         "service_tier": "flex-"}  # fmt: skip


@pytest.mark.parametrize("length", [10, 63, 64, 65, 200, 256, 257, 1024, 1025, 5_000, 300_000])
@pytest.mark.parametrize("spaces", [(",", ":"), (" ,  ", " :  ")])
def test_what_it_is_routed_by_is_the_same_in_a_large_body(
    length: int, spaces: tuple[str, str]
) -> None:
    """Up to 1,365 characters, whatever escapes have made of them; sessions of any length."""
    told = {name: (begin * length)[:length] for name, begin in NAMES.items()}
    nested = {"metadata": dict.fromkeys(NAMES, "x" * 1000)}
    small = outline(orjson.dumps({"input": "hi", **told}), apis.RESPONSES)
    text = json.dumps({**nested, "input": "a" * KEPT, **told}, separators=spaces)
    raw = text.encode()
    found = asyncio.run(shorten(raw))
    assert len(found.body) < KEPT + len(NAMES) * min(6 * length, 9_000) + 2_000
    large = outline_shortened(found, len(raw), apis.RESPONSES)
    assert large.session == small.session
    assert len(small.session) <= 256
    if length <= 1_365:
        assert (large.model, large.previous, large.tier) == tuple(
            told[name] for name in ("model", "previous_response_id", "service_tier")
        )
        assert (small.model, small.previous, small.tier) == (
            large.model, large.previous, large.tier,
        )  # fmt: skip


def test_sessions_that_differ_only_late_stay_apart() -> None:
    names = ["a" * 256, "a" * 256 + "b", "a" * 256 + "c", "a" * 1000 + "b", "\ud83d" * 300]
    bodies = (json.dumps({**TEXT, "prompt_cache_key": name}).encode() for name in names[:-1])
    assert len({outline(body, apis.COMPLETIONS).session for body in bodies}) == len(names) - 1


@pytest.mark.parametrize(
    "fields",
    ['"model":"m","model":"m"', '"model":"m","x":1,"model" : null', r'"mod\u0065l":"m","model":"x"',
     r'"\u006dodel":"m", "\u006Dodel":"m"', '"Model":"m"', '"model":"m","MODEL":"x"'],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1 << 17, 1 << 20])
def test_two_models_are_none(fields: str, size: int) -> None:
    """Engines differ in which of two counts, and in whether capitals do."""
    for order in (f'{{{fields},"prompt":"{"a" * size}"}}', f'{{"prompt":"{"a" * size}",{fields}}}'):
        for read in (
            BodyReader(1 << 30).outline(order.encode(), apis.COMPLETIONS),
            BodyReader(1 << 30).names(order.encode()),
        ):
            with pytest.raises(RequestError) as refused:
                asyncio.run(read)
            assert (refused.value.status, refused.value.code) == (400, "ambiguous_model")


@pytest.mark.parametrize(
    "fields",
    ['"x":{"model":"a","model":"b"}', '"x":"model","y":"model"', r'"x":"\u0065 \"model\":\"b\""',
     '"models":["model"]', '"x":[{"Model":"a"}]'],
)  # fmt: skip
def test_what_is_no_second_model_is_let_by(fields: str) -> None:
    for size in (1, 1 << 17):
        body = f'{{"model":"m",{fields},"prompt":"{"a" * size}"}}'.encode()
        assert asyncio.run(BodyReader(1 << 30).names(body)) == ("m", "", NO_CLAIMS)


@pytest.mark.parametrize(
    "part", [b"[1],", b"[],", b'"",', b'{"a":1},', b'[["', b'{"a":' * 9, b"[[[[", b'"a":"b",']
)
def test_too_much_structure_is_refused_before_objects_are_built(part: bytes) -> None:
    with pytest.raises(RequestError, match="too many strings, arrays or objects") as refused:
        asyncio.run(shorten(b'{"prompt":[' + part * MOST_UNITS))
    assert refused.value.status == 413


def test_numbers_and_escapes_without_end_leave_stubs() -> None:
    for part in (b"1", b"1,", b"\\\\", b'\\"', b"\\u00e9", "中".encode(), b" ", b"\x00", b"\xff"):
        for head in (b'{"prompt":"', b'{"prompt":[', b'{"prompt":'):
            found = asyncio.run(shorten(head + part * (3_000_000 // len(part))))
            assert len(found.body) <= KEPT + json_slices.SLICE + 2 * STUB


# Of 32 MiB each; of each, the largest turn of the event loop.
LARGE = {
    "text": b'{"prompt":"' + b"a b " * (8 << 20) + b'"}',
    "beyond ASCII": b'{"prompt":"' + "中".encode() * (10 << 20) + b'"}',
    "escapes": b'{"prompt":"' + b"\\n" * (16 << 20) + b'"}',
    "token ids": b'{"prompt":[' + b"12345," * (5 << 20) + b"1]}",
    "spaces": b'{"prompt":' + b" " * (32 << 20) + b'"x"}',
    "as many messages as may be": b'{"messages":['
    + b'{"role":"u","content":"x"},' * 13_000
    + b"{}]}",
}
MOST_TURN_S = 0.05


async def test_no_large_body_holds_up_the_event_loop() -> None:
    """In seconds of this thread's processor, the best of three."""
    for kind, raw in LARGE.items():
        best = inf
        for _ in range(3):
            task = asyncio.create_task(
                BodyReader(1 << 30).outline(
                    raw, apis.CHAT if kind == "many messages" else apis.COMPLETIONS
                )
            )
            longest = 0.0
            while not task.done():
                start = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - start)
            assert task.result().choices == 1
            best = min(best, longest)
            if best < MOST_TURN_S:
                break
        assert best < MOST_TURN_S, kind
