"""Bulk work beside online traffic on one engine: llm-d batch gateway's benchmark, in virtual time.

Its issue 491: ten cycles of 90 s at 15 requests/s and 90 s at 1 request/s, 512 prompt tokens,
answers lognormal of 500 ± 400 tokens; three jobs of 1,000 lines, due in 30 minutes, 2 and 24 hours.
The engine is made to be as fast as theirs is alone: first tokens after 33/43/44 ms (p50/p95/p99) in
the bursts, 12 ms between tokens (gpt-oss-120b, one GPU)::

    python -m tests.bench.bench_hybrid [CYCLES | --live]

``--live`` has two cycles of 10 s and 10 s, by a real gateway before a real agent whose engine is
emulated, beside the same in virtual time, and one cycle without jobs; these do not end before.

Assumed besides: 256 sequences at once, vLLM's default, and 149,000 tokens of memory: 80 GB, of
which nine tenths hold 61 GB of weights and 73.7 kB a token (36 layers, 8 heads of 64, 16 bits).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log, sqrt

import numpy as np

from solver.arrays import FloatArray
from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel
from solver.routing.dispatchers import dispatcher
from solver.sim.bulk import WithBacklog
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from tests.bench.hybrid_live import run_live

PHASE_S, BURST, IDLE = 90.0, 15.0, 1.0  # requests/s
PROMPT, MEAN, DEVIATION, MOST = 512, 500.0, 400.0, 8192
DUE_S = (1800.0, 7200.0, 86_400.0)
LINES = 1000
LIVE_CYCLES, LIVE_PHASE_S, LIVE_JOBS_S, LIVE_LINES = 2, 10.0, 2.0, 250
QUANTILES = (50, 95, 99)
SETTING = WorkerSetting(slots=256, kv_tokens=149_000)
# A round of 88 sequences takes 11.2 ms, and a prompt 4 ms besides.
ALPHA_MS, SEQUENCE_MS, TOKEN_MS = 7.0, 0.047, 0.008
COST = CostModel.from_ms(
    {
        "alpha_p_ms": ALPHA_MS,
        "beta_p_ms": TOKEN_MS,
        "alpha_d_ms": ALPHA_MS,
        "beta_d_ms": SEQUENCE_MS,
        "alpha_m_ms": ALPHA_MS,
        "beta_mp_ms": TOKEN_MS,
        "beta_md_ms": SEQUENCE_MS,
    }
)
# What is asked of first tokens; and between tokens twice what the engine does alone.
TARGETS = Targets(0.095, 0.024)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a run: milliseconds at p50, p95 and p99, of the bursts; lines a second while
    idle; seconds until the jobs were done, each from its beginning."""

    name: str
    first_ms: FloatArray
    each_ms: FloatArray
    idle_rate: float
    done_s: Sequence[float]
    preempted: int


def answer(rng: random.Random) -> int:
    spread = log(1 + (DEVIATION / MEAN) ** 2)
    return min(MOST, max(1, round(rng.lognormvariate(log(MEAN) - spread / 2, sqrt(spread)))))


def online(cycles: int, seed: int, phase_s: float = PHASE_S) -> list[Request]:
    rng, found = random.Random(seed), list[Request]()
    for phase in range(2 * cycles):
        rate, now = IDLE if phase % 2 else BURST, phase * phase_s
        while (now := now + rng.expovariate(rate)) < (phase + 1) * phase_s:
            key = f"o{len(found)}"
            found.append(Request(key, PROMPT, answer(rng), now, wanted=TARGETS))
    return found


def jobs(
    lines: int, seed: int, priority: Priority = Priority.BULK, after_s: float = 0.0
) -> list[Request]:
    rng = random.Random(seed + 1)
    return [
        Request(
            f"{name}{k}",
            PROMPT,
            answer(rng),
            after_s,
            (),
            priority,
            due_s,
            NO_TARGETS,
            name if priority is Priority.BULK else "",
        )
        for name, due_s in zip("ABC", DUE_S, strict=True)
        for k in range(lines)
    ]


