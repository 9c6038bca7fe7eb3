"""Batches while gateways die, disks are full and databases are lost: each line has one answer."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

from tests import http
from tests.e2e.batch_gateway import Clients, Gateway, agents, check, line, moments
from tests.helpers import Process, scrape
from tests.postgres import Postgres, postgres
from tests.waiting import eventually

# Lines of so many tokens that nobody is done before what is to happen to them has happened.
COUNT, TOKENS, KILLS = 120, 30, 3


@pytest.fixture(scope="module")
def workers() -> Iterator[list[str]]:
    with agents("--speed", "5", "--slots", "8") as urls:
        yield urls


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path)
    address: str = request.getfixturevalue("database").database()
    return address


def lines(count: int) -> list[object]:
    return [line(k, tokens=TOKENS) for k in range(count)]


def test_killed_at_any_moment_no_line_is_lost_or_there_twice(
    workers: list[str], store: str
) -> None:
    gateway = Gateway(workers, store)
    try:
        name = gateway.create(lines(COUNT))
        for moment in moments(COUNT, KILLS, "one"):
            gateway.wait_answered(name, moment)
            before = gateway.answered(name)
            gateway.stop(signal.SIGKILL)
            gateway = Gateway(workers, store)
            assert gateway.answered(name) >= before
        check(gateway, name, COUNT)
    finally:
        gateway.stop()


def test_another_gateway_takes_over_from_one_that_is_killed(
    workers: list[str], database: Postgres
) -> None:
    store = database.database()
    with ExitStack() as stack:
        first = Gateway(workers, store)
        stack.callback(first.stop)
        second = stack.enter_context(Gateway(workers, store))
        # Long enough that one has not done them all before the other has looked.
        name = first.create([line(k, tokens=5 * TOKENS) for k in range(COUNT)])
        begun = 'makespan_batch_lines_total{state="running"}'
        for gateway in (first, second):  # they share the work
            eventually(lambda one=gateway: scrape(one.url).values[begun] > 0, gateway.url)  # type: ignore[misc]
        second.wait_answered(name, 1)
        first.stop(signal.SIGKILL)
        check(second, name, COUNT)


def test_told_to_stop_it_gives_back_what_it_has(workers: list[str], tmp_path: Path) -> None:
    store = str(tmp_path)
    with Gateway(workers, store) as gateway:
        name = gateway.create([line(k, tokens=1500) for k in range(40)])
        eventually(lambda: running(gateway, name) > 0)
    with Gateway(workers, store) as gateway:
        assert not any("gone wait again" in text for text in gateway.lines)
        gateway.client.batches.cancel(name)
        assert gateway.ended(name).status == "cancelled"


def running(gateway: Gateway, name: str) -> int:
    told = http.get(f"{gateway.url}/v1/batches/{name}").json()
    return int(told["makespan"]["running"])


def limit(gateway: Gateway, size: int) -> None:
    """From now on none of its files may be longer than so many bytes, as on a full disk."""
    hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def test_a_full_disk_is_told_and_the_batch_goes_on_later(
    workers: list[str], tmp_path: Path
) -> None:
    with Gateway(workers, str(tmp_path)) as gateway:
        name = gateway.create(lines(COUNT))
        gateway.wait_answered(name, 1)
        limit(gateway, 4096)
        gateway.wait_for(r"(batches pause) why=")
        with pytest.raises(openai.InternalServerError, match="cannot be read or written") as told:
            gateway.upload(lines(1))
        assert told.value.status_code == 503
        assert told.value.code == "store_unavailable"
        assert int(told.value.response.headers["retry-after"]) > 0
        answer = http.get(f"{gateway.url}/v1/batches/{name}").json()
        assert "cannot be read or written" in answer["makespan"]["paused"]
        assert scrape(gateway.url).values["makespan_batch_paused{}"] == 1
        limit(gateway, -1)
        gateway.wait_for(r"(batches go on)")
        check(gateway, name, COUNT)
        assert scrape(gateway.url).values["makespan_batch_paused{}"] == 0
        assert sum("batches pause" in text for text in gateway.lines) == 1


def test_a_lost_database_is_told_and_the_batch_goes_on_later(
    workers: list[str], database: Postgres
) -> None:
    with Gateway(workers, database.database()) as gateway:
        name = gateway.create(lines(COUNT))
        gateway.wait_answered(name, 1)
        database.stop()
        try:
            gateway.wait_for(r"(batches pause) why=")
            with pytest.raises(openai.InternalServerError, match="cannot be read or written"):
                gateway.get(name)
            online = http.get(gateway.url + "/ready")
            assert online.status_code == 200
        finally:
            database.start()
        gateway.wait_for(r"(batches go on)")
        check(gateway, name, COUNT)


def test_processes_of_one_gateway_share_the_work(workers: list[str], tmp_path: Path) -> None:
    flags = ("--worker", ",".join(workers), "--port", "0", "--data", str(tmp_path))
    with Process("gateway", *flags, "--processes", "2", "--drain-s", "1") as process:
        url = process.wait_for(r"listening url=(\S+)")
        eventually(lambda: sum("worker is up" in text for text in list(process.lines)) >= 4)
        gateway = Clients(url)
        name = gateway.create(lines(COUNT))
        check(gateway, name, COUNT)
        gateway.client.close()
