"""What processes of one gateway tell each other is what each has in flight."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.gateway.siblings import board as module
from router.gateway.siblings.board import MOST_TENANTS, Board, wipe
from solver.routing.elsewhere import Tenant
from solver.routing.fair import HALF_LIFE_S
from solver.routing.sums import NOTHING, Backlog, LoadSums

URLS = [f"http://w{k}:1" for k in range(4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "board"


def _sums(sequences: int) -> LoadSums:
    """Of which three in four let others pass."""
    tokens = 2.0 * sequences
    return LoadSums(4 * sequences, output_tokens=tokens, bulk=sequences, paced=2 * sequences)


told = st.tuples(st.integers(0, 2), st.sampled_from(URLS), st.integers(0, 5))


@settings(max_examples=30)
@given(st.lists(told, max_size=30), st.sets(st.integers(0, 2), max_size=2))
def test_each_reads_the_sum_of_what_the_others_have_told_last(
    events: list[tuple[int, str, int]], waiting: set[int]
) -> None:
    known: dict[tuple[int, str], int] = {}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        # A lock is a process's: rows of one process are dealt out by hand here.
        boards = [_board(Path(folder) / "board", row) for row in range(3)]
        for one in boards:
            stack.callback(one.close)
        for k, one in enumerate(boards):
            one.wait(Backlog(int(k in waiting), 7.0))
        for k, url, sequences in events:
            boards[k].tell(url, _sums(sequences))
            known[k, url] = sequences
        for k, one in enumerate(boards):
            others = set(range(3)) - {k}
            assert one.wanting() == one.backlog().requests == len(waiting - {k})
            assert one.backlog().prompt_tokens == 7.0 * len(others)
            for url in URLS:
                held = sum(known.get((other, url), 0) for other in others)
                content = sum(known.get((other, url), 0) for other in others - waiting)
                assert one.held(url) == _sums(held)
                assert one.content(url) == content


def test_tenants_are_told_by_name_fade_and_go_with_their_process(path: Path) -> None:
    with ExitStack() as stack:
        boards = [_board(path, row) for row in range(3)]
        for one in boards:
            stack.callback(one.close)
        boards[0].tell_tenants([Tenant("a", 8.0, 3.0, True), Tenant("b", 4.0, 1.0, False)], 10.0)
        boards[1].tell_tenants([Tenant("a", 2.0, 3.0, True)], 10.0 + HALF_LIFE_S)
        seen = boards[2].tenants(["a"], 10.0 + HALF_LIFE_S)
        (unknown,) = seen.had.keys() - {"a"}
        assert seen.had == pytest.approx({"a": 8.0 / 2 + 2.0, unknown: 4.0 / 2})
        assert seen.weights == {"a": 3.0, unknown: 1.0}
        assert seen.waits == {"a": 2}
        assert boards[1].tenants(["a", "b"], 10.0).had == {"a": 8.0, "b": 4.0}
        boards[0].tell_tenants([Tenant("b", 1.0, 1.0, True)] * 2 * MOST_TENANTS, 10.0)
        assert boards[1].tenants(["b"], 10.0).waits == {"b": MOST_TENANTS}
        wipe(path, os.getpid())
        assert not boards[1].tenants(["a"], 10.0).had


def _board(path: Path, row: int) -> Board:
    class Dealt(Board):
        def _take(self, number: int) -> bool:
            return number == row

    return Dealt(path, 3)


def _hold(path: Path, pipe: Connection) -> None:
    board = Board(path, 3)
    board.tell(URLS[0], LoadSums(7))
    board.wait(Backlog(1))
    pipe.send(None)
    signal.pause()


def test_who_is_killed_is_wiped_and_its_row_goes_to_the_next(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with closing(Board(path, 3)) as mine:
        for _ in range(4):  # more often than there are rows
            here, there = context.Pipe()
            process = context.Process(target=_hold, args=(path, there), daemon=True)
            process.start()
            here.recv()
            assert (mine.held(URLS[0]), mine.wanting()) == (LoadSums(7), 1)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            supervisor = context.Process(target=wipe, args=(path, process.pid))
            supervisor.start()
            supervisor.join()
            assert (mine.held(URLS[0]), mine.wanting()) == (NOTHING, 0)
            process.close()


def test_a_fleet_that_changes_uses_places_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLACES", 2)
    with closing(_board(path, 0)) as one, closing(_board(path, 1)) as other:
        for k in range(10):
            url = f"http://pod-{k}:1"
            one.tell(url, LoadSums(1 + k))
            assert other.held(url) == LoadSums(1 + k)
            one.tell(url, NOTHING)
            assert other.held(url) == NOTHING
