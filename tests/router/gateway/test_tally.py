"""What a key has had of its minute is one figure for all processes of a gateway."""

from __future__ import annotations

import fcntl
import multiprocessing
from pathlib import Path

import pytest

from router.gateway.siblings import tally as module
from router.gateway.siblings.tally import Tally
from solver.routing.quota import Quota

KEYS, ASKED, LIMIT = ("search", "chat", "none"), 200, 250
CONTEXT = multiprocessing.get_context("spawn")


def ask(path: Path, told: multiprocessing.SimpleQueue[tuple[str, int]]) -> None:
    """A process that asks for more than its part with each key, all in one moment."""
    tally, quotas = Tally(path), {key: Quota(LIMIT, 10.0 * LIMIT) for key in KEYS}
    served = dict.fromkeys(KEYS, 0)
    for _ in range(ASKED):
        for key, quota in quotas.items():
            with tally.counting(key, quota) as counted:
                served[key] += counted.take(1.0, 7.0) == (0.0, 0.0)
    for row in served.items():
        told.put(row)


def test_processes_that_ask_at_once_get_what_there_is(tmp_path: Path) -> None:
    """And hardly one more, where whoever counts has no core for long."""
    path, told = tmp_path / "tally", CONTEXT.SimpleQueue()
    asking = [CONTEXT.Process(target=ask, args=(path, told)) for _ in range(3)]
    for one in asking:
        one.start()
    rows = [told.get() for _ in range(len(asking) * len(KEYS))]
    for one in asking:
        one.join()
        assert one.exitcode == 0
    for key in KEYS:
        served = sum(count for name, count in rows if name == key)
        assert LIMIT <= served <= LIMIT + len(asking)


def test_what_is_settled_and_what_comes_back_is_so_for_all_whatever_limit_each_knows(
    tmp_path: Path,
) -> None:
    one, other = Tally(tmp_path / "tally"), Tally(tmp_path / "tally")
    before, after = Quota(tokens=600.0), Quota(tokens=1200.0)  # it has read the file again
    with one.counting("k", before) as quota:
        assert quota.take(500.0, 0.0) == (0.0, 0.0)
        quota.settle(500.0, 400.0)
    with other.counting("k", after) as quota:
        level = quota.tokens.level(10.0)
        assert level is not None
        assert level.remaining == 1200.0 - (400.0 - 200.0)
        assert quota.take(1000.0, 10.0) == (0.0, 0.0)
    with one.counting("k", before) as quota:
        assert max(quota.take(1.0, 10.0)) > 0


def test_keys_of_one_place_have_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACES", 4)
    tally = Tally(tmp_path / "tally")
    quotas = {f"k{n}": Quota(requests=1.0) for n in range(4)}
    for key, quota in quotas.items():
        with tally.counting(key, quota) as counted:
            assert counted.take(0.0, 0.0) == (0.0, 0.0)
    for key, quota in quotas.items():
        with Tally(tmp_path / "tally").counting(key, quota) as counted:
            assert max(counted.take(0.0, 0.0)) > 0


def test_who_is_stopped_in_the_midst_of_counting_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise BlockingIOError

    tally = Tally(tmp_path / "tally")
    monkeypatch.setattr(fcntl, "lockf", busy)
    with tally.counting("k", Quota(requests=2.0)) as counted:
        assert counted.take(0.0, 0.0) == (0.0, 0.0)
