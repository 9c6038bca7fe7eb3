"""``makespan simulate`` as its user has it: files in; one JSON object, a schedule, a chart out."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from router.cli import main
from tests.helpers import MAKESPAN
from tests.solver.sim.outsider import Hardware, Terms, check

Rows = list[dict[str, Any]]
Simulate = Callable[..., tuple[int, str, str]]

PAPER = {"alpha_p_ms": 25, "beta_p_ms": 0.13, "alpha_d_ms": 29, "beta_d_ms": 0.21}
MIXING = PAPER | {"gamma_d_ms": 0.002, "alpha_m_ms": 30, "beta_mp_ms": 0.1, "beta_md_ms": 0.3}
ROWS: Rows = [
    {
        "id": f"r{k}",
        "prompt_tokens": 512 * (k % 3) + 5 + k % 7,
        "output_tokens": 1 + (11 * k) % 40,
        "arrival_s": round(0.11 * (k // 2), 3),
        "hash_ids": [*range(10, 10 + k % 3), 100 + k],
    }
    for k in range(40)
]
PROMISED = {
    "makespan_s", "lower_bound_s", "gap_ratio", "utilization", "generation_tokens_per_s",
    "prefill_stages", "decode_rounds", "ttft_s", "e2e_s", "requests", "seed",
}  # fmt: skip


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Simulate:
    """Runs the command with these flags; its exit status, output and complaints."""

    def run(*flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["makespan", "simulate", *flags])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_a_log_does_not_tell_of_its_fleet_is_told(simulate: Simulate, tmp_path: Path) -> None:
    """And no more once it is said; of a trace there was no fleet that is known."""
    path = tmp_path / "traffic.jsonl"
    row = {"outcome": "completed", "prompt_tokens": 3, "output_tokens": 4, "arrival_s": 1.7e9}
    row |= {"worker": "agent-0", "ended_after_s": 0.25}
    path.write_text(json.dumps(row))
    asked = ("--requests", str(path), "--json")
    _, out, said = simulate(*asked)
    assert json.loads(out)["requests"] == 1
    assert said.count("\n") == 1
    assert "1 workers served it, half of it within 0.25 s each; simulated are workers like" in said
    assert "llama-65b-ascend, of 200 slots and speed 1: --cost, --slots and --speed" in said
    assert "of 7 slots and speed 2" in simulate(*asked, "--slots", "7", "--speed", "2")[2]
    assert simulate(*asked, "--cost", "llama-2-70b-a100-tp4")[2] == ""


def test_json_is_one_object_and_nothing_else(trace: str) -> None:
    """As a process, whose standard output is piped into another."""
    command = [*MAKESPAN, "simulate", "--requests", trace, "--json", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found.keys() >= PROMISED
    assert (found["requests"], found["seed"]) == (len(ROWS), 7)
    for name in ("ttft_s", "e2e_s"):
        assert found[name].keys() == {"mean", "p50", "p95", "p99"}


def test_people_get_the_same_figures_as_a_table(simulate: Simulate, trace: str) -> None:
    _, out, _ = simulate("--requests", trace, "--json")
    found = json.loads(out)
    status, table, complaints = simulate("--requests", trace)
    assert (status, complaints) == (0, "")
    for figure in (f"{found['makespan_s']:.2f} s", f"{found['utilization']:.2%}", "trace.jsonl"):
        assert figure in table


@pytest.mark.parametrize(
    ("flags", "cost", "workers"),
    [
        ("", PAPER, {"w0": 1.0}),
        ("--policy prefill-first --order fcfs --lengths unknown", PAPER, {"w0": 1.0}),
        ("--policy threshold --lengths known --order shortest", PAPER, {"w0": 1.0}),
        ("--policy lagrangian --order paper --kv-tokens 2200", PAPER, {"w0": 1.0}),
        ("--policy mixed --prefill-budget 64 --kv-tokens 1700", MIXING, {"w0": 1.0}),
        ("--lengths noisy:0.5 --no-prefix-cache", MIXING, {"w0": 1.0}),
        ("--workers 3 --speed 1,2 --dispatch least-tokens", PAPER, {"w0": 1, "w1": 2, "w2": 1}),
        ("--workers 2 --dispatch prefix-aware", MIXING, {"w0": 1, "w1": 1}),
        ("--workers 3 --speed 2,1,0.5", MIXING, {"w0": 2, "w1": 1, "w2": 0.5}),
    ],
)
def test_an_outsider_accepts_schedule_and_figures(
    simulate: Simulate,
    trace: str,
    tmp_path: Path,
    flags: str,
    cost: Terms,
    workers: Mapping[str, float],
) -> None:
    schedule = tmp_path / "schedule.jsonl"
    given = ["--requests", trace, "--cost", json.dumps(cost), "--slots", "6", *flags.split()]
    status, out, _ = simulate(*given, "--schedule", str(schedule), "--json")
    assert status == 0
    named = dict(zip(given[::2], given[1::2], strict=False))
    hardware = {
        name: Hardware(
            {term: value / speed for term, value in cost.items()},
            6,
            float(named.get("--kv-tokens", inf)),
            float(named.get("--prefill-budget", inf)),
        )
        for name, speed in workers.items()
    }
    check(ROWS, read(schedule), hardware, json.loads(out))


def test_all_at_once_and_at_random(simulate: Simulate, trace: str, tmp_path: Path) -> None:
    schedule = tmp_path / "schedule.jsonl"
    given = ["--requests", trace, "--slots", "6", "--schedule", str(schedule), "--json"]
    _, out, _ = simulate(*given, "--arrivals", "all-at-once")
    at_once = [row | {"arrival_s": 0.0} for row in ROWS]
    paper = {"w0": Hardware(PAPER, 6, 1024 * 128)}
    check(at_once, read(schedule), paper, json.loads(out))
    firsts = []
    for seed in ("1", "1", "2"):
        status, _, _ = simulate(*given, "--arrivals", "poisson:5", "--seed", seed)
        check(at_once, read(schedule), paper)
        firsts.append((status, read(schedule)[0]["start_s"]))
    assert firsts[0] == firsts[1] != firsts[2]


@pytest.mark.parametrize(
    ("flags", "goodput"),
    [
        ("", 1.0),
        ("--ttft-ms 0.001", 0.0),
        ("--tpot-ms 0.001", 1 / 4),  # answers of a single token have no time per token
        ("--ttft-ms 1e6,0.001:1000", 2 / 4),
    ],
)
def test_goodput_is_judged_by_the_limits_that_are_set(
    simulate: Simulate, tmp_path: Path, flags: str, goodput: float
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("prompt_tokens,output_tokens\n10,5\n1000,1\n1001,5\n2000,5\n")
    _, out, _ = simulate("--requests", str(path), "--json", *flags.split())
    assert json.loads(out)["goodput"] == goodput


def test_a_limit_that_is_none_is_named(simulate: Simulate, trace: str) -> None:
    status, _, complaint = simulate("--requests", trace, "--ttft-ms", "2s")
    assert status == 2
    assert "ttft_ms" in complaint
    assert "'2s' is no number of milliseconds" in complaint


def test_the_same_seed_writes_the_same_bytes(
    simulate: Simulate, trace: str, tmp_path: Path
) -> None:
    flags = ["--workers", "3", "--dispatch", "power-of-two", "--lengths", "noisy:0.4"]
    written = []
    for k, seed in enumerate(("3", "3", "4")):
        schedule = tmp_path / f"{k}.jsonl"
        given = ["--requests", trace, "--slots", "2", "--seed", seed]
        simulate(*given, *flags, "--schedule", str(schedule), "--json")
        written.append(schedule.read_bytes())
    assert written[0] == written[1] != written[2]


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz", "trace.jsonl.gz", "trace.txt"])
def test_a_trace_may_be_csv_or_json_lines_zipped_or_not(
    simulate: Simulate, trace: str, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    text = Path(trace).read_text(encoding="utf-8")
    if "csv" in name:
        with (tmp_path / "plain").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(ROWS[0]))
            table.writeheader()
            for row in ROWS:
                table.writerow(row | {"hash_ids": " ".join(map(str, row["hash_ids"]))})
        text = (tmp_path / "plain").read_text(encoding="utf-8")
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    status, out, _ = simulate("--requests", str(path), "--json")
    assert status == 0
    assert out == simulate("--requests", trace, "--json")[1]


def test_limit_takes_the_first_requests(simulate: Simulate, trace: str) -> None:
    _, out, _ = simulate("--requests", trace, "--limit", "9", "--json")
    assert json.loads(out)["requests"] == 9


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_gantt_chart_is_a_picture(
    simulate: Simulate, trace: str, tmp_path: Path, workers: str
) -> None:
    path = tmp_path / "out.svg"
    status, out, _ = simulate("--requests", trace, "--gantt", str(path), "--workers", workers)
    assert status == 0
    assert out
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert sum(1 for _ in root.iter()) > 20


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("cost", "no-such-profile"),
        ("cost", "{}"),
        ("cost", '{"alpha_p_ms": -1, "beta_p_ms": 1, "alpha_d_ms": 1, "beta_d_ms": 1}'),
        ("cost", json.dumps(PAPER | {"alpha_m_ms": 1})),
        ("slots", "0"),
        ("kv-tokens", "0"),
        ("kv-tokens", "1.5"),
        ("prefill-budget", "0"),
        ("speed", "0"),
        ("speed", "1,x"),
        ("order", "longest-first"),
        ("lengths", "guessed"),
        ("lengths", "noisy:-1"),
        ("lengths", "noisy:nan"),
        ("arrivals", "poisson"),
        ("arrivals", "poisson:0"),
        ("arrivals", "poisson:inf"),
        ("arrivals", "soon"),
        ("limit", "0"),
        ("seed", "one"),
        ("workers", "0"),
        ("workers", "1000000"),
        ("policy", "best"),
        ("dispatch", "best"),
        ("prefix-cache", "perhaps"),
        ("json", "perhaps"),
        ("requests", "/no/such/trace.csv"),
        ("schedule", "/no/such/folder/out.jsonl"),
        ("gantt", "/no/such/folder/out.svg"),
        ("colour", "red"),
    ],
)
def test_a_bad_value_stops_it_and_is_named(
    simulate: Simulate, trace: str, flag: str, value: str
) -> None:
    flags = [f"--{flag}={value}"] if flag in ("prefix-cache", "json") else [f"--{flag}", value]
    status, out, complaint = simulate("--requests", trace, *flags)
    assert (status, out) == (2, "")
    names = (flag, flag.replace("-", "_"), value if value.startswith("/") else flag)
    assert any(name in complaint for name in names)
    assert "Traceback" not in complaint


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "no requests"),
        ("prompt_tokens\n3\n", "output_tokens: no such column"),
        ("prompt_tokens,output_tokens\n3,4\n3,-1\n", ":3: output_tokens"),
        ('{"prompt_tokens": 3, "output_tokens": 4}\n{"prompt_tokens": 3,\n', ":2: no JSON"),
    ],
)
def test_a_bad_trace_is_refused_by_line_and_column(
    simulate: Simulate, tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "bad"
    path.write_text(content, encoding="utf-8")
    status, out, said = simulate("--requests", str(path), "--json")
    assert (status, out) == (2, "")
    assert complaint in said
    assert str(path) in said


def test_a_trace_is_needed(simulate: Simulate) -> None:
    status, _, complaint = simulate("--json")
    assert status == 2
    assert "requests" in complaint


def test_a_request_that_never_fits_is_named(simulate: Simulate, trace: str) -> None:
    status, _, complaint = simulate("--requests", trace, "--kv-tokens", "600")
    assert status == 2
    assert "needs" in complaint
    assert "600" in complaint
