"""Traces of others as they come, each form by a small file, and what is said of the rest."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from router.lab.simulation.documents import by_tokenizer
from router.lab.simulation.times import A_SECOND, NAMED
from router.lab.simulation.traces import NO_TIMES, UNTOLD, WHICH_TIMES, read_trace
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
    "servegen": (
        "request_id,timestamp,input_tokens,output_tokens\n0,0.5,10,20\n1,60.25,15,25\n",
        [Request("0", 10, 20, 0.5), Request("1", 15, 25, 60.25)],
    ),
    "semicolons": (
        "arrival_s;prompt_tokens ; output_tokens\n0.5;3;4\n",
        [Request("0", 3, 4, 0.5)],
    ),
    "tabs": ("when\tTIMESTAMP\tContextTokens\tGeneratedTokens\na,b\t0.5\t3\t4\n",
             [Request("0", 3, 4, 0.5)]),
    "spend logs": (
        '{"startTime": "2026-01-01T00:00:02Z", "prompt_tokens": 3, "completion_tokens": 4}\n'
        '{"startTime": "2026-01-01T00:00:00Z", "prompt_tokens": 5, "completion_tokens": 6}\n',
        [Request("0", 3, 4, 2.0), Request("1", 5, 6)],
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
    "conversations, one a line": (
        json.dumps({"conversations": TURNS}) + "\n" + json.dumps({"messages": TURNS[:2]}),
        [Request("0", 100, 50), Request("1", 160, 20), Request("2", 100, 50)],
    ),
    "parts of messages": (
        json.dumps({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "x" * 40}, {"type": "image_url", "image_url": {"url": "x"}},
            {"type": "text", "text": "z" * 40}]}, {"role": "assistant", "content": "y" * 8}]}),
        [Request("0", round(80 / BYTES_PER_TOKEN), round(8 / BYTES_PER_TOKEN))],
    ),
    "messages beside lengths": (
        '{"messages": [], "input_tokens": 3, "output_tokens": 4, "time_ms": 0}\n'
        '{"messages": [{"role": "user"}], "input_tokens": 5, "output_tokens": 6, "time_ms": 7}\n',
        [Request("0", 3, 4), Request("1", 5, 6, 0.007)],
    ),
    "what a conversation tells": (
        json.dumps({"conversations": TURNS, "arrival_s": 0, "tenant": "a", "hash_ids": [7]}) + "\n"
        + json.dumps({"messages": TURNS[:2], "arrival_s": 3.5, "tenant": "b", "hash_ids": []}),
        [Request("0", 100, 50, 0.0, (7,), tenant="a"), Request("1", 160, 20, 0.0, (7,), tenant="a"),
         Request("2", 100, 50, 3.5, tenant="b")],
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


# A column's name, what it has in seconds and units of one, what it is read as and whether that is
# said. Sparse: one in five seconds; busy: five a second, for a minute.
SPARSE, BUSY = [0.0, 4.0, 9.0, 15.0, 20.0], [k / 5 for k in range(300)]
UNIX = 1.7e9
UNITS: dict[str, tuple[str, list[float], float, bool]] = {
    "s": ("arrival_s", SPARSE, 1, False),
    "s of a name that says none": ("timestamp", SPARSE, 1, True),
    "s with fractions": ("timestamp", BUSY, 1, True),
    "s of fractions, and rare": ("time", [0.25, 4000.5, 9000.25], 1, True),
    "ms": ("arrival_ms", SPARSE, 1e3, False),
    "ms in words": ("Time (milliseconds)", SPARSE, 1e3, False),
    "ms of a name that says none": ("timestamp", BUSY, 1e3, True),
    "us": ("start-time-us", SPARSE, 1e6, False),
    "us of a name that says none": ("timestamp", BUSY, 1e6, True),
    "ns": ("Arrival Time [ns]", SPARSE, 1e9, False),
    "ns of a name that says none": ("timestamp", BUSY, 1e9, True),
    "nothing to tell": ("timestamp", [0, 0, 0], 1, False),
    **{
        f"unix {unit} in {name}": (name, [UNIX + t for t in SPARSE], a_second, False)
        for unit, a_second in A_SECOND.items()
        for name in ("timestamp", "arrival_s", f"time_{unit}")
    },
}
# What each form calls its lengths, beside what comes of a time.
LENGTHS = (
    ("prompt_tokens", "output_tokens"),
    ("input_length", "output_length"),
    ("input_tokens", "output_tokens"),
    ("ContextTokens", "GeneratedTokens"),
    ("Request tokens", "Response tokens"),
)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_column_of_times_is_read_in_its_unit_whatever_the_form(
    tmp_path: Path, lengths: tuple[str, str], unit: str
) -> None:
    name, times, a_second, guessed = UNITS[unit]
    path = tmp_path / "trace.csv"
    cells = [repr(round(t * a_second) if a_second > 1 or t % 1 == 0 else t) for t in times]
    path.write_text("\n".join([",".join((name, *lengths)), *(f"{c},3,4" for c in cells)]))
    found = read_trace(path)
    begin = min(times) if times[0] >= UNIX else 0.0
    assert [one.arrival_s for one in found.requests] == pytest.approx(
        [t - begin for t in times], abs=1e-5
    )
    said = f"{name} is taken for {NAMED[next(u for u in A_SECOND if A_SECOND[u] == a_second)]}, "
    assert any(line.startswith(said) for line in found.said) == guessed
    ours = f"arrival_{unit[:2].strip()}"
    if guessed:  # and can be said, to nobody's surprise
        told = read_trace(path, columns={ours: name})
        assert told.requests == found.requests
        assert not any("taken" in line for line in told.said)


def test_the_beginning_of_mooncake_s_is_read_as_all_of_it(tmp_path: Path) -> None:
    """Its own first rows."""
    path, times = tmp_path / "trace.jsonl", [0, 0, 40, 277, 471, 529, 734, 937]
    path.write_text("\n".join(
        f'{{"timestamp": {t}, "input_length": 3, "output_length": 4}}' for t in times
    ))  # fmt: skip
    for most in range(2, 9):
        found = [one.arrival_s for one in read_trace(path, most=most).requests]
        assert found == [t / 1000 for t in times[:most]]


@pytest.mark.parametrize("size", [16, 64, 512])
def test_hashes_of_smaller_blocks_share_what_they_share(tmp_path: Path, size: int) -> None:
    """The first 1,100 tokens are the same: two blocks of 512, whatever was hashed."""
    path, same = tmp_path / "trace.jsonl", 1100 // size
    rows = []
    for first in (0, 10_000):
        hashes = [*range(same), *range(first + same, first + -(-2100 // size))]
        rows.append({"prompt_tokens": 2100, "output_tokens": 1, "hash_ids": hashes})
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read_trace(path)
    one, other = (request.hash_ids for request in found.requests)
    assert [a == b for a, b in zip(one, other, strict=True)][:4] == [True, True, False, False]
    assert any(f"blocks of {size} tokens" in line for line in found.said) == (size < 512)


def test_burstgpt_s_seconds_are_known(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("Timestamp,Request tokens,Response tokens\n5,3,4\n2105,5,6\n")
    found = read_trace(path)
    assert ([one.arrival_s for one in found.requests], found.said) == ([5.0, 2105.0], [])


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (
            ("0", "3", "7", "9", "1800000000"),
            r":6: timestamp: 1\.8e\+09 is a Unix time, but most are",
        ),
        (("1700000000", "0", "1700000009"), ":3: timestamp: 0 is no Unix time, but most are"),
        (("2024-05-10", "7"), ":3: timestamp: expected a date, as the first has, not '7'"),
    ],
)
def test_a_time_of_another_kind_than_the_rest_is_refused(
    tmp_path: Path, times: tuple[str, ...], said: str
) -> None:
    path = tmp_path / "trace.csv"
    rows = "".join(f"{time},3,4\n" for time in times)
    path.write_text(f"timestamp,prompt_tokens,output_tokens\n{rows}")
    with pytest.raises(BadSettings, match=said):
        read_trace(path)


def test_a_time_far_from_the_rest_and_times_that_nobody_knows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    for times in ([0, 3, 7, 4000], [1.7e9, 1.8e9, 1.8e9 + 9]):
        rows = "".join(f"{time},3,4\n" for time in times)
        path.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
        assert "is a time wrong?" in read_trace(path).said[0]
    path.write_text("created,prompt_tokens,output_tokens\n5,3,4\n")
    assert read_trace(path).said == [NO_TIMES + WHICH_TIMES]
    assert not read_trace(path, columns={"arrival_s": "created"}).said
    path.write_text("id,prompt_tokens,output_tokens\n5,3,4\n")
    assert read_trace(path).said == [NO_TIMES], "no other column that could say"


# Times, and after how many seconds the trace begins, which is told.
LATE: dict[str, tuple[list[float], float]] = {
    "a slice of a day": ([36_000.0 + k for k in range(60)], 36_000.0),
    "few of them": ([4000.0, 4001.0, 4002.0], 4000.0),
    "one": ([90.0], 90.0),
    "in no order": ([700.5, 640.0, 650.0], 640.0),
    "as soon as another may come": ([100.0, 120.0, 121.0], 0.0),
    "soon": ([27.5, 27.6, 27.7], 0.0),
    "at once": ([0.0, 0.0], 0.0),
}


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("name", ["arrival_s", "arrival_ms", "when"])
def test_a_trace_that_begins_late_begins_with_its_first_request(
    tmp_path: Path, late: str, name: str
) -> None:
    path, (times, begin) = tmp_path / "trace.csv", LATE[late]
    scale = 1e3 if name == "arrival_ms" else 1
    rows = "".join(f"{time * scale!r},3,4\n" for time in times)
    path.write_text(f"{name},prompt_tokens,output_tokens\n{rows}")
    found = read_trace(path, columns={"arrival_s": name} if name == "when" else {})
    assert [one.arrival_s for one in found.requests] == pytest.approx([t - begin for t in times])
    said = f"the first request comes after {begin:,.0f} s; the trace begins with it"
    assert found.said == ([said] if begin else [])


def test_when_later_answers_of_a_conversation_come_is_not_known_which_is_said(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps({"conversations": TURNS * 2, "arrival_s": 0}))
    found = read_trace(path)
    assert len(found.requests) == 4
    assert found.said == [f"3 come with the first of their conversation: {UNTOLD}"]
    path.write_text(json.dumps({"conversations": TURNS[:2], "arrival_s": 0}))
    assert read_trace(path).said == []


def test_what_a_document_has_beside_what_is_read_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    runs = [{"requests": {"successful": ANSWERED[:1] * count}} for count in (3, 5)]
    last = {"requests": {"successful": ANSWERED, "errored": [{}], "incomplete": [{}, {}]}}
    path.write_text(json.dumps({"benchmarks": [*runs, last]}))
    found = read_trace(path)
    close(found.requests, FORMS["guidellm"][1])
    of = {"of benchmark 1, as 3 is the last": 3, "of benchmark 2, as 3 is the last": 5}
    assert found.left_out == {"errored": 1, "incomplete": 2, **of}
    path.write_text(json.dumps([{"conversations": TURNS}, {"conversations": TURNS[:1]}]))
    assert read_trace(path).left_out == {"no output": 1}


def test_what_made_nothing_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("prompt_tokens,output_tokens\n3,4\n3,0\n0,0\n0,7\n5,6\n")
    found = read_trace(path)
    assert len(found.requests) == 2
    assert found.left_out == {"no output": 2, "no prompt": 1}
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


ROW = '{"outcome": "completed", "prompt_tokens": 3, "output_tokens": 4, "arrival_s": %d}\n'
LOG = "".join(ROW % (1_700_000_000 + k) for k in range(40))
CUTS: dict[str, tuple[bytes, int, int]] = {  # a log's bytes, its requests, and what is no line
    "the last line": (LOG[:-9].encode(), 39, 1),
    "a line amidst": ((LOG + ROW[:30] + LOG).encode(), 79, 1),
    "the first line": (("}\n" + LOG).encode(), 40, 1),
    "by a disk": ((LOG + "\0" * 512 + "\n" + LOG).encode(), 80, 0),
    "bytes of no letter": (LOG.encode() + b'{"outcome": \xff\xfe\n' + LOG.encode(), 80, 1),
    "what is no row": ((LOG + "[1]\n{}\n" + LOG).encode(), 80, 1),
    "no number": ((LOG + ROW.replace("3", '"x"') % 1_700_000_000).encode(), 40, 1),
    "no such time": ((LOG + ROW % 7).encode(), 40, 1),
    "a zipped one": (gzip.compress((LOG * 3).encode(), mtime=0)[:-9], 120, 1),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_log_is_read_without_what_cannot_be(tmp_path: Path, cut: str) -> None:
    data, requests, bad = CUTS[cut]
    path = tmp_path / "traffic.jsonl"
    path.write_bytes(data)
    found = read_trace(path)
    assert len(found.requests) == requests
    told = {why: count for why, count in found.left_out.items() if "cannot be read" in why}
    assert list(told.values()) == [bad] * bool(bad)
    assert all(f"the first is {path}:" in why for why in told)


def test_a_log_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "traffic.jsonl"
    path.write_text(LOG[:60])
    with pytest.raises(BadSettings, match=r"traffic\.jsonl:1: no JSON from"):
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
    '{"input_lens": [3, 4], "output_lens": [3]}': "input_lens has 2, output_lens has 1",
    '{"input_lens": [3], "output_lens": [3], "start_times": [1, 2]}': "start_times has 2",
    '{"input_lens": [3], "output_lens": [3], "start_times": []}': "start_times has 0",
    '{"input_lens": [3]}': "output_lens: not there; vllm bench serve writes it by",
    '{"backend": "vllm", "total_input_tokens": 7}': "input_lens: not there; .* --save-detailed",
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


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_a_text_is_read_by_its_mark(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "trace.csv"
    text, wanted = FORMS["azure"]
    path.write_bytes(text.encode(mark))
    close(read_trace(path).requests, wanted)
    path.write_bytes(gzip.compress(text.encode(mark)))
    close(read_trace(path).requests, wanted)


@pytest.mark.parametrize(
    "data", [b"PAR1\x15\x04", b"\x28\xb5\x2f\xfdabc", b"PK\x03\x04", b"\x7fELF\x02\x01", b"a\x01b"]
)
def test_what_is_no_text_is_no_trace(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "trace"
    path.write_bytes(data + bytes(range(256)))
    with pytest.raises(BadSettings, match="trace: it is no text; traces are CSV or JSON"):
        read_trace(path)


@pytest.mark.parametrize("name", ["\x1b[31mred", "\u202etxt", "n" * 100_000])
def test_what_is_told_of_a_file_is_fit_for_a_terminal(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{name},x\n1,2\n")
    with pytest.raises(BadSettings, match="prompt_tokens: no such column") as told:
        read_trace(path)
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 2000


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