def run(
    name: str, requests: Sequence[Request], cycles: int, phase_s: float = PHASE_S, *, planned: bool
) -> Row:
    worker = Worker("w0", COST, SETTING, POLICIES["adaptive"]())
    plain = dispatcher("makespan" if planned else "least-requests", random.Random(0))
    chosen = WithBacklog(plain) if planned else plain
    fleet = Fleet(requests, [worker], chosen, length_forecaster("predicted", 0))
    fleet.run()
    rows = fleet.requests
    arrival = np.array([one.arrival_s for one in rows])
    after = np.array([max(1, one.output_tokens - 1) for one in rows])
    is_online = np.array([one.id.startswith("o") for one in rows])
    burst = is_online & (arrival % (2 * phase_s) < phase_s)
    last_s = float(fleet.end_s[~is_online].max(initial=0.0))
    last_s = min(last_s, 2 * cycles * phase_s)
    starts_s = np.arange(phase_s, last_s + phase_s, 2 * phase_s)
    idle = ~is_online & (fleet.end_s % (2 * phase_s) >= phase_s) & (fleet.end_s <= last_s)
    idle_s = float(np.clip(last_s - starts_s, 0.0, phase_s).sum())
    return Row(
        name,
        np.percentile((fleet.first_s - arrival)[burst], QUANTILES) * 1e3,
        np.percentile(((fleet.end_s - fleet.first_s) / after)[burst], QUANTILES) * 1e3,
        float(idle.sum()) / max(idle_s, 1e-9),
        [
            float(fleet.end_s[[one.id.startswith(job) for one in rows]].max())
            for job in "ABC"
            if any(one.id.startswith(job) for one in rows)
        ],
        worker.batcher.preemptions,
    )


def told(row: Row) -> str:
    first = "/".join(f"{value:.0f}" for value in row.first_ms)
    each = "/".join(f"{value:.1f}" for value in row.each_ms)
    done = ", ".join(f"{value / 60:.1f}" for value in row.done_s)
    return f"{row.name:<34}{first:>16}{each:>17}{row.idle_rate:>8.1f}  {done:<18}{row.preempted:>6}"


def live(cycles: int, lines: int) -> Iterator[Row]:
    """A short schedule, in virtual time and by processes; jobs are sent once clients have begun."""
    alone, batches = online(cycles, 1, LIVE_PHASE_S), jobs(lines, 1, after_s=LIVE_JOBS_S)
    yield run("in virtual time", [*batches, *alone], cycles, LIVE_PHASE_S, planned=True)
    yield live_row("live, online alone", online(1, 1, LIVE_PHASE_S), [], 1)
    yield live_row("live", alone, batches, cycles)


def live_row(name: str, alone: Sequence[Request], batches: Sequence[Request], cycles: int) -> Row:
    edges_s = [k * LIVE_PHASE_S for k in range(1, 2 * cycles + 1)]
    found = [[one for one in batches if one.id.startswith(job)] for job in "ABC"]
    felt, answered = run_live(alone, [own for own in found if own], edges_s, COST, SETTING)
    assert not batches or answered[-1] < len(batches), "the jobs ended before the schedule"
    burst = [own for own, one in zip(felt, alone, strict=True)
             if one.arrival_s % (2 * LIVE_PHASE_S) < LIVE_PHASE_S]  # fmt: skip
    return Row(
        name,
        np.nanpercentile([own.first_s for own in burst], QUANTILES) * 1e3,
        np.nanpercentile([own.each_s for own in burst], QUANTILES) * 1e3,
        float(sum(np.diff(answered)[::2])) / (cycles * LIVE_PHASE_S),
        (),
        0,
    )


def main() -> None:
    """Print the table."""
    title = f"{'':<34}{'first token, ms':>16}{'each, ms':>17}{'lines/s':>8}  jobs done, min"
    if sys.argv[1:] == ["--live"]:
        print(title)
        for row in live(LIVE_CYCLES, LIVE_LINES):
            print(told(row), flush=True)
        return
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    lines = LINES * cycles // 10
    alone = online(cycles, 1)
    print(f"{cycles} cycles, three jobs of {lines} lines")
    print(title)
    print(told(run("online alone", alone, cycles, planned=False)))
    print(told(run("ours", [*jobs(lines, 1), *alone], cycles, planned=True)))
    same = jobs(lines, 1, Priority.DEFAULT)
    print(told(run("all alike, sent at once", [*same, *alone], cycles, planned=False)))


if __name__ == "__main__":
    main()
