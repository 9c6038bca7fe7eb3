"""``makespan replay --goodput`` finds how much load keeps 90 % of the targets, and bounds it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cli import main
from router.lab.pictures.svg import figure
from router.lab.simulation.goodput import ENOUGH, answers, load_of, search
from router.lab.simulation.loads import requests_per_s, stretched
from router.lab.simulation.run import Choice
from router.lab.simulation.runs import Run
from solver.cost.profiles import PROFILES
from solver.errors import ProblemError
from solver.sim.request import Request
from tests.router.lab.test_pictures import outline
from tests.router.lab.test_sizing import run_of

Replay = Callable[..., tuple[int, str, str]]

KIND = ("adaptive", "makespan")


def searched(loads: Sequence[int], share: Callable[[int], float]) -> tuple[int | None, list[int]]:
    """The answer where goodput is known at each load, and which loads were asked about."""
    asked: list[int] = []

    def measure(choices: Sequence[Choice]) -> list[Run]:
        asked.extend(choice.load or 0 for choice in choices)
        return [
            replace(run_of(one, 1.0), load=one.load, goodput=share(one.load or 0))
            for one in choices
        ]

    (answer,) = answers(search(loads, [KIND], 4, measure))
    return (None if answer.kept is None else load_of(answer.kept)), asked


@given(st.sets(st.integers(1, 300), min_size=1, max_size=10), st.integers(1, 310))
def test_the_highest_load_is_found_to_a_percent(chosen: set[int], most: int) -> None:
    loads = sorted(chosen)
    answer, asked = searched(loads, lambda load: ENOUGH if load <= most else 0.5)
    assert answer == (min(most, loads[-1]) if most >= loads[0] else None)
    assert set(asked) >= chosen
    assert len(set(asked)) == len(asked) <= len(loads) + 9


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_luck_with_more_load_is_no_answer(kept: list[bool]) -> None:
    """Up to the answer all that was simulated keeps enough; one percent more does not."""
    loads = range(10, 10 + 5 * len(kept), 5)
    answer, asked = searched(loads, lambda load: 1.0 if kept[(load - 10) // 5] else 0.0)
    if answer is None:
        assert not kept[0]
        return
    assert all(kept[(load - 10) // 5] for load in asked if load <= answer)
    assert answer == loads[-1] or (answer + 1 in asked and not kept[(answer - 9) // 5])


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(lambda x: min(x) < max(x)))
def test_a_load_keeps_the_shape_of_arrivals(arrivals_s: list[int]) -> None:
    requests = [Request(str(k), 10, 10, at) for k, at in enumerate(arrivals_s)]
    found = [one.arrival_s for one in stretched(requests, 5.0)]
    first_s, span_s = min(arrivals_s), max(arrivals_s) - min(arrivals_s)
    shape = [(at - first_s) / span_s for at in arrivals_s]
    assert found == pytest.approx([share * len(requests) / 5.0 for share in shape])


def test_at_full_load_work_comes_as_fast_as_it_can_be_done() -> None:
    """By the bound on it; and what comes at once has no rate."""
    profile = PROFILES["llama-65b-ascend"]
    requests = [Request(str(k), 100, 50, float(k)) for k in range(1000)]
    one, two = (requests_per_s(requests, [profile.cost] * count, profile.slots) for count in (1, 2))
    alone_s = 0.025 / 200 + 0.013 + 50 * (0.029 / 200 + 0.00021)
    assert one == pytest.approx(1 / alone_s)
    assert two == pytest.approx(2 * one)
    with pytest.raises(ProblemError, match="arrive at once"):
        stretched(requests[:1], 1.0)


@pytest.fixture
def replay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Replay:
    """Runs the command on a trace with targets of two kinds; exit status and outputs."""
    trace = tmp_path / "trace.jsonl"
    rows = [
        {
            "prompt_tokens": 20 + 40 * (k % 7),
            "output_tokens": 5 + k % 31,
            "arrival_s": 0.05 * k,
            "ttft_s": (0.3, 1.0)[k % 2],
            "tpot_s": (0.05, 0.1)[k % 2],
        }
        for k in range(80)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def run(*flags: str) -> tuple[int, str, str]:
        given = ["--requests", str(trace), "--slots", "4", "--report", str(tmp_path / "r.html")]
        monkeypatch.setattr("router.lab.simulation.pool.os.cpu_count", lambda: 1)
        monkeypatch.setattr(sys, "argv", ["makespan", "replay", *given, *flags])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        return (status, *capsys.readouterr())

    return run


ASKED = ("--goodput", "--workers", "2", "--loads", "20,60,100,140")


def test_answers_are_those_of_runs_and_no_run_beats_its_bound(replay: Replay) -> None:
    flags = ("--dispatch", "least-requests,makespan", "--policy", "adaptive,prefill-first")
    status, out, said = replay(*ASKED, *flags, "--json")
    found = json.loads(out)
    assert (status, said) == (0, "")
    bounds = {one["load"]: one["goodput"] for one in found["bounds"]}
    assert {20, 60, 100, 140} <= bounds.keys() == {run["load"] for run in found["runs"]}
    for run in found["runs"]:
        assert 0 <= run["goodput"] <= bounds[run["load"]] <= 1
    assert len(found["answers"]) == 4
    for answer in found["answers"]:
        assert answer["load"] == _highest(found["runs"], answer)
        assert answer["missed"] == answer["load"] + 1
    loads = [answer["load"] for answer in found["answers"]]
    assert loads == sorted(loads, reverse=True)


def _highest(runs: Sequence[dict[str, Any]], answer: dict[str, Any]) -> int | None:
    kind = answer["policy"], answer["dispatch"]
    ours = [run for run in runs if (run["policy"], run["dispatch"]) == kind]
    missed = min(run["load"] for run in ours if run["goodput"] < ENOUGH)
    return max((run["load"] for run in ours if run["load"] < missed), default=None)


def test_people_get_the_same_answers(replay: Replay, tmp_path: Path) -> None:
    asked = (*ASKED, "--dispatch", "least-requests,makespan")
    found = json.loads(replay(*asked, "--json")[1])
    status, table, _ = replay(*asked)
    assert status == 0
    words = " ".join(outline((tmp_path / "r.html").read_text(encoding="utf-8")).words)
    for answer in found["answers"]:
        rate = figure(found["requests_per_s"] * answer["load"] / 100)
        for text in (table, words.replace("\N{NO-BREAK SPACE}", " ")):
            assert f"up to {answer['load']} %, {rate} requests/s" in text
    for run in found["runs"]:
        assert f"{run['goodput']:.2%}" in table
    for title in ("Goodput over load", "P99 time to first token", "Whoever routes"):
        assert title in words


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--goodput --workers 1,2", "workers: loads are those of one fleet"),
        ("--goodput --slo ttft_p99=2s", "goodput: it and slo ask for reports of their own"),
        ("--loads 50,60", "loads: only goodput asks for them"),
        ("--goodput --loads 50,50", "loads: a value is there twice"),
        ("--goodput --loads 0", "loads.0: "),
        ("--goodput --loads half", "loads: 'half' is neither a number nor a range"),
        ("--goodput --arrivals all-at-once", "all requests arrive at once"),
    ],
)
def test_bad_values_name_themselves(replay: Replay, flags: str, complaint: str) -> None:
    status, out, said = replay(*flags.split())
    assert (status, out) == (2, "")
    assert complaint in said
