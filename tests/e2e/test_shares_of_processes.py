"""Fair shares hold over a gateway's processes, however the kernel deals tenants out to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from router.settings.keys import Key, hash_of
from tests.e2e.test_processes import Gateway
from tests.helpers import Process
from tests.ports import free_ports

SLOTS, CLIENTS, EACH = 8, 24, 200
MANY = 64  # answers of one request
KEYS = {name: f"mk-{name}-{'x' * 40}" for name in ("three", "one")}
BODY = {"model": "llama-65b", "prompt": "How many?", "max_tokens": 40, "ignore_eos": True}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    keys = tmp_path_factory.mktemp("shares") / "keys.toml"
    weights = {"three": 3.0, "one": 1.0}
    rows = [
        Key(sha256=hash_of(key), tenant=name, weight=weights[name]) for name, key in KEYS.items()
    ]
    keys.write_text("\n".join(row.to_toml() for row in rows))
    with Process("agent", "--port", "0", "--slots", str(SLOTS), "--speed", "8") as agent:
        worker = agent.wait_for(r"listening url=(\S+)")
        with Gateway([worker], "--keys", str(keys)) as running:
            yield running


def served_by(ends: tuple[int, int], pids: list[int]) -> int:
    """Which process has the end of a connection that is at the first port."""
    table = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    rows = [row.split() for row in table]
    ports = {tuple(int(end.rpartition(":")[2], 16) for end in row[1:3]): row[9] for row in rows}
    wanted = f"socket:[{ports[ends]}]"
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(entry.readlink()) == wanted:
                    return pid
    raise AssertionError("nobody has it")


@asynccontextmanager
async def connected(gateway: Gateway) -> AsyncIterator[dict[int, list[aiohttp.ClientSession]]]:
    """Sessions of one connection each, by the process that has it: so many of every process."""
    pids, port = gateway.pids(), int(gateway.url.rpartition(":")[2])
    found: dict[int, list[aiohttp.ClientSession]] = {pid: [] for pid in pids}
    async with AsyncExitStack() as stack:
        while min(map(len, found.values())) < CLIENTS:
            (own,) = free_ports(1)
            local = ("127.0.0.1", own)  # once only: it stays busy for a minute after its end
            connector = aiohttp.TCPConnector(limit=1, local_addr=local, keepalive_timeout=600)
            session = aiohttp.ClientSession(gateway.url, connector=connector)
            await stack.enter_async_context(session)
            async with session.get("/health") as answer:
                await answer.read()
            found[served_by((port, own), pids)].append(session)
        yield found


async def shares_of(gateway: Gateway, *, large: bool = False) -> Counter[str]:
    """Whose answers were made, once both tenants have lines; each has a process to itself.

    `large`: of the last one a few requests ask for all.
    """
    ended: list[str] = []

    async def ask(session: aiohttp.ClientSession, tenant: str, n: int) -> None:
        headers = {"authorization": f"Bearer {KEYS[tenant]}"}
        while len(ended) < EACH:
            body = {**BODY, "n": n}
            async with session.post("/v1/completions", json=body, headers=headers) as answer:
                await answer.read()
                assert answer.status == 200
            ended.extend([tenant] * n)

    async with connected(gateway) as found, asyncio.TaskGroup() as group:
        for tenant, sessions in zip(KEYS, found.values(), strict=True):
            n = MANY if large and tenant == "one" else 1
            for session in sessions[: CLIENTS if n == 1 else 2]:
                group.create_task(ask(session, tenant, n))
    return Counter(ended[4 * SLOTS : EACH])


def test_one_request_of_many_answers_keeps_no_process_out(gateway: Gateway) -> None:
    shares = asyncio.run(shares_of(gateway, large=True))
    assert shares["three"] / shares.total() > 0.5


def test_tenants_of_two_processes_are_served_by_weight(gateway: Gateway) -> None:
    shares = asyncio.run(shares_of(gateway))
    assert shares["three"] / shares.total() == pytest.approx(0.75, abs=0.06)
