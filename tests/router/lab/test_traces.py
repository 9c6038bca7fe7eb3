"""Traces from files: what is understood, and what is refused by line and column."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from router.lab.simulation.traces import DATASETS, data_dir, dataset, read
from router.settings.base import BadSettings
from solver.sim.request import Request
from solver.sim.workload import WORKLOADS
from tests.helpers import calls

CSV = "id,prompt_tokens,output_tokens,arrival_s,hash_ids,client\na,3,4,0.5,7 8,x\nb,5,6,1.5,,y\n"
JSON = (
    '{"id": "a", "prompt_tokens": 3, "output_tokens": 4, "arrival_s": 0.5, "hash_ids": [7, 8]}\n'
    "\n"
    '{"id": "b", "prompt_tokens": 5, "output_tokens": 6, "arrival_s": 1.5, "hash_ids": []}'
)
BOTH = [Request("a", 3, 4, 0.5, (7, 8)), Request("b", 5, 6, 1.5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.mark.parametrize("text", [CSV, JSON, "\ufeff" + CSV, CSV.replace("\n", "\r\n")])
@pytest.mark.parametrize("zipped", [False, True])
def test_csv_and_json_lines_zipped_or_not(path: Path, text: str, zipped: bool) -> None:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert read(path) == BOTH


def test_mooncakes_own_names(path: Path) -> None:
    row = {"timestamp": 1500, "input_length": 600, "output_length": 2, "hash_ids": [4, 5]}
    path.write_text(json.dumps(row))
    assert read(path) == [Request("0", 600, 2, 1.5, (4, 5))]


def test_rows_without_an_id_are_numbered(path: Path) -> None:
    path.write_text(",prompt_tokens,output_tokens\n7,3,4\n8,5.0,6\n")  # an index has no name
    assert read(path) == [Request("0", 3, 4), Request("1", 5, 6)]


@pytest.mark.parametrize("cell", ["7 8", "[7, 8]", "7,8"])
def test_hashes_in_one_cell(path: Path, cell: str) -> None:
    path.write_text(f'prompt_tokens,output_tokens,hash_ids\n3,4,"{cell}"\n')
    assert read(path) == [Request("0", 3, 4, hash_ids=(7, 8))]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no requests"),
        ("prompt_tokens,output_tokens\n", "no requests"),
        ("prompt_tokens,answer_tokens\n3,4\n", "output_tokens: no such column; there are: prompt"),
        ("3,4\n5,6\n", "prompt_tokens: no such column"),
        ("prompt_tokens,output_tokens\n3,4\n3,0\n", ":3: output_tokens: .* at least 1, not '0'"),
        ("prompt_tokens,output_tokens\n3,4\nx,4\n", ":3: prompt_tokens: .* not 'x'"),
        ("prompt_tokens,output_tokens\n3.5,4\n", ":2: prompt_tokens: .* not '3.5'"),
        ("prompt_tokens,output_tokens\n3\n", ":2: output_tokens: .* not None"),
        ("prompt_tokens,output_tokens\n3,4,5\n", ":2: cells beyond the header: 5"),
        ("prompt_tokens,output_tokens,arrival_s\n3,4,-1\n", ":2: arrival_s: .* not '-1'"),
        ("prompt_tokens,output_tokens,arrival_s\n3,4,inf\n", ":2: arrival_s: .* not 'inf'"),
        ("prompt_tokens,output_tokens,arrival_s\n3,4,\n", ":2: arrival_s: .* not ''"),
        ("prompt_tokens,output_tokens,hash_ids\n3,4,a b\n", ":2: hash_ids: .* not 'a b'"),
        ("id,prompt_tokens,output_tokens\na,3,4\na,3,4\n", ":3: id: 'a' is there twice"),
        ("id,prompt_tokens,output_tokens\n1,3,4\n,3,4\n", ":3: id: '1' is there twice"),
        ('{"prompt_tokens": 3, "output_tokens": 4}\n\n{"prompt', ":3: no JSON"),
        ('{"prompt_tokens": true, "output_tokens": 4}', ":1: prompt_tokens: .* not True"),
        ('{"prompt_tokens": 3, "output_tokens": null}', ":1: output_tokens: .* not None"),
        (
            '{"prompt_tokens": 3, "output_tokens": 4}\n{"prompt_tokens": 3}',
            ":2: output_tokens: not in every row",
        ),
        (
            '{"prompt_tokens": 3, "output_tokens": 4}\n'
            '{"prompt_tokens": 3, "output_tokens": 4, "arrival_s": 1}',
            ":2: arrival_s: not in every row",
        ),
        ('{"prompt_tokens": 3, "output_tokens": 4}\n[3, 4]', ":2: expected {"),
    ],
)
def test_a_bad_trace_is_refused_by_line_and_column(path: Path, text: str, complaint: str) -> None:
    path.write_text(text)
    with pytest.raises(BadSettings, match=complaint) as refused:
        read(path)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize(
    "data",
    [
        b"prompt_tokens,output_tokens\n\xff,1\n",
        gzip.compress(CSV.encode(), mtime=0)[:-9],
        b"\x1f\x8b",
    ],
)
def test_a_file_that_is_no_text_is_named(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(BadSettings, match=path.name):
        read(path)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(BadSettings, match="No such file"):
        read(path)


def test_long_traces_load_with_few_calls_a_row(path: Path) -> None:
    """A microsecond each, or less."""
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "0.25,300,200\n" * 20_000)
    assert len(read(path)) == 20_000
    assert calls(lambda: read(path)) < 50 * 20_000


def test_without_data_a_workload_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKESPAN_DATA", str(tmp_path))
    requests, real = dataset("gsm8k-llama65b")
    assert (len(requests), real) == (1319, False)
    assert dataset("gsm8k-llama65b", seed=1)[0] != requests == dataset("gsm8k-llama65b")[0]
    (tmp_path / DATASETS["gsm8k-llama65b"].file).write_text("prompt_tokens,output_tokens\n3,4\n")
    assert dataset("gsm8k-llama65b") == ([Request("0", 3, 4)], True)


def test_an_unknown_data_set_is_named() -> None:
    with pytest.raises(BadSettings, match="unknown data set 'gsm'; one of: gsm8k-llama65b"):
        dataset("gsm")


@pytest.mark.skipif(data_dir() is None, reason="no public data at hand")
@pytest.mark.parametrize("name", DATASETS)
def test_workloads_look_like_the_data_at_hand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, real = dataset(name)
    assert real
    assert len(requests) == DATASETS[name].requests
    monkeypatch.setenv("MAKESPAN_DATA", "none")
    drawn, real = dataset(name)
    assert not real
    assert _moments(drawn) == pytest.approx(_moments(requests), rel=0.1)


def test_every_data_set_has_a_workload() -> None:
    assert set(DATASETS) == set(WORKLOADS)


def _moments(requests: list[Request]) -> list[float]:
    columns = [r.prompt_tokens for r in requests], [r.output_tokens for r in requests]
    moments = [f(column) for column in columns for f in (fmean, pstdev)]
    return [*moments, requests[-1].arrival_s]
