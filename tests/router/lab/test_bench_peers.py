"""The comparison with other routers: what it sends, what it tells, whom it leaves out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from router.agent.engines.emulated.text import count_tokens
from solver.errors import ProblemError
from tests.bench import bench_peers
from tests.bench.peers import packages
from tests.bench.peers.client import Answer
from tests.bench.peers.figures import FIGURES, TARGETS, Spread, report
from tests.bench.peers.records import RecordError, keep, recorded
from tests.bench.peers.routers import OURS, ROUTERS, shares
from tests.bench.peers.runs import Run
from tests.bench.peers.traffic import (
    LEAST_PROMPT,
    MAX_MODEL_LEN,
    MOST_OUTPUT,
    PAUSE_S,
    SITUATIONS,
    Setting,
    prose,
    uncached,
)
from tests.readme import NONE, marks

SHORT = Setting(seconds=20.0)
each_situation = pytest.mark.parametrize("name", SITUATIONS)


@each_situation
@pytest.mark.parametrize(
    "setting", [SHORT, replace(SHORT, seed=3), replace(SHORT, speed=2.0, load=0.3)], ids=str
)
def test_every_request_is_one_that_the_engines_take_and_know(name: str, setting: Setting) -> None:
    asks = SITUATIONS[name].asks(setting)
    assert asks == SITUATIONS[name].asks(setting)
    assert [ask.at_s for ask in asks] == sorted(ask.at_s for ask in asks)
    assert len({ask.text for ask in asks}) == len(asks)
    for ask in asks:
        assert ask.at_s >= 0
        assert ask.prompt_tokens == count_tokens(ask.text)
        assert ask.prompt_tokens + MOST_OUTPUT <= MAX_MODEL_LEN
        assert 1 <= ask.output_tokens <= MOST_OUTPUT
        assert len(ask.messages) % 2 == 1


@each_situation
def test_another_seed_sends_something_else(name: str) -> None:
    one, other = (SITUATIONS[name].asks(replace(SHORT, seed=seed)) for seed in (0, 1))
    assert [ask.output_tokens for ask in one] != [ask.output_tokens for ask in other]


@each_situation
@pytest.mark.parametrize("more", [replace(SHORT, speed=2.0), replace(SHORT, seconds=40.0)], ids=str)
def test_a_fleet_that_can_do_twice_as_much_gets_it(name: str, more: Setting) -> None:
    once, twice = (len(SITUATIONS[name].asks(setting)) for setting in (SHORT, more))
    assert twice == pytest.approx(2 * once, rel=0.2)  # sessions arrive at random


def test_unequal_workers_get_as_much_as_their_speeds_together() -> None:
    equal, unequal = (len(SITUATIONS[name].asks(SHORT)) for name in ("equal", "unequal"))
    assert unequal / equal == pytest.approx(4.5 / 4, rel=0.02)


def test_all_of_a_burst_is_there_at_once() -> None:
    asks = SITUATIONS["burst"].asks(SHORT)
    assert {ask.at_s for ask in asks} == {0.0}
    stream = SITUATIONS["equal"].asks(replace(SHORT, load=1.0))
    assert [ask.text for ask in asks] == [ask.text for ask in stream]


def test_each_turn_of_a_session_says_again_what_was_said() -> None:
    asks = SITUATIONS["sessions"].asks(replace(SHORT, seconds=60.0))
    latest = {ask.messages: ask for ask in asks}
    later = [ask for ask in asks if len(ask.messages) > 1]
    assert len(later) > len(asks) / 2
    for ask in later:
        before = latest[ask.messages[:-2]]
        assert ask.text.startswith(before.text)
        assert ask.at_s - before.at_s >= PAUSE_S[0]
    prompts = sum(ask.prompt_tokens for ask in asks)
    assert sum(uncached(asks)) < 0.4 * prompts


@pytest.mark.parametrize("tokens", [1, LEAST_PROMPT, 100, 4097])
def test_prose_has_the_tokens_that_it_should(tokens: int) -> None:
    assert count_tokens(prose(tokens, random.Random(0), "7.")) == max(tokens, LEAST_PROMPT)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("profile", lambda: Setting(profile="abacus")),
        ("slots", lambda: Setting(slots=0)),
        ("seconds", lambda: Setting(seconds=-1.0)),
        ("load", lambda: Setting(load=float("inf"))),
        ("speed", lambda: Setting(speed=float("nan"))),
        ("seed", lambda: Setting(seed=-1)),
        ("seconds", lambda: SITUATIONS["sessions"].asks(Setting(seconds=1e-9))),
    ],
)
def test_a_wrong_setting_is_named(name: str, made: Callable[[], Setting]) -> None:
    with pytest.raises(ProblemError, match=f"^{name}: "):
        made()


def test_an_answer_is_timed_token_by_token() -> None:
    answer = Answer(due_s=1.0)
    for now in (3.0, 3.5, 5.5):
        answer.take(b'data: {"choices":[{"delta":{"content":"so"}}],"usage":null}', now)
    answer.take(
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,'
        b'"prompt_tokens_details":{"cached_tokens":4}}}',
        6.0,
    )
    answer.take(b"data: [DONE]", 6.0)
    assert (answer.ttft_s, answer.e2e_s, answer.tpot_s, answer.stall_s) == (2.0, 4.5, 1.25, 2.0)
    assert (answer.tokens, answer.output_tokens, answer.cached_tokens) == (3, 3, 4)
    assert not answer.error
    answer.take(b'data: {"error": {"message": "gone"}}', 7.0)
    assert "gone" in answer.error


def made(router: str, *, first_s: float = 0.5, failed: int = 0, idle: float = 0.6) -> Run:
    """A run of ten requests of five tokens, some of which failed."""
    answers = [
        Answer(float(k), float(k), k + first_s, k + first_s + 0.2, tokens=5, output_tokens=5)
        for k in range(10)
    ]
    for answer in answers[:failed]:
        answer.error = "503: full"
    return Run("equal", router, SHORT, ("today", "a machine", ""), answers, idle, 0.1, 0)


def test_a_failed_request_counts_against_goodput_and_is_told() -> None:
    whole, lost = made("nginx"), made(OURS, failed=3)
    assert FIGURES["goodput"].value(whole) == 1.0
    assert FIGURES["goodput"].value(lost) == 0.7
    text = report([whole, lost])
    assert "**Makespan**: 3 requests failed." in text
    assert "goodput once, 70.0 % against 100.0 % (nginx)" in text
    assert "goodput behind, 70.0 % against 100.0 % (nginx)" in report([whole, lost] * 2)


def test_late_first_tokens_are_no_goodput() -> None:
    assert FIGURES["goodput"].value(made(OURS, first_s=TARGETS.ttft_s + 0.1)) == 0.0


def test_nothing_but_failures_can_be_told() -> None:
    assert f"| {NONE} |" in report([made("nginx", failed=10)])


@pytest.mark.parametrize(
    ("ours", "theirs", "less", "more"),
    [
        ((1.0, 1.2), (1.3, 1.5), "ahead", "behind"),
        ((1.3, 1.5), (1.0, 1.2), "behind", "ahead"),
        ((1.0, 1.3), (1.2, 1.5), "level", "level"),
        ((1.1, 1.2), (1.0, 1.5), "level", "level"),
        ((1.1,), (1.2, 1.5), "once", "once"),
    ],
)
def test_level_is_what_repetitions_do_not_tell_apart(
    ours: tuple[float, ...], theirs: tuple[float, ...], less: str, more: str
) -> None:
    for name, said in (("first token p95", less), ("goodput", more)):
        assert Spread(FIGURES[name], ours).against(Spread(FIGURES[name], theirs)) == said


@pytest.mark.parametrize(
    ("change", "mark"),
    [
        ({"idle": 0.02}, "2% of the machine was idle"),
        ({"slow_agents": 2}, "2 engines were too slow"),
        ({"answers": [Answer(0.0, sent_s=0.5, first_s=1.0, last_s=1.0)]}, "the client was late"),
    ],
)
def test_a_run_that_is_not_to_be_trusted_says_so(change: dict[str, object], mark: str) -> None:
    trusted = made(OURS)
    assert trusted.marks == []
    assert mark in report([replace(trusted, **change)])  # type: ignore[arg-type]


def test_runs_are_kept_and_gone_on_with(tmp_path: Path) -> None:
    path, runs = tmp_path / "runs.jsonl", [made("nginx"), made(OURS, failed=1)]
    for run in runs:
        keep(path, run)
    assert recorded(path) == recorded(path, SHORT) == runs
    with pytest.raises(RecordError, match=r"runs\.jsonl has runs of .* choose another file"):
        recorded(path, replace(SHORT, slots=7))


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"answers": 3}', None])
def test_a_file_without_runs_is_refused_by_name(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecordError, match=r"runs\.jsonl: "):
        recorded(path)


def test_tables_take_the_place_of_those_in_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = bench_peers.PAGE.read_text(encoding="utf-8")
    assert [text.count(mark) for mark in marks(bench_peers.TABLES)] == [1, 1]
    page, runs = tmp_path / "page.md", tmp_path / "runs.jsonl"
    page.write_text(text, encoding="utf-8")
    keep(runs, made(OURS))
    monkeypatch.setattr(bench_peers, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["bench", "--read", str(runs), "--page"])
    bench_peers.main()
    first, last = marks(bench_peers.TABLES)
    before, after = text.partition(first)[0], text.partition(last)[2]
    tables = report(recorded(runs))
    assert page.read_text(encoding="utf-8") == f"{before}{first}\n{tables}\n{last}{after}"


def test_weights_have_the_ratio_of_the_speeds() -> None:
    assert shares(SITUATIONS["unequal"].speeds) == [4, 2, 2, 1]
    told = ROUTERS["nginx-weighted"]
    assert [name for name in SITUATIONS if bench_peers.fits(told, name)] == ["unequal"]
    assert all(bench_peers.fits(ROUTERS[OURS], name) for name in SITUATIONS)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has nothing, and no place to put anything."""
    no_folder = tmp_path / "file"
    no_folder.touch()
    monkeypatch.setattr(packages, "ANYWHERE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_folder))
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("alone")
def test_who_cannot_be_had_is_left_out_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["nginx", "haproxy", "smg-least-load", "smg-cache-aware", OURS]
    assert [*bench_peers.available(names)] == [OURS]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"left out {k}" for k in names[:-1]]
    assert "install it" in lines[0]
    assert "smg cannot be had" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--routers", "nginx,abacus"], "'abacus' is none of: sglang-cache-aware"),
        (["--situations", "flood"], "'flood' is none of: equal"),
    ],
)
def test_an_unknown_name_is_refused(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    with pytest.raises(SystemExit):
        bench_peers.main()
    assert said in capsys.readouterr().err
