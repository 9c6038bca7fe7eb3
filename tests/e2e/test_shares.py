"""Tenants that wait take turns by their weights, live, and their traffic is replayed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from router.settings.keys import Key, hash_of
from tests import http
from tests.helpers import Process
from tests.waiting import eventually

KEYS = {name: f"mk-{name}-{'x' * 40}" for name in ("three", "one", "late", "admin")}
FILE = "\n".join(
    Key(
        sha256=hash_of(key), tenant=name, weight=3.0 if name == "three" else 1.0,
        admin=name == "admin",
    ).to_toml()
    for name, key in KEYS.items()
)  # fmt: skip
SLOTS, EACH = 8, 100
BODY = {"model": "llama-65b", "prompt": "How many?", "max_tokens": 40, "ignore_eos": True}


@contextmanager
def shared(folder: Path) -> Iterator[tuple[str, Path]]:
    """A gateway with keys and a traffic log, before one agent of few slots."""
    keys, log = folder / "keys.toml", folder / "traffic.jsonl"
    keys.write_text(FILE)
    agent_flags = ("--port", "0", "--slots", str(SLOTS), "--speed", "8")
    with Process("agent", *agent_flags) as agent:
        worker = agent.wait_for(r"listening url=(\S+)")
        flags = ("--port", "0", "--worker", worker, "--keys", str(keys), "--traffic-log", str(log))
        with Process("gateway", *flags) as gateway:
            url = gateway.wait_for(r"listening url=(\S+)")
            gateway.wait_for("(worker is up)")
            yield url, log


async def ask(session: aiohttp.ClientSession, tenant: str, ended: list[str]) -> None:
    headers = {"authorization": f"Bearer {KEYS[tenant]}", "x-request-id": tenant}
    async with session.post("/v1/completions", json=BODY, headers=headers) as answer:
        await answer.read()
        assert answer.status == 200
    ended.append(tenant)


async def all_at_once(url: str) -> list[str]:
    """Whose requests ended, in that order; who is late comes in the middle of it, with one."""
    ended: list[str] = []
    connector = aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(url, connector=connector)
    async with session, asyncio.TaskGroup() as group:
        for k in range(2 * EACH):
            group.create_task(ask(session, ("one", "three")[k % 2], ended))
        while len(ended) < EACH // 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        ended.append("here")
        await ask(session, "late", ended)
    return ended


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], str, Path]]:
    folder = tmp_path_factory.mktemp("shares")
    with shared(folder) as (url, log):
        ended = asyncio.run(all_at_once(url))
        eventually(lambda: log.exists() and len(log.read_text().splitlines()) == len(ended) - 1)
        headers = {"authorization": f"Bearer {KEYS['admin']}"}
        metrics = http.get(url + "/metrics", headers=headers).text
        late = http.get(url + "/makespan/v1/requests/late", headers=headers).json()
        # It began where the least of them was, and has had one request since.
        assert abs(late["over_share_slot_s"]) <= late["slot_s"]
        yield ended, metrics, log


def test_who_waits_is_served_by_weight(run: tuple[list[str], str, Path]) -> None:
    """Of those alike, as many end as they have had of the slots; the first took them by chance."""
    order = [name for name in run[0] if name in ("one", "three")]
    there = order[3 * SLOTS : 3 * SLOTS + EACH]
    assert Counter(there)["three"] / EACH == pytest.approx(0.75, rel=0.05)


def test_who_comes_late_is_next(run: tuple[list[str], str, Path]) -> None:
    """Before it are those that run, and that end while it is on its way: few of those that wait."""
    ended = run[0]
    passed = ended.index("late") - ended.index("here")
    assert passed < EACH / 2
    assert Counter(ended[ended.index("late") :])["one"] > EACH / 4


LARGE: dict[str, dict[str, object]] = {
    "many prompts": {"prompt": ["How many?"] * 96},
    "many answers": {"n": 96},
    "many of both": {"prompt": ["How many?"] * 12, "n": 8},
}


async def beside_a_large_one(url: str, large: dict[str, object]) -> list[int]:
    """Answers of one request that end while another tenant's, one after the other, wait."""
    ended, passed = 0, list[int]()
    connector = aiohttp.TCPConnector(limit=0)

    def headers(tenant: str) -> dict[str, str]:
        return {"authorization": f"Bearer {KEYS[tenant]}"}

    async def read(session: aiohttp.ClientSession) -> None:
        nonlocal ended
        body = BODY | {"stream": True} | large
        async with session.post("/v1/completions", json=body, headers=headers("one")) as answer:
            async for line in answer.content:
                ended += line.count(b'"finish_reason":"length"')

    async with aiohttp.ClientSession(url, connector=connector) as session:
        task = asyncio.create_task(read(session))
        for _ in range(3):
            before = ended + SLOTS
            while ended < before and not task.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            came = ended
            body = BODY | {"max_tokens": 1, "stream": True}
            url_ = "/v1/completions"
            async with session.post(url_, json=body, headers=headers("late")) as answer:
                await answer.content.readuntil(b"\n\n")
                assert answer.status == 200
            passed.append(ended - came)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return passed


