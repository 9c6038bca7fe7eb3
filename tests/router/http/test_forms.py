"""Forms as they come: the same parts, however a body is cut."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.errors import RequestError
from router.http.forms import MOST_HEAD, MOST_PARTS, Form, Part, boundary_of, field_at
from tests.linear import TIMES, assert_linear

MARK = b"edge"


def part(name: str, content: bytes, more: str = "") -> bytes:
    head = f'content-disposition: form-data; name="{name}"{more}'
    return b"--" + MARK + b"\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def read(body: bytes, size: int) -> tuple[list[tuple[str, str | None, bytes]], bool]:
    form, found = Form(MARK), dict[Part, bytes]()
    for start in range(0, len(body), size):
        for one, data in form.feed(body[start : start + size]):
            found[one] = found.get(one, b"") + data
    return [(one.name, one.filename, data) for one, data in found.items()], form.ended


@given(
    st.lists(st.binary(max_size=60).filter(lambda data: b"\r\n--" + MARK not in data), max_size=5),
    st.integers(1, 80),
)
def test_parts_are_the_same_however_they_are_cut(contents: list[bytes], size: int) -> None:
    body = b"".join(part(f"f{k}", content) for k, content in enumerate(contents))
    found, ended = read(body + b"--" + MARK + b"--\r\n", size)
    assert found == [(f"f{k}", None, content) for k, content in enumerate(contents)]
    assert ended


def test_names_are_read_as_clients_write_them() -> None:
    body = part("file", b"1", '; filename="a b.jsonl"')
    body += part("file", b"2", "; filename*=utf-8''%C3%A4.jsonl")
    body += part("file", b"3", '; filename="ä.jsonl"')
    found, ended = read(body, 7)
    assert [name for _, name, _ in found] == ["a b.jsonl", "ä.jsonl", "ä.jsonl"]
    assert not ended


def named(line: str, more: str = "") -> bytes:
    return f"--edge\r\ncontent-disposition: form-data{line}\r\n{more}\r\nx\r\n--edge--".encode()


@pytest.mark.parametrize(
    "body",
    [
        named(""),
        named('; name="a"; name="model"'),
        named("; name=a; NAME=model"),
        named("; name*=utf-8''model"),
        named('; name*0="mo"; name*1="del"'),
        named(r'; name="mo\del"'),
        named('; name="a'),
        named('; name="a" b'),
        named('; name="a"', 'content-disposition: form-data; name="model"\r\n'),
        named('; name="a"', ' ; name="model"\r\n'),
        named('; name="a"', "content-disposition : x\r\n"),
        named('; name="a"', 'x: y\ncontent-disposition: form-data; name="model"\r\n'),
        named('; name="a"', "content-transfer-encoding: base64\r\n"),
        b"x" + part("a", b""),
        b"--edge--\r\n" + part("a", b""),
        b"--edge \r\n",
        b"--edge\r\nx: " + b"y" * MOST_HEAD + b"\r\n\r\n",
        b"--edgeXX",
        part("a", b"") * (MOST_PARTS + 1),
    ],
)
@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_what_is_no_form_is_refused(body: bytes, size: int) -> None:
    with pytest.raises(RequestError, match="The form is broken"):
        read(body, size)


def test_nothing_but_a_forms_part_is_held() -> None:
    form = Form(MARK)
    for _ in form.feed(part("file", b"")[:-2]):
        pass
    for _ in range(100):
        assert sum(len(data) for _, data in form.feed(b"x" * 1000)) >= 990
    assert len(form._held) < 100


@pytest.mark.parametrize(
    ("kind", "mark"),
    [
        ("multipart/form-data; boundary=edge", b"edge"),
        ('Multipart/Form-Data; charset=utf-8; boundary="ed ge"', b"ed ge"),
        ("application/json", None),
        ("", None),
        (None, None),
    ],
)
def test_a_form_is_known_by_its_boundary(kind: str | None, mark: bytes | None) -> None:
    assert boundary_of(None if kind is None else kind.encode()) == mark


@pytest.mark.parametrize(
    "more",
    ["", "; boundary=", "; boundary=a; boundary=b", "; boundary=a; Boundary=a", "; boundary",
     '; boundary="a', r'; boundary="a\b"', "; boundary=a; charset=utf-7", "; boundary=a b",
     "; boundary=" + "a" * 71, ", boundary=a"],
)  # fmt: skip
def test_a_boundary_that_may_be_another_is_refused(more: str) -> None:
    with pytest.raises(RequestError, match="The form is broken"):
        boundary_of(b"multipart/form-data" + more.encode())


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (part("model", b"m"), b"m"),
        (part("file", b"x", '; filename="model"') + part("model", b"a/b"), b"a/b"),
        (part("file", b"x", '; filename="x; name=model"') + part("model", b"b"), b"b"),
        (part("x", b"") + part("model", b"m" * 200_000) + part("y", b""), b"m" * 200_000),
        (part("prompt", b'content-disposition: form-data; name="model"\r\n\r\nx'), None),
        (part("mymodel", b"x") + part("Model", b"x"), None),
        (named('; name="model"'), b"x"),
        (named("; name=model"), b"x"),
        (named('; name="model"', "x: " + "y" * 2000 + "\r\n"), b"x"),
        (b"", None),
    ],
)
def test_the_value_of_a_field(body: bytes, model: bytes | None) -> None:
    whole = body if body.endswith(b"--") else body + b"--edge--\r\n"
    found = field_at(whole, MARK, "model")
    assert (None if found is None else whole[slice(*found)]) == model


def test_a_field_that_is_there_twice_is_refused() -> None:
    body = part("model", b"a") + part("model", b"a")
    with pytest.raises(RequestError, match="'model' is there more than once"):
        field_at(body + b"--edge--", MARK, "model")
    with pytest.raises(RequestError, match="its end is missing"):
        field_at(part("model", b"a"), MARK, "model")


HEAD = b"content-disposition:" * 25 + b"; name=" * 70
HOSTILE = {
    "heads": b"\r\n--edge\r\n" + HEAD + b"\r\n\r\n",
    "near marks": b"\r\n--edg",
    "quotes": b'content-disposition: form-data; name="\\"',
    "semicolons": b";",
    "dashes": b"-\r\n",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("before", [part("a", b"")[:-2], b"--edge\r\nx: "], ids=["part", "head"])
def test_what_it_costs_is_linear_in_its_size(before: bytes, unit: bytes) -> None:
    def read(body: bytes) -> None:
        with suppress(RequestError):
            field_at(body, MARK, "model")

    one = unit * ((1 << 20) // len(unit))
    assert_linear(read, before + one, before + one * TIMES)
