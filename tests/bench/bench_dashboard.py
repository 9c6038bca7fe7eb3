"""What it costs a gateway and its agents to be looked at: one load with no, one and four viewers.

    python -m tests.bench.bench_dashboard [--agents N] [--slots J] [--speed X] [--seconds S]

Half of all slots are busy with streams that last throughout. How many read the dashboard's events,
each with the single slots of as many workers as one may see, changes from turn to turn. Told is
CPU time, in percent of one core, as the median of the turns of a kind, what that is more than with
no viewer in the same round, and what a viewer is sent.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from router.gateway.dashboard.events import MOST_SLOTS
from tests import http
from tests.e2e.load import Ask, sending
from tests.helpers import Fleet

TURNS = 4
VIEWERS = (0, 1, 4)
BEGIN_S = 15.0  # until all streams have begun
SETTLE_S = 1.5  # streams of a turn's viewers have begun, or those of the turn before have ended
ROUND_MS = 55  # of the emulated engine at its own speed: so many tokens last a given time
TICKS = os.sysconf("SC_CLK_TCK")


class Viewer:
    """Reads the events in a thread of its own, and counts bytes."""

    def __init__(self, url: str) -> None:
        self.bytes = 0
        self._url, self._done = url, threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        query = {"slots": [f"agent-{k}" for k in range(MOST_SLOTS)]}
        url = self._url + "/makespan/v1/events"
        with http.stream("GET", url, params=query, timeout=30) as answer:
            for part in answer.iter_raw():
                self.bytes += len(part)
                if self._done.is_set():
                    return

    def leave(self) -> None:
        self._done.set()
        self._thread.join()


@contextmanager
def viewed(url: str, count: int) -> Iterator[list[Viewer]]:
    """So many viewers look on."""
    viewers = [Viewer(url) for _ in range(count)]
    time.sleep(SETTLE_S)
    yield viewers
    for viewer in viewers:
        viewer.leave()


def processes(fleet: Fleet) -> list[int]:
    """The gateway's process, then the agents'."""
    pid = fleet.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sorted(map(int, children), key=lambda child: not is_gateway(child))


def is_gateway(pid: int) -> bool:
    return b"\0gateway\0" in Path(f"/proc/{pid}/cmdline").read_bytes()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def order(k: int) -> tuple[int, ...]:
    """Forwards and backwards in turns, so that what drifts meets all kinds alike."""
    return VIEWERS if k % 2 == 0 else VIEWERS[::-1]


def turn(fleet: Fleet, pids: list[int], seconds: float, viewers: int) -> tuple[float, float, float]:
    """Shares of a core, of the gateway and of an agent, and bytes a second to a viewer."""
    with viewed(fleet.url, viewers) as looking:
        sent = sum(viewer.bytes for viewer in looking)
        before, start = [cpu_s(pid) for pid in pids], time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - start
        spent = [(cpu_s(pid) - earlier) / took for pid, earlier in zip(pids, before, strict=True)]
        sent = sum(viewer.bytes for viewer in looking) - sent
    return spent[0], statistics.mean(spent[1:]), sent / took / max(1, viewers)


def main(agents: int, slots: int, speed: float, seconds: float) -> None:
    lasts_s = TURNS * len(VIEWERS) * (seconds + 2 * SETTLE_S) + BEGIN_S + 10
    body = {
        "model": "llama-65b", "prompt": "word " * 40, "stream": True, "ignore_eos": True,
        "max_tokens": int(lasts_s * 1000 / ROUND_MS * speed),
    }  # fmt: skip
    flags = ("--agents", str(agents), "--slots", str(slots), "--speed", str(speed))
    with Fleet(*flags, "--max-model-len", "65536") as fleet:
        pids = processes(fleet)
        asks = [Ask(f"long-{k}", body) for k in range(agents * slots // 2)]
        with sending(fleet.url, asks):
            time.sleep(BEGIN_S)
            rounds = [
                {count: turn(fleet, pids, seconds, count) for count in order(k)}
                for k in range(TURNS)
            ]
    for count in VIEWERS:
        gateway, agent, sent = (
            statistics.median(column)
            for column in zip(*(found[count] for found in rounds), strict=True)
        )
        more = statistics.median(found[count][0] - found[0][0] for found in rounds)
        print(
            f"{count} viewers: gateway {100 * gateway:5.1f} % ({100 * more:+.1f}), "
            f"an agent {100 * agent:4.1f} %, {sent / 1000:5.1f} kB/s each"
        )


if __name__ == "__main__":
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    main(
        int(given.get("--agents", 64)),
        int(given.get("--slots", 16)),
        float(given.get("--speed", 0.1)),
        float(given.get("--seconds", 5)),
    )
