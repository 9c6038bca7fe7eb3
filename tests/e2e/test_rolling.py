"""Every process of a fleet is replaced under load, one after the other, and no request is lost."""

from __future__ import annotations

import asyncio
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from tests.e2e.clients import Ask, ask_all
from tests.e2e.test_chaos import Agent, requests, stop_agents
from tests.helpers import Process
from tests.ports import free_ports
from tests.waiting import eventually

AGENTS, CLIENTS, SEED = 3, 16, 20261130


class Gateway(Process):
    """One that tells how each request has ended."""

    def __init__(self, agents: list[Agent]) -> None:
        workers = ",".join(agent.url for agent in agents)
        flags = ("--worker", workers, "--port", "0", "--log-level", "debug", "--drain-s", "60")
        super().__init__("gateway", *flags)
        self.url = self.wait_for(r"listening url=(\S+)")

    def times_up(self, agent: Agent) -> int:
        return sum(f"worker is up worker={agent.name} " in line for line in list(self.lines))

    def outcomes(self) -> Counter[str]:
        ended = (re.search(r"request ended outcome=(\w+)", line) for line in self.lines)
        return Counter(found[1] for found in ended if found)


class Rolling:
    """Replaces one process after the other, each once some more requests have ended."""

    def __init__(self, agents: list[Agent], gateway: Gateway, after: Callable[[], Gateway]) -> None:
        self._agents, self.gateways, self._after = agents, [gateway], after
        self._ended, self._over = 0, False

    def heard(self, _: Ask) -> None:
        self._ended += 1

    @property
    def url(self) -> str:
        """Where clients are to ask."""
        return self.gateways[-1].url

    async def run(self) -> None:
        for agent in self._agents:
            await self._goes_on()
            seen = self.gateways[-1].times_up(agent)
            assert await agent.restart(signal.SIGTERM) == 0
            await asyncio.to_thread(self._is_back, agent, seen)
        await self._goes_on()
        old = self.gateways[-1]
        self.gateways.append(await asyncio.to_thread(self._after))
        for agent in self._agents:
            await asyncio.to_thread(self._is_back, agent, 0)
        await self._goes_on()
        assert await asyncio.to_thread(old.stop) == 0
        await self._goes_on()
        self._over = True

    def asks(self, rng: random.Random, made: list[Ask]) -> Iterator[Ask]:
        """Requests until all of it is over."""
        while not self._over:
            made += requests(1, rng)
            made[-1].id = f"rolling-{len(made)}"
            yield made[-1]

    def _is_back(self, agent: Agent, seen: int) -> None:
        eventually(lambda: self.gateways[-1].times_up(agent) > seen)

    async def _goes_on(self) -> None:
        wanted = self._ended + CLIENTS
        await asyncio.to_thread(eventually, lambda: self._ended >= wanted)


def test_a_rolling_restart_of_agents_and_gateway_loses_no_accepted_request() -> None:
    with ExitStack() as stack:
        agents = [Agent(port) for port in free_ports(AGENTS)]
        stack.callback(stop_agents, agents)

        def gateway() -> Gateway:
            return stack.enter_context(Gateway(agents))

        rolling = Rolling(agents, gateway(), gateway)
        asks: list[Ask] = []
        more = rolling.asks(random.Random(SEED), asks)

        async def roll() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(rolling.run())
                group.create_task(ask_all(lambda: rolling.url, more, CLIENTS, rolling.heard))

        asyncio.run(roll())
        for ask in asks:
            ask.check()
        assert all(ask.completed for ask in asks), [ask for ask in asks if not ask.completed]
        had = Counter(ask.gateway for ask in asks)
        for one in rolling.gateways:
            one.stop()
            assert had[one.url] >= CLIENTS
            # Refused at most, once it was told to stop: then the client went on to the next.
            refused = one.outcomes()["rejected_no_capacity"]
            assert one.outcomes() - Counter(rejected_no_capacity=refused) == Counter(
                completed=had[one.url]
            )
