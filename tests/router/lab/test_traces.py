"""Traces from files: what is understood, and what is refused by line and column."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from router.lab.simulation.traces import DATASETS, data_dir, dataset, read
from router.settings.base import BadSettings
from router.settings.limits import Limits, first_token_limits
from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, NO_TARGETS, Targets
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


@pytest.mark.parametrize(
    ("columns", "cells", "targets"),
    [
        ("", "", DEFAULT_TARGETS[Priority.DEFAULT]),
        (",priority", ",bulk", NO_TARGETS),
        (",ttft_s", ",0.5", Targets(0.5, 0.1)),
        (",tpot_s,ttft_s", ",0.03,", Targets(2.0, 0.03)),
        (",x-slo-ttft-ms,x-slo-tpot-ms", ",700,40", Targets(0.7, 0.04)),
        (",priority,ttft_s", ",bulk,9", Targets(9.0)),
    ],
)
def test_targets_are_the_rows_own_or_its_priority_s(
    path: Path, columns: str, cells: str, targets: Targets
) -> None:
    path.write_text(f"prompt_tokens,output_tokens{columns}\n3,4{cells}\n")
    assert read(path)[0].targets == targets


@pytest.mark.parametrize(
    ("row", "targets"),
    [
        ("4096,1,,", Targets(1.5, 0.05)),
        ("4097,1,,", Targets(5.0, 0.05)),
        ("4097,1,,0.7", Targets(0.7, 0.05)),
        ("4097,1,bulk,", NO_TARGETS),
    ],
)
def test_limits_stand_in_for_targets_that_a_row_has_not(
    path: Path, row: str, targets: Targets
) -> None:
    path.write_text(f"prompt_tokens,output_tokens,priority,ttft_s\n{row}\n")
    assert read(path, Limits(first_token_limits("1500, 5000:4096"), 0.05))[0].targets == targets


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is no number"),
        ("0", "'0' is no number"),
        ("2s", "'2s' is no number of milliseconds"),
        ("2000:10", "give milliseconds, then MS:TOKENS"),
        ("2000,5000", "'5000': give milliseconds"),
        ("2000,5000:4k", "'5000:4k': give"),
        ("2000,5000:0", "tokens must rise"),
        ("2000,5000:90,6000:80", "tokens must rise"),
    ],
)
def test_limits_that_are_none_are_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        first_token_limits(text)


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
        (
            "prompt_tokens,output_tokens\n3,4\n3,-1\n",
            ":3: output_tokens: .* from 1 to .*, not '-1'",
        ),
        ("prompt_tokens,output_tokens\n3,4\nx,4\n", ":3: prompt_tokens: .* not 'x'"),
        ("prompt_tokens,output_tokens\n3.5,4\n", ":2: prompt_tokens: .* not '3.5'"),
        ("prompt_tokens,output_tokens\n3\n", ":2: output_tokens: .* not None"),
        ("prompt_tokens,output_tokens\n3,4,5\n", ":2: cells beyond the header: 5"),
        ("prompt_tokens,output_tokens,arrival_s\n3,4,-1\n", ":2: arrival_s: .* not '-1'"),
        ("prompt_tokens,output_tokens,arrival_s\n3,4,inf\n", ":2: arrival_s: .* not 'inf'"),
        ("prompt_tokens,output_tokens,arrival_s\n3,4,\n", ":2: arrival_s: .* not ''"),
        ("prompt_tokens,output_tokens,ttft_s\n3,4,0\n", ":2: ttft_s: .* above 0, not '0'"),
        ("prompt_tokens,output_tokens,x-slo-tpot-ms\n3,4,soon\n", ":2: x-slo-tpot-ms: .* 'soon'"),
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
    monkeypatch.setenv("MAKESPAN_DATASETS", str(tmp_path))
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
    monkeypatch.setenv("MAKESPAN_DATASETS", "none")
    drawn, real = dataset(name)
    assert not real
    assert _moments(drawn) == pytest.approx(_moments(requests), rel=0.1)


def test_every_data_set_has_a_workload() -> None:
    assert set(DATASETS) == set(WORKLOADS)


def _moments(requests: list[Request]) -> list[float]:
    columns = [r.prompt_tokens for r in requests], [r.output_tokens for r in requests]
    moments = [f(column) for column in columns for f in (fmean, pstdev)]
    return [*moments, requests[-1].arrival_s]
