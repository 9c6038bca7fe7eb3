"""One run: fresh agents, a fresh router before them, one situation's requests, and what came."""

from __future__ import annotations

import asyncio
import os
import platform
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from tests.bench.bench_dashboard import cpu_s
from tests.bench.peers.client import Answer, replay
from tests.bench.peers.routers import ROUTERS, started
from tests.bench.peers.traffic import MAX_MODEL_LEN, SITUATIONS, Ask, Setting
from tests.helpers import Process, write_lengths

# Every engine mixes prompts into decode rounds, as real ones do: routers are compared, not engines.
POLICY = "mixed"
# The client is late beyond what a real one would be; engines make up for as much.
MOST_LAG_S = 0.1
# Of many that are due at once each takes its time to be sent.
SENDING_S = 0.003
# Below this share of idle time processes wait for each other, and times are the machine's.
LEAST_IDLE = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one run.

    Attributes:
        told: when, on what machine, of which version of the router; for people.
        idle: share of the machine's CPU time that nobody used.
        router_cpu_s: CPU seconds of the router and its children.
        slow_agents: how many engines could not keep their pace.
    """

    situation: str
    router: str
    setting: Setting
    told: tuple[str, str, str]
    answers: list[Answer]
    idle: float
    router_cpu_s: float
    slow_agents: int

    @property
    def marks(self) -> list[str]:
        """Why its figures are not to be trusted; empty if they are."""
        lags = sorted(answer.sent_s - answer.due_s for answer in self.answers)
        at_once = max(Counter(answer.due_s for answer in self.answers).values())
        most_s = MOST_LAG_S + SENDING_S * at_once
        found = {
            f"{self.slow_agents} engines were too slow": self.slow_agents > 0,
            "the client was late": lags[int(0.99 * len(lags))] > most_s,
            f"only {self.idle:.0%} of the machine was idle": self.idle < LEAST_IDLE,
        }
        return [mark for mark, so in found.items() if so]


def run(situation: str, router: str, setting: Setting, asks: Sequence[Ask]) -> Run:
    """Start everything, send everything, stop everything."""
    speeds = SITUATIONS[situation].speeds
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        agents = stack.enter_context(fleet(setting, speeds, asks, folder))
        urls = [agent.wait_for(r"listening url=(\S+)") for agent in agents]
        url, pid = stack.enter_context(started(ROUTERS[router], urls, speeds, folder))
        before, used = machine(), cpu_s_of_all(pid)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            answers = runner.run(replay(url, setting.hardware.model, asks))
        after, router_cpu_s = machine(), cpu_s_of_all(pid) - used
        slow = sum(any("too slow" in line for line in agent.lines) for agent in agents)
    idle = (after[0] - before[0]) / max(1, after[1] - before[1])
    told = f"{date.today():%-d %B %Y}", hardware(), ROUTERS[router].version
    return Run(situation, router, setting, told, answers, idle, router_cpu_s, slow)


@contextmanager
def fleet(
    setting: Setting, speeds: Sequence[float], asks: Sequence[Ask], folder: Path
) -> Iterator[list[Process]]:
    """Agents on emulated engines that know how long each answer will be."""
    rows = [(ask.text, ask.output_tokens) for ask in asks]
    lengths = write_lengths(folder / "lengths.jsonl", rows)
    profile = setting.hardware
    common = ["agent", "--port", "0", "--cost", setting.profile, "--model", profile.model]
    common += ["--slots", str(setting.slots), "--kv-tokens", str(profile.kv_tokens)]
    common += ["--max-model-len", str(MAX_MODEL_LEN), "--policy", POLICY, "--lengths", str(lengths)]
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Process(*common, "--name", f"w{k}", "--speed", str(speed * setting.speed))
            )
            for k, speed in enumerate(speeds)
        ]


def hardware() -> str:
    """Cores and what they are called."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", text)
    return f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}"


def machine() -> tuple[int, int]:
    """Ticks that its cores were idle, and all ticks."""
    with Path("/proc/stat").open(encoding="utf-8") as lines:
        ticks = [int(word) for word in next(lines).split()[1:]]
    return ticks[3] + ticks[4], sum(ticks[:8])


def cpu_s_of_all(pid: int) -> float:
    """CPU seconds of a process and all below it that still run."""
    try:
        children = Path(f"/proc/{pid}/task").glob("*/children")
        below = [int(child) for path in children for child in path.read_text().split()]
        return cpu_s(pid) + sum(map(cpu_s_of_all, below))
    except FileNotFoundError:
        return 0.0
