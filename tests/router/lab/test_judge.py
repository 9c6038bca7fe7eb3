"""``makespan bench judge``: every rival in every situation, and verdicts that add up."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import pytest

from router.cli import main
from router.lab.judging.situations import (
    BURST,
    HARDWARE,
    LOADS,
    REPEATS,
    Situation,
    chosen,
    situations,
    traffic,
)
from router.lab.judging.verdict import FIGURES
from solver.batching.bounds import Engine, fleet_bound
from solver.routing.dispatchers import DISPATCHERS, FOR_TENANTS
from tests.router.lab.test_pictures import only_itself, outline

Judge = Callable[..., tuple[int, str, str]]
QUICK = ("--situations", "gsm8k,4,50%", "--per-worker", "2")


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Judge:
    """Runs the command with these flags; its exit status, output and complaints."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # processes would take longer to start

    def run(*flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["makespan", "bench", "judge", *flags])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        return (status, *capsys.readouterr())

    return run


def test_the_list_is_balanced() -> None:
    every = situations()
    assert len(set(every)) == len(every) >= 48
    assert len({one.name for one in every}) == len(every)
    pairs = Counter((one.trace, one.load) for one in every)
    assert set(pairs) == {(trace, load) for trace in HARDWARE for load in LOADS}
    assert set(pairs.values()) == {REPEATS}
    fleets = Counter((one.workers, one.speeds) for one in every)
    assert len(fleets) == 4
    assert max(fleets.values()) - min(fleets.values()) <= REPEATS + 1
    assert set(Counter(one.hardware for one in every)) == {
        h for kinds in HARDWARE.values() for h in kinds
    }


@pytest.mark.parametrize("one", situations(), ids=lambda one: one.name)
def test_traffic_is_what_the_situation_says(one: Situation) -> None:
    requests = traffic(one, 3)
    assert 0 < len(requests) <= 3 * one.workers
    assert len({request.id for request in requests}) == len(requests)
    assert {request.targets.tpot_s for request in requests} == {0.1}
    assert {request.targets.ttft_s for request in requests if request.prompt_tokens > 4096} <= {5.0}
    assert max(r.prompt_tokens + r.output_tokens for r in requests) <= one.profile.kv_tokens
    if one.load == BURST:
        assert {request.arrival_s for request in requests} == {0.0}


@pytest.mark.parametrize("words", ["azure,70%", "gsm8k,85%", "sharegpt,100%"])
def test_load_is_a_share_of_what_the_fleet_can_do(words: str) -> None:
    one = chosen(words)[0]
    requests = traffic(one, 200)
    engines = [Engine(cost, one.profile.slots) for cost in one.costs]
    prompt = np.array([request.prompt_tokens for request in requests], dtype=np.float64)
    output = np.array([request.output_tokens for request in requests], dtype=np.float64)
    output = np.minimum(output, np.percentile(output, 99))
    busy_s = fleet_bound(engines, np.zeros(len(requests)), prompt, output)
    last_s = max(request.arrival_s for request in requests)
    assert busy_s / last_s == pytest.approx(one.load, rel=0.15)


def test_json_has_all_figures_and_the_table_is_made_of_them(judge: Judge) -> None:
    names = ("round-robin", "lmetric")
    status, out, _ = judge(*QUICK, "--dispatch", ",".join(names), "--json")
    assert status == 0
    found = json.loads(out)
    assert set(found["against"]) == set(names)
    runs = [one["runs"] for one in found["situations"]]
    assert all(set(each) == {*names, "makespan"} for each in runs)
    measures: dict[str, Callable[[dict[str, Any]], float]] = {
        "makespan": lambda run: float(run["makespan_s"]),
        "e2e p99": lambda run: float(run["e2e_s"]["p99"]),
    }
    for figure, of in measures.items():
        assert told(found, "lmetric", figure) == pytest.approx(
            geometric_mean(of(each["makespan"]) / of(each["lmetric"]) for each in runs)
        )
        best = [of(each["makespan"]) / min(of(each[name]) for name in names) for each in runs]
        assert found["against_best"][figure]["worst"] == pytest.approx(max(best))
    points = [100 * (r["makespan"]["goodput"] - r["lmetric"]["goodput"]) for r in runs]
    assert found["against"]["lmetric"]["goodput"]["worst"] == pytest.approx(min(points))
    status, table, _ = judge(*QUICK, "--dispatch", ",".join(names))
    assert status == 0
    assert f"{told(found, 'lmetric', 'e2e p99'):.2f}" in table
    assert found["against_best"]["makespan"]["cases"][0]["situation"] in table


def test_a_page_needs_nothing_else_and_shows_every_situation(judge: Judge, tmp_path: Path) -> None:
    path = tmp_path / "judge.html"
    names = ("round-robin", "weighted-lmetric")
    flags = ("--dispatch", ",".join(names), "--report", str(path))
    _, out, _ = judge("--situations", "gsm8k,burst", "--per-worker", "2", *flags, "--json")
    found, html = json.loads(out), path.read_text(encoding="utf-8")
    seen = outline(html)
    only_itself(html.replace("default-src", ""))
    shown = "".join(seen.words)
    for one in found["situations"]:
        assert one["name"] in shown
    for name in names:
        assert f"{told(found, name, 'e2e p50'):.2f}" in shown
    dots = [kind for tag, kind in seen.seen if tag == "circle" and kind.get("r") == "2.6"]
    assert len(dots) == len(found["situations"]) * len(names) * len(FIGURES)
    assert "better than" in shown


def test_a_page_that_cannot_be_written_is_named_before_the_work(judge: Judge) -> None:
    status, _, complaint = judge(*QUICK, "--report", "/nowhere/judge.html")
    assert status == 2
    assert "/nowhere/judge.html" in complaint


def told(found: dict[str, Any], rival: str, figure: str) -> float:
    mean: float = found["against"][rival][figure]["mean"]
    return mean


def test_everybody_is_a_rival_unless_some_are_named(judge: Judge) -> None:
    status, out, _ = judge(*QUICK, "--json", "--ours", "weighted-lmetric")
    assert status == 0
    assert set(json.loads(out)["against"]) == set(DISPATCHERS) - FOR_TENANTS - {"weighted-lmetric"}


def test_ours_is_level_with_itself(judge: Judge) -> None:
    """A rival that decides alike, as workers are equal."""
    flags = ("--situations", "azure,equal,50%", "--per-worker", "2")
    names = ("--dispatch", "weighted-least-requests", "--ours", "least-requests")
    _, out, _ = judge(*flags, *names, "--json")
    verdicts = json.loads(out)["against"]["weighted-least-requests"].values()
    assert [verdict["worst"] for verdict in verdicts] == [1.0] * 6 + [0.0]


@pytest.mark.parametrize(("wanted", "count"), [("", 50), ("7", 7), ("1", 1), ("999", 50)])
def test_so_many_situations_are_spread_over_the_list(wanted: str, count: int) -> None:
    found = chosen(wanted)
    assert len(set(found)) == len(found) == count
    assert found == sorted(found, key=situations().index)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--situations", "tpu"), "situations: none is called 'tpu'"),
        (("--situations", "0"), "situations: none"),
        (("--dispatch", "makespan"), "dispatch: name a rival for makespan"),
        (("--dispatch", "fastest"), "dispatch"),
    ],
)
def test_nothing_to_judge_is_named(judge: Judge, flags: tuple[str, str], complaint: str) -> None:
    status, _, complaints = judge(*flags)
    assert status == 2
    assert complaint in complaints
