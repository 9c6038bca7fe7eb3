"""What a body must look like, and which field an error names."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import orjson
import pytest

from router.http.errors import RequestError
from router.http.schemas import CompletionRequest, Prompt, load, read

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "m", "prompt": "hi"}


def parse(raw: bytes, *, chat: bool) -> CompletionRequest:
    return read(load(raw), chat=chat)


def body(base: dict[str, Any], **changes: object) -> bytes:
    return orjson.dumps({k: v for k, v in {**base, **changes}.items() if v is not ...})


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "must be a JSON object, not an array"),
        (b'"x"', "must be a JSON object, not a string"),
        (b"null", "must be a JSON object, not null"),
    ],
)
@pytest.mark.parametrize("chat", [True, False])
def test_bodies_that_are_no_object(raw: bytes, complaint: str, chat: bool) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        parse(raw, chat=chat)
    assert caught.value.status == 400


COMMON = [
    ({"model": ...}, "model", "is required"),
    ({"model": 7}, "model", "a string, not a number"),
    ({"stream": "yes"}, "stream", "a boolean, not a string"),
    ({"stream_options": []}, "stream_options", "an object, not an array"),
    ({"stream_options": {}, "stream": True, "max_tokens": 0}, "max_tokens", "between 1 and"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed when"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        "stream_options.include_usage",
        "a boolean",
    ),
    ({"max_tokens": "9"}, "max_tokens", "an integer, not a string"),
    ({"max_tokens": True}, "max_tokens", "an integer, not a boolean"),
    ({"max_tokens": 1.5}, "max_tokens", "an integer, not a number"),
    ({"max_tokens": -1}, "max_tokens", "between 1 and"),
    ({"max_tokens": 1 << 60}, "max_tokens", "between 1 and"),
    ({"n": 0}, "n", "between 1 and 128"),
    ({"n": 129}, "n", "between 1 and 128"),
    ({"temperature": "hot"}, "temperature", "a number, not a string"),
    ({"top_p": True}, "top_p", "a number, not a boolean"),
    ({"ignore_eos": "no"}, "ignore_eos", "a boolean"),
    ({"stop": 3}, "stop", "a string or an array of strings"),
    ({"stop": ["a", 3]}, "stop", "a string or an array of strings"),
]
ONLY_TEXT = [
    ({"prompt": ...}, "prompt", "is required"),
    ({"prompt": 3}, "prompt", "a string or an array, not a number"),
    ({"prompt": []}, "prompt", "must not be empty"),
    ({"prompt": ["a", 3]}, "prompt", "made of strings"),
    ({"prompt": [[1, "a"]]}, "prompt", "made of strings"),
    ({"prompt": [[]]}, "prompt", "made of strings"),
    ({"prompt": [-1]}, "prompt", "made of strings"),
    ({"prompt": ["a"] * 3000}, "prompt", "at most 2048 answers"),
    ({"prompt": ["a"] * 100, "n": 100}, "n", "at most 2048 answers"),
]
ONLY_CHAT = [
    ({"messages": ...}, "messages", "is required"),
    ({"messages": {}}, "messages", "an array, not an object"),
    ({"messages": []}, "messages", "must not be empty"),
    ({"messages": ["hi"]}, "messages[0]", "an object, not a string"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", "a string, not null"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "a string or an"),
    ({"messages": [{"role": "user", "content": [3]}]}, "messages[0].content[0]", "an object"),
    (
        {"messages": [{"role": "user", "content": [{"text": 3}]}]},
        "messages[0].content[0].text",
        "a string",
    ),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "between 1 and"),
]
CASES = [
    *((TEXT, *case) for case in COMMON + ONLY_TEXT),
    *((CHAT, *case) for case in COMMON + ONLY_CHAT),
]


@pytest.mark.parametrize(("base", "change", "param", "complaint"), CASES)
def test_errors_name_the_field(
    base: dict[str, Any], change: dict[str, object], param: str, complaint: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse(body(base, **change), chat=base is CHAT)
    assert caught.value.param == param
    assert complaint in str(caught.value)
    error = orjson.loads(caught.value.body())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


def test_what_is_read() -> None:
    request = parse(
        body(
            TEXT,
            prompt=["a", [1, 2, 3]],
            n=2,
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
            stop="x",
            ignore_eos=True,
        ),
        chat=False,
    )
    assert request.prompts == (Prompt("a"), Prompt.of_ids([1, 2, 3]))
    assert (request.choices, request.output_limit(100)) == (4, 9)
    assert request.stream
    assert request.include_usage
    assert request.ignore_eos
    assert request.stop == ("x",)


def test_unknown_fields_and_nulls_are_nobodys_business() -> None:
    extra = {
        "guided_json": {"type": "object"},
        "logit_bias": None,
        "tools": [1],
        "max_tokens": None,
    }
    assert parse(body(CHAT, **extra), chat=True).max_tokens is None


def test_messages_of_parts_and_tool_calls() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
    ]
    assert parse(body(CHAT, messages=messages), chat=True).prompts[0].text == "be brief\n\na\n"


def test_default_output_limits_are_openais() -> None:
    assert parse(body(TEXT), chat=False).output_limit(1000) == 16
    assert parse(body(CHAT), chat=True).output_limit(1000) == 1000
    limited = parse(body(CHAT, max_tokens=5, max_completion_tokens=7), chat=True)
    assert limited.output_limit(1000) == 7


# A process may have little more memory than it has, and gets a body that wants several times as
# much to be read; it prints what it would answer.
_CRAMPED = """
import resource
from pathlib import Path

from router.http.errors import RouterError
from router.http.schemas import load

body = b'{"prompt":"' + b"x" * (32 << 20) + b'"}'
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (64 << 20), resource.RLIM_INFINITY))
try:
    load(body)
except RouterError as error:
    print(error.status, error.headers()[-1][0].decode())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address space")
def test_where_memory_runs_low_the_request_is_not_to_blame() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CRAMPED], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["503", "retry-after"]
