"""Everything at once: thousands of requests while workers die, hang, fail and come back."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from router.http.connections import KEEP_ALIVE_S
from tests import http
from tests.chaos_worker import MODEL
from tests.e2e.clients import Ask, ask_all
from tests.helpers import ROOT, Process, scrape
from tests.ports import free_ports
from tests.waiting import eventually, until

REQUESTS, CLIENTS, SEED = 2000, 64, 20261129
MOST_FAILED, SLOTS = REQUESTS // 200, 8
# What the gateway says of each thing that goes wrong.
FAILED, LIMITED, HUNG = (
    "answered a request with 500", "limits its requests: 429", "a request had no byte",
)  # fmt: skip
FAULTS = {
    "broke off its answer", "it has not answered for", FAILED, LIMITED, HUNG,
    "starting the solver's process again",
}  # fmt: skip


class PlainWorker:
    """A plain server that falls ill when told to; see `tests.chaos_worker`."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos_worker"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[1]
        return self

    def be(self, mood: str) -> None:
        """From now on it is `mood`."""
        assert self._process.stdin is not None
        self._process.stdin.write(mood + "\n")

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # it ends with its input
        assert self._process.returncode == 0


class Agent:
    """One that may be replaced by another at the same address."""

    def __init__(self, port: int) -> None:
        self.port, self.url, self.name = port, f"http://127.0.0.1:{port}", f"agent-{port}"
        self.start()

    def start(self) -> None:
        self.process = Process(
            "agent", "--port", str(self.port), "--name", self.name,
            "--speed", "2", "--slots", str(SLOTS), "--drain-s", "60",
        )  # fmt: skip

    def send(self, sig: signal.Signals) -> None:
        self.process.process.send_signal(sig)

    async def restart(self, sig: signal.Signals) -> int:
        """Its exit status; another is in its place."""
        self.send(sig)
        status = await asyncio.to_thread(self.process.stop, sig)
        self.start()
        return status


class Fleet:
    """A gateway before agents and plain workers."""

    def __init__(self, agents: list[Agent], plain: list[PlainWorker], *more: str) -> None:
        self.agents, self.plain = agents, plain
        urls = ",".join([one.url for one in agents] + [one.url for one in plain])
        # So short a deadline is worth it for whatever it might gain: the planner is asked often.
        own = ("--plain-slots", str(SLOTS), "--plan-deadline-s", "0.001")
        flags = ("--worker", urls, "--port", "0", *own, *more)
        program = (sys.executable, "-m", "tests.counted")
        self.gateway = Process("gateway", *flags, program=program)
        self.url = self.gateway.wait_for(r"listening url=(\S+)")
        self.pid = self.gateway.process.pid
        eventually(lambda: all(one["up"] for one in self.workers()))

    def workers(self) -> list[dict[str, Any]]:
        return list(http.get(self.url + "/makespan/v1/workers").json()["workers"])

    def outcomes(self) -> Counter[str]:
        ended = Counter[str]()
        for name, value in scrape(self.url).values.items():
            if found := re.match(r'makespan_requests_total\{.*outcome="(\w+)"', name):
                ended[found[1]] += int(value)
        return ended

    def solvers(self) -> list[int]:
        """Its processes that plan, which have loaded what they need."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in _command(pid)]

    def held(self) -> Counter[str]:
        """Descriptors by kind, and tasks of the event loop."""
        kinds = Counter[str]()
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                kinds[str(link.readlink()).partition(":")[0]] += 1
            except FileNotFoundError:
                continue
        seen = len(self.gateway.lines)
        self.gateway.process.send_signal(signal.SIGUSR1)
        eventually(lambda: any(one.startswith("tasks") for one in self.gateway.lines[seen:]))
        told = [one for one in self.gateway.lines[seen:] if one.startswith("tasks")]
        kinds["tasks"] = int(told[0].split()[1])
        return kinds

    def sockets(self) -> list[str]:
        """Its ends of TCP connections: own and other port, and state as in the kernel's table."""
        own = {str(link.readlink()) for link in Path(f"/proc/{self.pid}/fd").iterdir()}
        rows = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        mine = [row.split() for row in rows if f"socket:[{row.split()[9]}]" in own]
        return [
            f"{int(here.split(':')[1], 16)}-{int(there.split(':')[1], 16)} {state}"
            for _, here, there, state, *_ in mine
        ]

    def at_rest(self) -> Counter[str]:
        """What it holds once connections that nobody uses have been closed."""
        held, since_s = self.held(), time.monotonic()
        while time.monotonic() - since_s < KEEP_ALIVE_S + 1:
            time.sleep(0.5)
            if (now := self.held()) != held:
                held, since_s = now, time.monotonic()
        return held

    def is_idle(self) -> bool:
        """No slot is held anywhere."""
        for one in self.workers():
            agent = one["agent"]
            busy = agent is not None and (agent["running"] or agent["queued"])
            if one["in_flight"] or busy:
                return False
        return scrape(self.url).values["makespan_unsent_requests{}"] == 0


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def stop_agents(agents: list[Agent]) -> None:
    for one in agents:  # all at once, as each takes a moment
        if one.process.process.poll() is None:
            one.send(signal.SIGTERM)
    for one in agents:
        one.process.stop()