@pytest.mark.parametrize("kind", LARGE)
def test_no_large_request_takes_a_worker_from_others(tmp_path: Path, kind: str) -> None:
    """Who comes gets a slot of the next that fall free, whatever of the large one still waits."""
    with shared(tmp_path) as (url, _):
        passed = asyncio.run(beside_a_large_one(url, LARGE[kind]))
    assert max(passed) <= 2 * SLOTS, passed


async def many_beside_a_large_one(url: str) -> Counter[str]:
    """Whose answers end, while one asks for all at once and another for one after the other."""
    ended = Counter[str]()
    session = aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0))

    async def read(tenant: str, more: dict[str, object]) -> None:
        headers = {"authorization": f"Bearer {KEYS[tenant]}"}
        body = BODY | {"stream": True} | more
        async with session.post("/v1/completions", json=body, headers=headers) as answer:
            async for line in answer.content:
                ended[tenant] += line.count(b'"finish_reason":"length"')

    async def again_and_again() -> None:
        while True:
            await read("late", {})

    async with session:
        tasks = [asyncio.create_task(read("one", {"prompt": ["How many?"] * 400}))]
        while not ended["one"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(again_and_again()) for _ in range(2 * SLOTS)]
        while ended.total() < 20 * SLOTS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ended


def test_who_sends_single_requests_has_its_share_beside_a_large_one(tmp_path: Path) -> None:
    with shared(tmp_path) as (url, _):
        ended = asyncio.run(many_beside_a_large_one(url))
    assert ended["late"] > ended["one"] / 2, ended
    assert ended["one"] > ended["late"] / 2, "nor is the large one put off"


def test_engine_time_is_billed(run: tuple[list[str], str, Path]) -> None:
    lines = [line for line in run[1].splitlines() if line.startswith("makespan_tenant_slot_s")]
    spent = {line.split('"')[1]: float(line.split()[-1]) for line in lines}
    assert spent.keys() == {"three", "one", "late"}
    assert spent["three"] == pytest.approx(spent["one"], rel=0.2)
    assert spent["late"] == pytest.approx(spent["one"] / EACH, rel=0.5)


def test_the_log_replays_to_what_was(run: tuple[list[str], str, Path]) -> None:
    _, _, log = run
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert Counter(row["tenant"] for row in rows) == {"three": EACH, "one": EACH, "late": 1}
    assert {row["outcome"] for row in rows} == {"completed"}
    assert {row["output_tokens"] for row in rows} == {40}
    assert "How many" not in log.read_text()
    flags = ("--requests", str(log), "--slots", str(SLOTS), "--speed", "8", "--workers", "1")
    told = ("--tenant-weights", "three=3", "--json")
    with Process("simulate", *flags, *told) as simulate:
        found = json.loads(simulate.wait_for(r"^(\{.*\})$"))
    assert found["requests"] == len(rows)
    assert found["output_tokens"] == 40 * len(rows)
    assert found["tenants"].keys() == {"three", "one", "late"}
