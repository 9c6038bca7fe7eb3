"""The model of a body, replaced where it is, whatever else is in it."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.model_field import with_field, with_model
from tests.linear import TIMES, assert_linear

TEXTS = st.sampled_from(["model", '"model": "old"', "old", 'a\\"', "{", "}", "é", "\\", ""])
VALUES = st.recursive(
    TEXTS | st.none() | st.integers(0, 9),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXTS, one, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=5), st.integers(0, 99), st.sampled_from("old "))
def test_only_the_model_changes(body: dict[str, Any], seed: int, old: str) -> None:
    rng = random.Random(seed)
    rows = [(name, value) for name, value in body.items() if name != "model"]
    if old.strip():
        rows.insert(rng.randrange(len(rows) + 1), ("model", old))
    whole = dict(rows)
    text = json.dumps(
        whole, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)),
        separators=rng.choice(((",", ":"), (" ,  ", " :  "))),
    ).encode()  # fmt: skip
    made = with_model(text, 'ne"w', named=bool(old.strip()))
    assert orjson.loads(made) == {**whole, "model": 'ne"w'}
    assert len(made) - len(text) <= len(b'"model":"ne\\"w",')


@pytest.mark.parametrize(
    ("body", "made"),
    [
        (rb'{"mod\u0065l" : "b"}', rb'{"mod\u0065l" : "new"}'),
        (b'{"x": "model", "model" : "b"}', b'{"x": "model", "model" : "new"}'),
        (rb'{"x": "\"model", "model":"model"}', rb'{"x": "\"model", "model":"new"}'),
        (b' { "prompt": 1.0e5 }', b' { "model":"new","prompt": 1.0e5 }'),
        (b"{ }", b'{ "model":"new"}'),
        (b'{"model": null, "x":1}', b'{"model": "new", "x":1}'),
        (b'{"x": {"model": "a"}}', b'{"model":"new","x": {"model": "a"}}'),
    ],
)
def test_bytes_stay(body: bytes, made: bytes) -> None:
    assert with_model(body, "new", named=b'"b"' in body or b'"model":"' in body) == made


@given(st.dictionaries(TEXTS | st.just("priority"), VALUES | st.just("priority"), max_size=4))
def test_a_field_is_put_where_there_is_none(body: dict[str, Any]) -> None:
    """Whatever is called so within other fields, as in tools, or has that value."""
    found = orjson.loads(
        with_field(json.dumps({**body, "x": {"priority": 1}}).encode(), "priority", 7)
    )
    assert found == {"priority": 7, **body, "x": {"priority": 1}}


@pytest.mark.parametrize(
    "unit", [rb"\\\\", rb"\"", rb"\"model\":", "é".encode(), b" ", rb"\u006"], ids=repr
)
@pytest.mark.parametrize("begin", [b'{"model":"a","x":{"model":"a"},"y":"', b'{"model":"a","y":"'])
def test_what_it_costs_is_linear_in_its_size(begin: bytes, unit: bytes) -> None:
    one = unit * ((1 << 20) // len(unit))

    def change(text: bytes) -> None:
        assert with_model(begin + text + b'"}', "new", named=True).startswith(b'{"model":"new"')

    assert_linear(change, one, one * TIMES)