@contextmanager
def fleet(agents: int, plain: int, *flags: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        servers = [stack.enter_context(PlainWorker()) for _ in range(plain)]
        made = [Agent(port) for port in free_ports(agents)]
        stack.callback(stop_agents, made)
        running = Fleet(made, servers, *flags)
        with running.gateway:
            yield running
        assert running.gateway.process.returncode == 0


def requests(count: int, rng: random.Random, *, leaving: float = 0.0) -> list[Ask]:
    """Of all kinds; a share of `leaving` of the clients does not wait for the end."""
    made: list[Ask] = []
    for k in range(count):
        chat, text = rng.random() < 0.3, f"{k}: how many clips are {rng.randrange(1000)} clips?"
        body = {
            "model": MODEL, "stream": rng.random() < 0.5, "max_tokens": rng.randint(4, 40),
            "ignore_eos": rng.random() < 0.5, "n": 2 if rng.random() < 0.05 else 1,
            **({"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}),
        }  # fmt: skip
        leaves = rng.uniform(0.0, 0.6) if rng.random() < leaving else None
        made.append(Ask(f"chaos-{k}", body, chat, leaves))
    return made


class Chaos:
    """What goes wrong, each once so many requests have ended."""

    def __init__(self, fleet: Fleet, asks: list[Ask]) -> None:
        self._fleet, self._asks, self._ended = fleet, asks, 0
        self._more = asyncio.Event()

    def heard(self, _: Ask) -> None:
        self._ended += 1
        self._more.set()

    async def _after(self, ended: int) -> None:
        while self._ended < ended:
            self._more.clear()
            await self._more.wait()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for one in (self._kill, self._stop, self._restart, self._fail, self._limit, self._lame):
                group.create_task(one())

    async def _kill(self) -> None:
        await self._after(150)
        await self._kill_streaming(self._fleet.agents[0])

    async def _kill_streaming(self, agent: Agent) -> None:
        """In the midst of a stream whose client stays: while it is stopped none can end."""
        while True:
            await until(lambda: bool(self._under_way(agent)))
            agent.send(signal.SIGSTOP)
            if await self._is_read(agent):
                break
            agent.send(signal.SIGCONT)
        await agent.restart(signal.SIGKILL)

    def _under_way(self, agent: Agent) -> list[Ask]:
        mine = (ask for ask in self._asks if ask.under_way and ask.worker == agent.name)
        return [ask for ask in mine if ask.leaves_after_s is None]

    async def _is_read(self, agent: Agent) -> bool:
        """Once all that had been sent has been read: whether a stream is not at its end."""
        read, mine = -1, [ask for ask in self._asks if ask.worker == agent.name]
        while read != (read := sum(len(text) for one in mine for text in one.texts.values())):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        return bool(self._under_way(agent))

    async def _stop(self) -> None:
        await self._after(300)
        self._fleet.agents[1].send(signal.SIGSTOP)
        await asyncio.sleep(5)
        self._fleet.agents[1].send(signal.SIGCONT)

    async def _restart(self) -> None:
        await self._after(450)
        assert await self._fleet.agents[2].restart(signal.SIGTERM) == 0

    async def _fail(self) -> None:
        await self._after(100)
        await self._ill(self._fleet.plain[0], "failing", 10, FAILED)

    async def _limit(self) -> None:
        await self._after(600)
        await self._ill(self._fleet.plain[1], "limiting", 4, LIMITED)
        await self._after(1000)
        await self._ill(self._fleet.plain[1], "hung", 5, HUNG)

    async def _ill(self, worker: PlainWorker, mood: str, lasts_s: float, fault: str) -> None:
        """For so long, and until the gateway has met with it."""
        worker.be(mood)
        await asyncio.sleep(lasts_s)
        await until(lambda: any(fault in line for line in self._fleet.gateway.lines))
        worker.be("well")

    async def _lame(self) -> None:
        """The planner's process is killed."""
        await self._after(800)
        for pid in self._fleet.solvers():
            os.kill(pid, signal.SIGKILL)


def test_every_request_has_one_end_whatever_becomes_of_the_workers() -> None:
    rng = random.Random(SEED)
    with fleet(4, 2) as running:

        def planner_has_begun() -> bool:
            asyncio.run(ask_all(running.url, requests(100, rng), 3 * CLIENTS))
            return len(running.solvers()) == 1

        eventually(planner_has_begun)
        eventually(running.is_idle)
        before, ended_before = running.at_rest(), running.outcomes()
        asks = requests(REQUESTS, rng, leaving=0.05)

        async def all_of_it() -> None:
            chaos = Chaos(running, asks)
            async with asyncio.TaskGroup() as group:
                group.create_task(chaos.run())
                group.create_task(ask_all(running.url, asks, CLIENTS, chaos.heard))

        asyncio.run(all_of_it())
        for ask in asks:
            ask.check()
        stayed = [ask for ask in asks if not ask.left]
        failed = [ask for ask in stayed if not ask.completed]
        assert len(failed) <= MOST_FAILED, failed

        eventually(running.is_idle)
        ended = running.outcomes() - ended_before
        assert ended.total() == REQUESTS
        left = REQUESTS - len(stayed)
        refused = sum(ended[name] for name in ended if name.startswith("rejected"))
        assert 0 <= ended["completed"] - (len(stayed) - len(failed)) <= left
        assert 0 <= ended["failed"] + refused - len(failed) <= left
        assert ended["cancelled"] <= left

        with suppress(AssertionError):  # which would not tell what it is
            eventually(lambda: not running.held() - before)
        assert not running.held() - before, f"it holds more than before: {running.sockets()}"
        wrong = [line for line in running.gateway.lines if re.search("Traceback|CRITICAL", line)]
        assert not wrong, wrong
        told = "\n".join(running.gateway.lines)
        happened = {fault for fault in FAULTS if fault in told}
        assert happened == FAULTS, "else the test has not tested them"
        assert any("broke off" in ask.errors[0]["message"] for ask in failed if ask.errors)


def test_a_worker_that_fails_from_the_first_request_on_is_noticed_by_hardly_a_client() -> None:
    with fleet(0, 2) as running:
        running.plain[0].be("failing")
        asks = requests(200, random.Random(SEED))
        asyncio.run(ask_all(running.url, asks, SLOTS))
        for ask in asks:
            ask.check()
        assert sum(not ask.completed for ask in asks) <= 5
        assert running.outcomes().total() == len(asks)
