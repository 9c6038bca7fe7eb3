"""``makespan replay --slo`` finds the smallest fleet that keeps it, and says so to all readers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cli import main
from router.lab.simulation.run import Choice
from router.lab.simulation.runs import Run
from router.lab.simulation.sizing import ACROSS, Goal, across, answers, search
from router.settings.slo import Slo, seconds
from tests.router.lab.test_pictures import outline
from tests.router.lab.test_pictures import run as finished

Replay = Callable[..., tuple[int, str, str]]

LIMIT = Slo("ttft", "p99", 2.0)


def run_of(choice: Choice, p99_s: float) -> Run:
    spread = {"mean": p99_s / 4, "p50": p99_s / 4, "p95": p99_s / 2, "p99": p99_s}
    found = finished(choice.policy, choice.workers, 3600.0)
    return replace(
        found, dispatch=choice.dispatch, ttft_s=spread, e2e_s=spread, tpot_s=spread, requests=10
    )


def sized(
    counts: Sequence[int], p99_s: Callable[[int], float], *slos: Slo
) -> tuple[int | None, list[int]]:
    """The answer for fleets of which the p99 is known, and which of them were asked about."""
    goal = Goal(slos or (LIMIT,), counts)
    asked: list[int] = []

    def measure(choices: Sequence[Choice]) -> list[Run]:
        asked.extend(choice.workers for choice in choices)
        return [run_of(choice, p99_s(choice.workers)) for choice in choices]

    (answer,) = answers(goal, search(goal, [("adaptive", "makespan")], measure))
    return (None if answer.run is None else answer.run.workers), asked


@given(st.sets(st.integers(1, 1000), min_size=1), st.integers(1, 1100))
def test_the_smallest_that_keeps_it_is_found(chosen: set[int], needed: int) -> None:
    counts = sorted(chosen)
    answer, asked = sized(counts, lambda n: 2.0 * needed / n)
    assert answer == next((n for n in counts if n >= needed), None)
    assert len(set(asked)) == len(asked) <= ACROSS + 10
    assert {counts[0], counts[-1]} <= set(asked)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_luck_with_fewer_workers_is_no_answer(kept: list[bool]) -> None:
    """From the answer on all that was simulated keeps it; the number before it does not."""
    counts = range(1, len(kept) + 1)
    answer, asked = sized(counts, lambda n: 1.0 if kept[n - 1] else 3.0)
    if answer is None:
        assert not kept[-1]
        return
    assert all(kept[n - 1] for n in asked if n >= answer)
    assert answer == 1 or (answer - 1 in asked and not kept[answer - 2])


def test_every_slo_is_to_be_kept() -> None:
    mean = Slo("e2e", "mean", 0.1)
    assert sized(range(1, 100), lambda n: 20 / n)[0] == 10
    assert sized(range(1, 100), lambda n: 20 / n, LIMIT, mean)[0] == 50


def test_an_slo_may_be_met_exactly() -> None:
    assert sized([1, 2], lambda n: 4 / n)[0] == 2


@given(st.sets(st.integers(1, 1000), min_size=1))
def test_first_come_a_few_across_the_range(chosen: set[int]) -> None:
    counts = sorted(chosen)
    few = across(counts)
    assert set(few) <= chosen
    assert few == sorted(set(few))
    assert (few[0], few[-1]) == (counts[0], counts[-1])
    assert len(few) <= ACROSS


@pytest.mark.parametrize(
    ("text", "found_s"), [("2s", 2), ("500ms", 0.5), (".5s", 0.5), ("1.5min", 90), ("1h", 3600)]
)
def test_durations(text: str, found_s: float) -> None:
    assert seconds(text) == pytest.approx(found_s)


@pytest.fixture
def replay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Replay:
    """Runs the command on a trace that one worker is too slow for; exit status and outputs."""
    trace = tmp_path / "trace.jsonl"
    rows = [
        {"prompt_tokens": 20 + k % 7, "output_tokens": 5 + k % 11, "arrival_s": 0.05 * k}
        for k in range(70)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def run(*flags: str) -> tuple[int, str, str]:
        given = ["--requests", str(trace), "--slots", "2", "--report", str(tmp_path / "r.html")]
        monkeypatch.setattr(
            "router.lab.simulation.pool.os.cpu_count", lambda: 1
        )  # processes cost more
        monkeypatch.setattr(sys, "argv", ["makespan", "replay", *given, *flags])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        return (status, *capsys.readouterr())

    return run


def figures(found: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    return {run["workers"]: run for run in found["runs"]}


def test_the_answer_is_what_a_run_of_all_fleets_shows(replay: Replay) -> None:
    status, out, _ = replay("--workers", "1..12", "--slo", "ttft_p99=500ms", "--json")
    found = json.loads(out)
    flags = ("--policy", "adaptive", "--dispatch", "makespan", "--json")
    every = figures(json.loads(replay("--workers", "1..12", *flags)[1]))
    kept = [n for n, run in every.items() if run["ttft_s"]["p99"] <= 0.5]
    assert status == 0
    assert found["slo"] == {"ttft_p99": 0.5}
    assert 1 < found["workers"] == min(kept) < 12
    for workers, run in figures(found).items():
        assert run["ttft_s"] == every[workers]["ttft_s"]
        assert run["keeps_slo"] is (workers in kept)
        assert run["worker_hours"] == pytest.approx(workers * run["makespan_s"] / 3600)


def test_people_get_the_same_answer(replay: Replay, tmp_path: Path) -> None:
    asked = ("--workers", "1..12", "--slo", "ttft_p99=500ms,e2e_p95=3s", "--worker-cost", "36")
    found = json.loads(replay(*asked, "--json")[1])
    _, table, _ = replay(*asked)
    best = figures(found)[found["workers"]]
    assert f"{found['workers']} workers: with adaptive and makespan" in table
    assert f"{best['ttft_s']['p99']:.3f} s" in table
    assert best["cost"] == pytest.approx(36 * best["worker_hours"])
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    words = " ".join(outline(html).words)
    assert f"{found['workers']} workers" in words
    for title in ("P99 time to first token and, dashed, its limit", "Cost of the whole replay"):
        assert title in words
    assert words.count("Schedules") >= 1


def test_each_policy_and_dispatcher_has_its_answer(replay: Replay) -> None:
    flags = ("--dispatch", "round-robin,makespan", "--policy", "adaptive,prefill-first")
    asked = ("--workers", "1..12", "--slo", "ttft_p99=500ms", *flags)
    found = json.loads(replay(*asked, "--json")[1])
    numbers = [answer["workers"] for answer in found["answers"]]
    assert len({(a["policy"], a["dispatch"]) for a in found["answers"]}) == len(numbers) == 4
    assert numbers == sorted(numbers)
    assert found["workers"] == numbers[0]


def test_no_fleet_may_do(replay: Replay) -> None:
    asked = ("--workers", "1,2,4", "--slo", "ttft_p99=1ms")
    status, out, _ = replay(*asked, "--json")
    found = json.loads(out)
    assert (status, found["workers"], found["answers"][0]["best"]) == (1, None, 4)
    status, table, _ = replay(*asked)
    assert status == 1
    assert "Too few: with adaptive and makespan, the nearest are 4 workers: p99" in table


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--workers 5..2", "workers: '5..2': a range rises"),
        ("--workers 1..1001", "workers: '1..1001': a range rises, from at least 1 to at most 1000"),
        ("--workers 2..x", "workers: '2..x' is neither a number nor a range"),
        ("--workers 2,many", "workers: 'many' is neither a number nor a range"),
        ("--workers 0", "workers.0: "),
        ("--workers 2..4,3", "workers: a value is there twice"),
        ("--slo ttft_p98=2s", "slo.0: 'ttft_p98=2s' is no SLO such as ttft_p99=2s"),
        ("--slo ttft_p99", "slo.0: 'ttft_p99' is no SLO"),
        ("--slo ttft_p99=2", "slo.0: '2' is no duration above 0"),
        ("--slo e2e_mean=0s", "slo.0: '0s' is no duration above 0"),
        ("--slo ttft_p99=2s,ttft_p99=3s", "slo: ttft_p99 is there twice"),
        ("--worker-cost 2", "worker_cost: only an slo asks what fleets cost"),
    ],
)
def test_bad_values_name_themselves(replay: Replay, flags: str, complaint: str) -> None:
    status, out, said = replay(*flags.split())
    assert (status, out) == (2, "")
    assert complaint in said
