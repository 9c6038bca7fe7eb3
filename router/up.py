"""`makespan up`: a gateway and its agents as processes of this machine, under one supervisor.

The supervisor opens every listening socket itself and hands it down, so nothing races for a port
and an agent that is started again keeps its address. Ctrl-C stops the gateway first, which finishes
what it has, and then the agents; a child whose supervisor is gone stops by itself.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import orjson

from router.agent.engines.emulated.lengths import read_lengths
from router.children import Child, flags, stop_event
from router.http.sockets import listen
from router.settings.agent import AgentTuning
from router.settings.base import Settings
from router.settings.gateway import GatewayTuning
from router.settings.up import UpSettings

log = logging.getLogger(__name__)

START_S = 60.0  # from nothing to ready, a guard; a busy machine takes some seconds
LOAD_S = 900.0  # the same, where a model must be loaded
ANSWER_S = 2.0  # for a gateway that has just started to tell of its workers, or it is asked again
RESTART_S = 1.0  # before a dead agent is started again, so that a broken one does not spin
LOOPBACK = "127.0.0.1"  # the embedded agents are the gateway's alone


class UpFailed(Exception):
    """The fleet did not start, or its gateway died."""


def up(settings: UpSettings) -> None:
    """Run the fleet until it is told to stop.

    Raises:
        BadSettings: if a port is taken, or the file of lengths is wrong.
    """
    if settings.lengths is not None:
        read_lengths(settings.lengths)  # better refused here than by every agent in turn
    try:
        asyncio.run(_run(settings))
    except UpFailed as error:
        sys.exit(f"makespan up: {error}")


async def _run(settings: UpSettings) -> None:
    agents = [_agent(settings, k) for k in range(settings.agents)]
    gateway = _gateway(settings, [agent.url for agent in agents])
    stop = stop_event()
    try:
        for child in (*agents, gateway):
            child.start()
        ready = asyncio.create_task(_ready(settings, gateway, agents))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            print(_greeting(settings, ready.result(), gateway, agents), flush=True)
        ready.cancel()
        while not stop.is_set():
            await _supervise(gateway, agents, stop)
    finally:
        await gateway.stop(settings.drain_s)
        await asyncio.gather(*(agent.stop(settings.drain_s) for agent in agents))


async def _supervise(gateway: Child, agents: Sequence[Child], stop: asyncio.Event) -> None:
    if gateway.ended_well():  # somebody has told it to stop, and it has finished up
        stop.set()
        return
    if not gateway.running():
        raise UpFailed("the gateway has died; see its last lines above")
    for agent in agents:
        if not agent.running():
            log.warning("agent died; starting it again", extra={"child": agent.name})
            agent.start()
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), RESTART_S)


async def _ready(settings: UpSettings, gateway: Child, agents: Sequence[Child]) -> str:
    """Wait until the gateway answers and sees all its agents; the model that they serve."""
    timeout_s = START_S if settings.engine == "emulated" else LOAD_S
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not gateway.running():
            raise UpFailed("the gateway did not start; see its last lines above")
        for agent in agents:
            if agent.refused():
                raise UpFailed(f"{agent.name} did not start; see its last lines above")
        with suppress(HTTPException, OSError):
            seen = _seen_by_agents if settings.keys else _seen_by_gateway
            model = await asyncio.to_thread(seen, gateway.url, [agent.url for agent in agents])
            if model is not None:
                return model
        await asyncio.sleep(0.05)
    raise UpFailed(f"not all agents were up within {timeout_s:.0f} s; see the lines above")


def _seen_by_gateway(gateway: str, agents: Sequence[str]) -> str | None:
    """The model, once the gateway sees all agents.

    Raises:
        HTTPException, OSError: if it does not answer.
    """
    workers = orjson.loads(_page(gateway, "/makespan/v1/workers")[1])["workers"]
    if sum(worker["up"] for worker in workers) < len(agents):
        return None
    return str(workers[0]["agent"]["model"])


def _seen_by_agents(gateway: str, agents: Sequence[str]) -> str | None:
    """The same of one that wants a key: once it sees a worker, and all agents serve.

    Raises:
        HTTPException, OSError: if one does not answer.
    """
    healthy = [_page(agent, "/health")[0] == 200 for agent in agents]
    if _page(gateway, "/ready")[0] != 200 or not all(healthy):
        return None
    return str(orjson.loads(_page(agents[0], "/v1/models")[1])["data"][0]["id"])


def _page(url: str, path: str) -> tuple[int, bytes]:
    """Status and body; by what is loaded in no time.

    Raises:
        HTTPException, OSError: if it does not answer.
    """
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_S)) as client:
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, answer.read()


def _arguments(settings: UpSettings, *kinds: type[Settings]) -> list[str]:
    """The flags by which a child gets the settings that it shares with `up`.

    Only what was given, or what has another default here: a child tells apart what it was told from
    what it may fill in itself.
    """
    own = UpSettings.model_fields
    names = {
        name
        for kind in kinds
        for name, field in kind.model_fields.items()
        if name in settings.model_fields_set or own[name].default != field.default
    }
    return flags(settings, names)


def agent_arguments(settings: UpSettings, index: int) -> list[str]:
    """The command line of one agent."""
    if settings.kv_events is not None:
        host, _, port = settings.kv_events.rpartition(":")
        own = f"{host}:{int(port) and int(port) + index}"
        settings = settings.model_copy(update={"kv_events": own})
    arguments = ["agent", *_arguments(settings, AgentTuning), "--name", _name(index)]
    if settings.engine == "emulated":
        arguments += ["--speed", str(settings.speed[index % len(settings.speed)])]
    return arguments


def _name(index: int) -> str:
    return f"agent-{index}"


def _agent(settings: UpSettings, index: int) -> Child:
    port = settings.agent_port + index if settings.agent_port else 0
    return Child(_name(index), listen(LOOPBACK, port), agent_arguments(settings, index))


def _gateway(settings: UpSettings, workers: Sequence[str]) -> Child:
    arguments = ["gateway", *_arguments(settings, GatewayTuning), "--worker", ",".join(workers)]
    return Child("gateway", listen(settings.host, settings.port), arguments)


def _greeting(settings: UpSettings, model: str, gateway: Child, agents: Sequence[Child]) -> str:
    body = orjson.dumps(
        {
            "model": model,
            "prompt": "Natalia sold 48 clips in April and half as many in May. How many in all?",
            "max_tokens": 32,
        }
    ).decode()
    engines = f"that run {settings.model}\nwith {settings.engine}."
    if settings.engine == "emulated":
        speeds = ", ".join(f"{speed:g}" for speed in settings.speed)
        engines = "whose engines are emulated:\n"
        engines += f"no model, but the time that {settings.cost} takes, {speeds} times as fast."
    key = " -H 'authorization: Bearer KEY'" if settings.keys else ""
    workers = "\n".join(f"  {agent.name:<10} {agent.url}/metrics" for agent in agents)
    return f"""
Makespan is running at {gateway.url}, with {len(agents)} workers {engines}

  curl {gateway.url}/v1/completions -H 'content-type: application/json'{key} -d '{body}'

Dashboard  {gateway.url}/
Plan       {gateway.url}/makespan/v1/plans/latest
Workers    {gateway.url}/makespan/v1/workers
Metrics    {gateway.url}/metrics
{workers}
Stop it with Ctrl-C.
"""
