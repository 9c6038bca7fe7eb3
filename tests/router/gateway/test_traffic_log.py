"""The traffic log: whole lines, bounded files, and nothing lost but what cannot be written."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path

import pytest

from router.gateway.accounting import traffic_log
from router.gateway.accounting.traffic_log import BLOCKS, KEPT, TrafficLog
from router.gateway.app import create_app
from router.gateway.explanations.request_record import RequestRecord
from router.lab.simulation.traces import read_trace
from router.observe.metrics import GatewayMetrics
from router.settings.base import BadSettings
from router.settings.commands import load
from router.settings.gateway import GatewaySettings
from solver.batching.kv import BLOCK_TOKENS
from solver.batching.targets import Targets
from tests.waiting import PATIENCE_S, until


def record(number: int, **said: object) -> RequestRecord:
    usual = {"prompt_tokens": 10, "output_tokens": 5, "outcome": "completed", "tenant": "search"}
    made = RequestRecord(f"id-{number}", "m", True, 1.7e9 + number)
    for name, value in (usual | said).items():
        setattr(made, name, value)
    return made


def test_a_line_is_a_row_of_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "traffic.jsonl"
    log = TrafficLog(path, 1 << 20, GatewayMetrics())
    blocks = tuple(range(100, 100 + 2 * BLOCKS + 1))
    log.note(record(0, targets=Targets(2.0, 0.1)), blocks, None)
    log.note(record(1, used_prompt_tokens=12, priority="bulk", deadline_s=60.0), (), None)
    log.note(record(2, output_tokens=None, outcome="cancelled"), (), 3)
    log.note(record(3, output_tokens=None, outcome="failed"), (), None)
    log.note(record(4, output_tokens=None, outcome="rejected_no_capacity"), (), None)
    log.note(record(5, output_tokens=0), path="embeddings")
    log.write()
    found = read_trace(path)
    rows = [(r.prompt_tokens, r.output_tokens, r.arrival_s, r.tenant) for r in found.requests]
    assert rows == [(10, 5, 0.0, "search"), (12, 5, 1.0, "search"), (10, 3, 2.0, "search")]
    assert found.requests[0].hash_ids == (blocks[BLOCKS - 1], blocks[2 * BLOCKS - 1])
    assert found.requests[0].targets == Targets(2.0, 0.1)
    assert found.requests[1].deadline_s == 60.0
    assert found.left_out == {"failed": 1, "rejected_no_capacity": 1, "relayed": 1}
    assert BLOCKS * 128 == BLOCK_TOKENS


def test_a_file_that_cannot_be_written_is_named_at_the_start(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "traffic.jsonl"):
        settings = load(GatewaySettings, ["--worker", "http://a:1", "--traffic-log", str(path)])
        with pytest.raises(BadSettings, match=f"traffic_log: {path}: "):
            create_app(settings)


def test_files_are_bounded_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "traffic.jsonl"
    log, written = TrafficLog(path, 2000, GatewayMetrics()), 0
    while not (tmp_path / f"traffic.jsonl.{KEPT}").exists() or written < 60:
        log.note(record(written), (), None)
        log.write()
        written += 1
    files = [path, *(tmp_path / f"traffic.jsonl.{k}" for k in range(1, KEPT + 1))]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 2000 for file in files)
    lines = [line for file in reversed(files) for line in file.read_text().splitlines()]
    numbers = [json.loads(line)["request"] for line in lines]
    assert numbers == [f"id-{k}" for k in range(written - len(numbers), written)]


def _write(path: Path, first: int) -> None:
    log = TrafficLog(path, 4000, GatewayMetrics())
    for k in range(first, first + 40):
        log.note(record(k), (), None)
        log.write()


def test_several_write_whole_lines_to_one_file(tmp_path: Path) -> None:
    """As processes of one gateway do: each opens it anew, so threads stand in for them."""
    path = tmp_path / "traffic.jsonl"
    writers = [threading.Thread(target=_write, args=(path, 1000 * k)) for k in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert all(json.loads(line)["outcome"] == "completed" for line in lines)
    assert len({json.loads(line)["request"] for line in lines}) == len(lines)
    assert all(file.stat().st_size <= 4000 for file in tmp_path.iterdir())


def test_a_disk_that_takes_nothing_is_one_line_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = GatewayMetrics()
    log = TrafficLog(tmp_path / "no" / "such" / "folder", 2000, metrics)
    with caplog.at_level(logging.ERROR):
        for k in range(3):
            log.note(record(k), (), None)
            log.write()
    assert len(caplog.records) == 1
    (tmp_path / "no" / "such").mkdir(parents=True)
    log.note(record(7), (), None)
    log.write()
    assert "id-7" in (tmp_path / "no" / "such" / "folder").read_text()
    assert b"makespan_traffic_log_dropped_total 3.0" in metrics.render()


def test_a_disk_that_hangs_takes_no_memory_and_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs with the first line, until ninety-nine more have come; then it writes again."""
    path, metrics = tmp_path / "traffic.jsonl", GatewayMetrics()
    log, wakes = TrafficLog(path, 1 << 20, metrics), threading.Event()
    monkeypatch.setattr(traffic_log, "WRITE_S", 0.0)
    monkeypatch.setattr(traffic_log, "MOST_WAITING_BYTES", 5000)
    append, hangs = log._append, threading.Event()

    def hang(data: bytes) -> None:
        hangs.set()
        assert wakes.wait(PATIENCE_S)
        append(data)

    monkeypatch.setattr(log, "_append", hang)

    async def play() -> int:
        running = asyncio.create_task(log.run())
        log.note(record(0), (), None)
        await until(hangs.is_set)
        for k in range(1, 100):
            log.note(record(k), (), None)
        held = sum(map(len, log._lines))
        wakes.set()
        await until(lambda: path.exists() and not log._waiting_bytes)
        log.note(record(100), (), None)
        await until(lambda: "id-100" in path.read_text())
        running.cancel()
        return held

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(play()) < 5000
    written = len(path.read_text().splitlines())
    assert f"makespan_traffic_log_dropped_total {101 - written:.1f}".encode() in metrics.render()
    assert 5 < written < 50
    assert len(caplog.records) == 1
