"""The comparison with other routers, as a short run with those that are here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.bench_peers import main
from tests.bench.peers.packages import installed
from tests.bench.peers.records import recorded
from tests.bench.peers.routers import OURS, ROUTERS

# Some twenty requests, on engines that are quick but not more than a busy machine can bear.
BRIEF = ("--situations", "unequal", "--seconds", "3", "--load", "0.1", "--speed", "8")


def test_every_router_brings_every_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    routers = [OURS, *(["nginx-weighted"] if installed("nginx") else [])]
    path = tmp_path / "runs.jsonl"
    flags = ("--routers", ",".join(routers), "--repetitions", "1", "--out", str(path))
    monkeypatch.setattr("sys.argv", ["bench", *BRIEF, *flags])
    main()
    told = capsys.readouterr().out
    runs = recorded(path)
    assert [run.router for run in runs] == routers
    for run in runs:
        assert [answer.error for answer in run.answers if answer.error] == []
        assert {answer.worker for answer in run.answers} <= {"w0", "w1", "w2", "w3"}
        assert all(0 < answer.ttft_s <= answer.e2e_s for answer in run.answers)
        assert f"| {ROUTERS[run.router].words} | " in told
    monkeypatch.setattr("sys.argv", ["bench", "--read", str(path)])
    main()
    assert capsys.readouterr().out == told
