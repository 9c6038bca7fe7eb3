"""Traces of others as they come, each form by a small file, and what is said of the rest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from router.lab.simulation.documents import by_tokenizer
from router.lab.simulation.traces import read_trace
from router.settings.base import BadSettings
from solver.cost.estimators import BYTES_PER_TOKEN
from solver.sim.request import Request

TURNS = [
    {"from": "human", "value": "x" * round(100 * BYTES_PER_TOKEN)},
    {"from": "gpt", "value": "y" * round(50 * BYTES_PER_TOKEN)},
    {"from": "human", "value": "z" * round(10 * BYTES_PER_TOKEN)},
    {"from": "gpt", "value": "é" * round(20 * BYTES_PER_TOKEN / 2)},
]
ANSWERED = [
    {"request_id": "a", "prompt_tokens": 3, "output_tokens": 4, "start_time": 1.7e9 + 2},
    {"request_id": "b", "prompt_tokens": 5, "output_tokens": 6, "request_start_time": 1.7e9 + 3.5},
]
ISO = "2023-11-16T18:15:46+00:00"
FORMS: dict[str, tuple[str, list[Request]]] = {
    "azure": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
        [Request("0", 374, 44), Request("1", 396, 109, 4.314579)],
    ),
    "azure in another time zone": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10T00:00:01.5+00:00,3,4\n2024-05-10T02:00:01+02:00,5,6\n",
        [Request("0", 3, 4, 0.5), Request("1", 5, 6)],
    ),
    "burstgpt": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n1106,ChatGPT,0,0,0,Conversation log\n"
        "1128.5,GPT-4,1305,477,1782,API log\n",
        [Request("0", 472, 18, 5.0), Request("2", 1305, 477, 1128.5)],
    ),
    "mooncake": (
        '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n',
        [Request("0", 6955, 52, 27.482, (46, 47))],
    ),
    "unix seconds": (
        "prompt_tokens,output_tokens,arrival_s\n3,4,1700000005.25\n5,6,1700000000\n",
        [Request("0", 3, 4, 5.25), Request("1", 5, 6)],
    ),
    "unix milliseconds": (
        "prompt_tokens,output_tokens,timestamp\n3,4,1700000000000\n5,6,1700000000250\n",
        [Request("0", 3, 4), Request("1", 5, 6, 0.25)],
    ),
    "unix microseconds": (
        "prompt_tokens,output_tokens,Timestamp\n3,4,1700000000000000\n5,6,1700000001000000\n",
        [Request("0", 3, 4), Request("1", 5, 6, 1.0)],
    ),
    "unix nanoseconds": (
        "prompt_tokens,output_tokens,arrival_s\n3,4,1700000000000000000\n5,6,1700000002000000000\n",
        [Request("0", 3, 4), Request("1", 5, 6, 2.0)],
    ),
    "dates in json": (
        f'{{"prompt_tokens": 3, "output_tokens": 4, "arrival_s": "{ISO}"}}',
        [Request("0", 3, 4)],
    ),
    "sharegpt": (
        json.dumps([{"id": "x", "conversations": TURNS}, {"id": "y", "conversations": []}]),
        [Request("0", 100, 50), Request("1", 160, 20)],
    ),
    "sharegpt on many lines": (
        json.dumps([{"id": "x", "conversations": TURNS[:2]}], indent=1),
        [Request("0", 100, 50)],
    ),
    "messages": (
        json.dumps([{"messages": [{"role": "user", "content": "x" * 8},
                                  {"role": "assistant", "content": "y" * 8}]}]),
        [Request("0", round(8 / BYTES_PER_TOKEN), round(8 / BYTES_PER_TOKEN))],
    ),
    "vllm": (
        json.dumps({"backend": "vllm", "completed": 2, "input_lens": [3, 5, 7],
                    "output_lens": [4, 0, 8], "start_times": [90.5, 91.0, 92.0]}),
        [Request("0", 3, 4), Request("2", 7, 8, 1.5)],
    ),
    "vllm without times": (
        json.dumps({"input_lens": [3], "output_lens": [4]}, indent=2),
        [Request("0", 3, 4)],
    ),
    "guidellm": (
        json.dumps({"benchmarks": [{"requests": {"successful": []}},
                                   {"requests": {"successful": ANSWERED, "errored": [{}]}}]}),
        [Request("0", 3, 4), Request("1", 5, 6, 1.5)],
    ),
    "a list of rows": (
        json.dumps([{"prompt_tokens": 3, "output_tokens": 4, "arrival_s": 1}]),
        [Request("0", 3, 4, 1.0)],
    ),
    "tenants": (
        "prompt_tokens,output_tokens,tenant\n3,4,search\n5,6,\n",
        [Request("0", 3, 4, tenant="search"), Request("1", 5, 6)],
    ),
}  # fmt: skip


def close(found: list[Request], wanted: list[Request]) -> None:
    """But for what is lost of a time in microseconds since 1970."""
    assert [one.arrival_s for one in found] == pytest.approx(
        [w.arrival_s for w in wanted], abs=2e-6
    )
    for one, other in zip(found, wanted, strict=True):
        same = one.id, one.prompt_tokens, one.output_tokens, one.hash_ids, one.tenant
        assert same == (
            other.id, other.prompt_tokens, other.output_tokens, other.hash_ids, other.tenant
        )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_as_it_comes(tmp_path: Path, form: str) -> None:
    text, wanted = FORMS[form]
    path = tmp_path / "trace"
    path.write_text(text)
    close(read_trace(path).requests, wanted)


def test_what_made_nothing_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("prompt_tokens,output_tokens\n3,4\n3,0\n0,0\n5,6\n")
    found = read_trace(path)
    assert len(found.requests) == 2
    assert found.left_out == {"no output": 2}
    path.write_text("prompt_tokens,output_tokens\n3,0\n")
    with pytest.raises(BadSettings, match="no requests in it; 1 rows left out: no output"):
        read_trace(path)


def test_a_log_s_rows_are_left_out_by_how_they_ended(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"outcome": "completed", "prompt_tokens": 3, "output_tokens": 4, "arrival_s": 1.7e9},
        {"outcome": "cancelled", "prompt_tokens": 3, "output_tokens": 2, "arrival_s": 1.7e9 + 1},
        {"outcome": "rejected_no_capacity", "prompt_tokens": 3, "output_tokens": None,
         "arrival_s": 1.7e9 + 2},
        {"outcome": "failed", "prompt_tokens": 0, "output_tokens": 0, "arrival_s": 1.7e9 + 2},
    ]  # fmt: skip
    path = tmp_path / "log"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read_trace(path)
    assert [(one.arrival_s, one.output_tokens) for one in found.requests] == [(0.0, 4), (1.0, 2)]
    assert found.left_out == {"rejected_no_capacity": 1, "failed": 1}


LOGGED = '{"arrival_s":%d,"prompt_tokens":3,"output_tokens":4,"tenant":"é","outcome":"completed"}'
CUTS = {
    "half a line": b'{"arrival_s":1,"prom\n',
    "half a character": '{"tenant":"é'.encode()[:-1] + b"\n",
    "half a line and the next": b'{"arrival_s":1,"prom' + (LOGGED % 7).encode() + b"\n",
    "zeros": bytes(4096) + b"\n",
    "no prompt": (LOGGED % 7).replace('tokens":3', 'tokens":0').encode() + b"\n",
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_what_a_fault_has_left_of_a_log_is_left_out_and_counted(
    tmp_path: Path, cut: str, place: int
) -> None:
    lines = [(LOGGED % k).encode() + b"\n" for k in range(3)]
    lines.insert(place, CUTS[cut])
    path = tmp_path / "log"
    path.write_bytes(b"".join(lines))
    found = read_trace(path)
    assert [one.arrival_s for one in found.requests] == [0.0, 1.0, 2.0]
    assert sum(found.left_out.values()) == 1
    path.write_bytes(bytes(10) + b"".join(lines[:place] + lines[place + 1 :]))
    assert len(read_trace(path).requests) == 3  # zeros before a row that is whole


def test_of_what_is_no_log_no_line_may_be_broken(tmp_path: Path) -> None:
    path, row = tmp_path / "trace", b'{"prompt_tokens":3,"output_tokens":4}\n'
    for text, number in ((row + b"{\n" + row, 2), (b"{\n" + row, 1), (b"{\n" * 1000, 1)):
        path.write_bytes(text)
        with pytest.raises(BadSettings, match=rf":{number}: no JSON"):
            read_trace(path)


def test_columns_of_any_name_are_told(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("when,who,in,out\n2.5,a,3,4\n")
    with pytest.raises(BadSettings) as told:
        read_trace(path)
    assert "there are: when, who, in, out" in str(told.value)
    assert "--columns prompt_tokens=NAME,output_tokens=NAME" in str(told.value)
    names = {"prompt_tokens": "in", "output_tokens": "out", "arrival_s": "when", "tenant": "who"}
    close(read_trace(path, columns=names).requests, [Request("0", 3, 4, 2.5, tenant="a")])
    with pytest.raises(BadSettings, match=r":2: inn: no such column, for prompt_tokens; there are"):
        read_trace(path, columns=names | {"prompt_tokens": "inn"})


BROKEN = {
    "[1, 2]": r"\[0\]: expected a conversation or a request",
    '{"input_lens": [3]}': "output_lens: not there; vllm bench serve writes it by",
    '{"benchmarks": []}': "requests.successful",
    '[{"in": 3}]': "prompt_tokens: no such column; there are: in",
    '{"benchmarks": [{"requests": {"successful": [{"output_tokens": 3}]}}]}': "prompt_tokens",
    "prompt_tokens,output_tokens,arrival_s\n3,4,yesterday\n": "or a date, not 'yesterday'",
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-01,3,4\n": "TIMESTAMP: .* not '2023-13-01'",
}


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_none_of_them_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(BadSettings, match=BROKEN[text]) as told:
        read_trace(path)
    assert str(told.value).startswith(str(path))


def test_texts_are_measured_as_told(tmp_path: Path) -> None:
    path = tmp_path / "talks.json"
    said = [("human", "one two three"), ("gpt", "four"), ("human", "five"), ("gpt", "six seven")]
    turns = [{"from": who, "value": text} for who, text in said]
    path.write_text(json.dumps([{"conversations": turns}]))
    found = read_trace(path, length=lambda text: len(text.split()))
    assert [(r.prompt_tokens, r.output_tokens) for r in found.requests] == [(3, 1), (5, 2)]


def test_what_a_tokenizer_needs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as if it were not installed
    with pytest.raises(BadSettings, match="tokenizer: needs a package: pip install tokenizers"):
        by_tokenizer(tmp_path / "tokenizer.json")
