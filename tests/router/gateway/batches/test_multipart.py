"""Forms as they come: the same parts, however a body is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.batches.multipart import MOST_HEAD, MOST_PARTS, Form, Part, boundary_of
from router.http.errors import RequestError

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


@pytest.mark.parametrize(
    "body",
    [
        b"--edge\r\ncontent-disposition: form-data\r\n\r\nx\r\n--edge--",
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
        ("multipart/form-data", None),
        ("", None),
    ],
)
def test_a_form_is_known_by_its_boundary(kind: str, mark: bytes | None) -> None:
    if mark is not None:
        assert boundary_of(kind) == mark
        return
    with pytest.raises(RequestError, match="curl -F") as told:
        boundary_of(kind)
    assert told.value.status == 415
