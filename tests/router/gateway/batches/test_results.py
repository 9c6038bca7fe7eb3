"""A line of the output file is one line, and says what has been answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.batches.lines import Result
from router.gateway.batches.results import Problem, answered, failed_line, read
from router.gateway.batches.tables import Line

TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("\n\r\v\f\x1c\x85\u2028\u2029"))


def result(body: bytes, status: int = 200, custom_id: str = "a") -> Result:
    return answered("batch_1", 7, custom_id, status, "batch_1.7", body, read(body))


def told(text: bytes) -> dict[str, Any]:
    """What it says to whoever splits a file at all that may end a line."""
    (line,) = text.decode().splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@given(TEXTS, TEXTS, st.sampled_from([None, 1]), st.booleans())
def test_every_answer_is_one_line_for_every_reader(
    text: str, name: str, indent: int | None, escaped: bool
) -> None:
    body = {"choices": [{"text": text}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    raw = json.dumps(body, indent=indent, ensure_ascii=escaped).encode()
    found = result(raw, custom_id=name)
    assert (found.state, found.input_tokens, found.output_tokens) == (Line.DONE, 3, 4)
    line = told(found.text)
    assert (line["custom_id"], line["error"], line["response"]["body"]) == (name, None, body)
    line = told(failed_line("batch_1", 7, name, Problem("a", text)))
    assert (line["custom_id"], line["error"]["message"]) == (name, text)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>\n</html>", b"[1]", b"null", b'{"a": NaN}', b'{"a": 1}{', b"\xff", b"[" * 5000],
)
def test_what_is_no_json_object_is_no_answer_but_is_told(body: bytes) -> None:
    found = result(body)
    line = told(found.text)
    assert (found.state, line["error"]["code"]) == (Line.FAILED, "invalid_answer")
    assert line["response"]["body"] == body.decode("utf-8", "replace")
    failed = told(result(body, status=400).text)
    assert (failed["error"], failed["response"]["status_code"]) == (None, 400)
