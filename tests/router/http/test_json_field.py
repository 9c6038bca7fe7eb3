"""A field of a JSON object that comes in pieces."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.json_field import MOST_BYTES, MOST_NAMES, JsonField
from tests.linear import TIMES, assert_linear

TEXTS = st.sampled_from(["x", '"x": 1', '"x"', "\\", 'a\\"', "{", "}", "[", "é", "\\\\", ""])
VALUES = st.recursive(
    TEXTS | st.integers(0, 9),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXTS, one, max_size=3),
    max_leaves=8,
)


def found(text: bytes, size: int) -> Any:  # noqa: ANN401
    field = JsonField("x")
    for start in range(0, len(text), size):
        field.feed(text[start : start + size])
    return field.value()


@given(st.dictionaries(TEXTS, VALUES, max_size=5), st.integers(1, 40), st.integers(0, 9))
def test_it_is_what_a_reader_of_all_finds(body: dict[str, Any], size: int, seed: int) -> None:
    rng = random.Random(seed)
    text = json.dumps(body, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))
    assert found(text.encode(), size) == body.get("x")


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_of_several_the_last_counts_and_what_is_too_large_is_none(size: int) -> None:
    assert found(b'{"x":1,"y":{"x":2},"x":3,"z":"x"}', size) == 3
    assert found(b'{"x":"' + b"a" * MOST_BYTES + b'"}', size) is None
    assert found(b'{"x":' + b"[" * 100_000, size) is None
    assert found(b"{" + b'"x":1,' * MOST_NAMES + b'"x":2}', size) == 1


@pytest.mark.parametrize("unit", [b'"x":', b'"x', b"\\\\", b'\\"', b"[", b'"', b"0.1,"], ids=repr)
def test_what_it_costs_is_linear_and_it_holds_little(unit: bytes) -> None:
    def read(text: bytes) -> None:
        field = JsonField("x")
        for start in range(0, len(text), 16_384):
            field.feed(text[start : start + 16_384])
            assert len(field._rest) < 10

    one = b'{"y":[' + unit * ((1 << 20) // len(unit))
    assert_linear(read, one, one * TIMES)
