"""What is asked of a batch's file and of its lines; hostile ones hold up nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.batches.checking import (
    ENDPOINTS,
    LONGEST_ID,
    MOST_LINES,
    MOST_MODELS,
    Checked,
    FileCheck,
    LineCheck,
    Raw,
    body_of,
)
from router.gateway.batches.files import CHUNK
from router.gateway.batches.jobs import SLICE, lines_of, look, slices
from router.gateway.batches.lines import TOGETHER
from router.gateway.batches.tables import Line
from router.http.errors import RequestError
from router.http.shorten import SMALL
from tests.helpers import calls

CHAT = "/v1/chat/completions"


def line(**changes: object) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "clips"}], "max_tokens": 7}
    return {"custom_id": "a", "method": "POST", "url": CHAT, "body": body, **changes}


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[k : k + size] for k in range(0, len(data), size)] or [b""]


@pytest.mark.parametrize(
    ("limit", "tokens"),
    [
        *[(7, 7), ("7", 7), (6.5, 7), ((1 << 31) - 1, (1 << 31) - 1)],
        *[(limit, 0) for limit in (None, -1, 1 << 31, 1 << 80, 1e30, "9" * 30, "many", [7])],
    ],
)
def test_a_limit_that_is_none_or_beyond_all_columns_is_none(limit: object, tokens: int) -> None:
    body = line()["body"] | {"max_tokens": limit}
    raw = orjson.dumps(line(body={**body, "max_tokens": None})).replace(
        b'"max_tokens":null', b'"max_tokens":' + json.dumps(limit).encode()
    )
    found = LineCheck("batch_1", CHAT).check(1, 0, len(raw), raw)
    assert found.problem is None
    assert found.row["tokens"] == tokens


def checked(data: bytes, size: int, most_line: int = 1000) -> FileCheck:
    check = FileCheck(most_line)
    for piece in pieces(data, size):
        check.feed(piece)
    check.feed(b"", last=True)
    return check


@pytest.mark.parametrize("size", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no lines"),
        (b"\n \n\t\n", "no lines"),
        (b'{"a": 1}\n{"b": "\xff"}\n', "Line 2 is not UTF-8"),
        ("{}\n{}\n€".encode()[:-1], "Line 3 is not UTF-8"),
        (b"{}\n\n{\0}\n", "Line 3 has a NUL"),
        ("{}\n{}".encode("utf-16"), "not UTF-8"),
        (b"{}\n" + b"x" * 1001, "Line 2 is over the limit of 1000 bytes"),
        (b"{}\n" * (MOST_LINES + 1), f"more than {MOST_LINES} lines"),
    ],
)
def test_a_file_that_is_no_lines_of_text_is_refused_by_line(
    data: bytes, what: str, size: int
) -> None:
    if len(data) > 10_000 and size < 100:
        size = 1000
    with pytest.raises(RequestError, match=what):
        checked(data, size)


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\0")), min_size=1),
    st.integers(1, 50),
)
def test_any_lines_of_text_pass_however_they_come(texts: list[str], size: int) -> None:
    data = "\n".join(["{}", *texts]).encode()
    check = checked(data, size, 10**6)
    assert check.size == len(data)
    assert check.lines == 1 + sum(bool(text.encode().strip()) for text in texts)


@pytest.mark.parametrize("text", [b"\n", b" \r\n", b"x\n" * 9 + b"\n" * 9_000])
def test_blank_lines_cost_no_more_than_others_bytes(text: bytes) -> None:
    data = text * (CHUNK // len(text))
    assert calls(lambda: FileCheck(1 << 20).feed(data)) < 30


@given(
    st.lists(st.binary(max_size=9).map(lambda text: text.replace(b"\n", b"")), max_size=9),
    st.integers(1, 12),
    st.booleans(),
)
def test_lines_have_their_number_and_their_place_however_they_come(
    texts: list[bytes], size: int, marked: bool
) -> None:
    mark = "\ufeff".encode() if marked else b""
    data = mark + b"\n".join([b"{}", *texts])

    async def content() -> AsyncIterator[bytes]:
        for piece in pieces(data, max(size, len(mark))):
            yield piece

    async def read() -> list[Raw]:
        return [one async for one in lines_of(content())]

    expected = [(k, one.strip()) for k, one in enumerate([b"{}", *texts], 1) if one.strip()]
    found = asyncio.run(read())
    assert [(number, raw.strip()) for number, _, raw in found] == expected
    assert all(data[at : at + len(raw)] == raw for _, at, raw in found)


def test_files_over_200_mib_are_refused() -> None:
    check = FileCheck(1 << 30)
    piece = b"x" * (1 << 20)
    for _ in range(200):
        check.feed(piece)
    with pytest.raises(RequestError, match="over the limit of 200 MiB") as told:
        check.feed(piece)
    assert told.value.status == 413


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (line(), None),
        ("nothing", "invalid_json_line"),
        ('{"custom_id": "a"', "invalid_json_line"),
        ("[]", "invalid_json_line"),
        ("NaN", "invalid_json_line"),
        ("[" * 100_000, "invalid_json_line"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "invalid_json_line"),
        ({}, "invalid_custom_id"),
        (line(custom_id=""), "invalid_custom_id"),
        (line(custom_id=None), "invalid_custom_id"),
        (line(custom_id=["a"]), "invalid_custom_id"),
        (line(custom_id="a\0b"), "invalid_custom_id"),
        (line(custom_id="x" * (LONGEST_ID + 1)), "invalid_custom_id"),
        (line(method="post"), "invalid_method"),
        (line(url="/v1/completions"), "invalid_url"),
        (line(url=["/v1/completions"]), "invalid_url"),
        (line(body="text"), "invalid_body"),
        (line(body=None), "invalid_body"),
        (line(body={}), "missing_model"),
        (line(body={"model": 7}), "missing_model"),
        (line(body={"model": "m\0"}), "missing_model"),
        (line(body={"model": "m", "stream": True}), "stream_unsupported"),
        (line(body={"model": "m", "messages": 7}), None),  # engines say what is wrong with that
    ],
)
def test_a_line_that_is_no_request_is_one_error(raw: object, code: str | None) -> None:
    text = raw if isinstance(raw, str) else json.dumps(raw)
    found = LineCheck("batch_1", CHAT).check(3, 10, len(text), text.encode())
    assert (found.problem and found.problem.code) == code
    assert found.row["state"] == (Line.WAITING if code is None else Line.FAILED)
    assert (found.row["number"], found.row["offset"]) == (3, 10)
    if code is not None:
        told = orjson.loads(found.row["result"])
        assert told["response"] is None
        assert told["error"]["code"] == code
        named = isinstance(raw, dict) and isinstance(raw.get("custom_id"), str)
        assert told["custom_id"] == (found.row["custom_id"] or None)
        assert bool(found.row["custom_id"]) == bool(named and raw["custom_id"])  # type: ignore[index]


def test_a_custom_id_is_one_lines_even_if_that_one_is_wrong() -> None:
    looks = LineCheck("batch_1", CHAT)
    for changes, code in (
        ({"method": "GET"}, "invalid_method"),
        ({}, "duplicate_custom_id"),
        ({"custom_id": "b"}, None),
        ({"custom_id": "b"}, "duplicate_custom_id"),
    ):
        raw = orjson.dumps(line(**changes))
        problem = looks.check(1, 0, len(raw), raw).problem
        assert (problem and problem.code) == code


def test_lines_that_begin_alike_have_the_same_prefix_by_model() -> None:
    def prefix(endpoint: str, body: dict[str, Any]) -> int:
        raw = orjson.dumps(line(url=endpoint, body={"model": "m", **body}))
        row = LineCheck("batch_1", endpoint).check(1, 0, len(raw), raw).row
        assert -(1 << 63) <= row["prefix"] < 1 << 63
        return int(row["prefix"])

    long, other = "clip " * 200, "apple " * 200
    assert prefix("/v1/completions", {"prompt": "short"}) == 0
    assert prefix("/v1/embeddings", {"input": long}) == 0
    one = prefix("/v1/completions", {"prompt": long + "one"})
    assert one == prefix("/v1/completions", {"prompt": long + "two"}) != 0
    assert one != prefix("/v1/completions", {"prompt": other})
    assert one != prefix("/v1/completions", {"prompt": long, "model": "n"})
    ids = list(range(500))
    assert prefix("/v1/completions", {"prompt": ids}) == prefix(
        "/v1/completions", {"prompt": [*ids, 1]}
    )
    chats = [{"messages": [{"role": "system", "content": long}, {"role": "user", "content": t}]}
             for t in "ab"]  # fmt: skip
    assert prefix(CHAT, chats[0]) == prefix(CHAT, chats[1]) != 0


def test_lines_are_planned_for_their_own_models_as_long_as_those_are_few() -> None:
    looks, names = LineCheck("batch_1", CHAT), ["m", "n", "m", *map(str, range(99)), "n", "98"]
    told = []
    for k, name in enumerate(names):
        raw = orjson.dumps(line(custom_id=f"{k}", body={"model": name}))
        told.append(looks.check(1, 0, len(raw), raw).row["model"])
    assert looks.models == ["m", "n", *map(str, range(MOST_MODELS - 2))]
    assert told == [name if name in looks.models[1:] else None for name in names]


def test_every_endpoint_takes_a_line_of_its_own() -> None:
    assert set(ENDPOINTS) == {
        "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings",
    }  # fmt: skip
    for endpoint in ENDPOINTS:
        raw = orjson.dumps(line(url=endpoint, body={"model": "m"}))
        assert LineCheck("batch_1", endpoint).check(1, 0, len(raw), raw).problem is None


@pytest.mark.parametrize("raw", [b"{", b"[]", b"{}", b'{"body": ' + b"[" * 500 + b"]" * 500 + b"}"])
def test_what_turns_out_to_be_no_request_is_an_error_of_its_line(raw: bytes) -> None:
    with pytest.raises(RequestError, match="no JSON that can be sent"):
        body_of(raw)


async def rows(count: int, size: int) -> AsyncIterator[Raw]:
    for k in range(count):
        yield k + 1, k * size, b"x" * size


async def test_lines_are_looked_at_some_at_a_time_and_large_ones_alone() -> None:
    for count, size in ((50_000, 10), (500, 3000), (5, SLICE), (3, 2 * SLICE)):
        found = [slice_ async for slice_ in slices(rows(count, size))]
        assert sum(map(len, found)) == count
        for slice_ in found:
            assert len(slice_) <= TOGETHER
            assert len(slice_) == 1 or sum(len(raw) for _, _, raw in slice_) <= SLICE


async def test_a_large_line_is_looked_at_without_reading_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []

    class Noting(LineCheck):
        def check(self, number: int, offset: int, length: int, raw: bytes) -> Checked:
            read.append(len(raw))
            return super().check(number, offset, length, raw)

    monkeypatch.setattr(asyncio, "to_thread", None)  # the loop is not even left for it
    looks = Noting("batch_1", CHAT)
    text = "clips " * 1_000_000
    good = orjson.dumps(line(body={"model": "m", "messages": [{"content": text}]}))
    hostile = orjson.dumps(line(body={"model": "m", "messages": [{}] * 600_000}))
    (found,) = await look(looks, "batch_1", [(1, 0, good)])
    assert found.problem is None
    assert found.row["length"] == len(good)
    (found,) = await look(looks, "batch_1", [(2, 0, hostile)])
    assert found.problem is not None
    assert found.problem.code == "request_too_large"
    assert max(read) < len(good) / 10
    assert len(good) > SMALL
