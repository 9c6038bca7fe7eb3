"""Closing the loop: a live engine, and the simulator with the profile that calibration made of it.

python -m tests.bench.bench_loop [--engine transformers [--model PATH]]

The same seeded requests, all at once and as a Poisson process, run through the agent's loop on the
wall clock and through the simulator's worker; both makespans must agree within `CLOSE`. Output
lengths are known to both, so that only times are compared. As machines slow down and recover, each
repeat calibrates and runs everything: the profile is fitted to the samples of all, and the median
run counts. It takes some minutes; let nothing else run meanwhile. Without a model's folder a tiny
one of random weights is made.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tqdm import tqdm

from router.agent.engines.base import Engine
from router.agent.engines.emulated.engine import EmulatedEngine
from router.agent.loop import EngineLoop, EngineRequest
from router.http.schemas import read
from router.lab.calibrate import measure
from router.lab.calibration.probe_engine import LEAST_ID, MOST_ID, EngineProbe
from router.lab.calibration.shapes import Shapes
from router.observe.metrics import AgentMetrics
from router.settings.agent import AgentSettings
from router.settings.commands import load
from solver.batching.policies import POLICIES
from solver.cost.calibration import Sample, calibrate
from solver.cost.model import CostModel
from solver.cost.online import OnlineFit
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from solver.sim.workload import all_at_once, poisson

CLOSE = 0.1
SLOTS, KV_TOKENS, MAX_MODEL_LEN = 16, 16_384, 1024
SETTING = WorkerSetting(SLOTS, KV_TOKENS, prefill_budget=MAX_MODEL_LEN)
# About a small model's on one core, and slow enough for the timers of a busy machine.
EMULATED = CostModel(0.004, 0.00012, 0.004, 0.0006, 1e-7, 0.006, 0.00012, 0.0006)


def open_engine(name: str, model: str) -> Engine:
    """The engine of that name."""
    if name == "emulated":
        return EmulatedEngine(EMULATED, {}, 0)
    from router.agent.engines.transformers.loading import resolve

    sizes = ["--slots", str(SLOTS + 1), "--kv-tokens", str(KV_TOKENS)]  # a probe joins a full batch
    sizes += ["--max-model-len", str(MAX_MODEL_LEN), "--prefill-budget", str(MAX_MODEL_LEN)]
    sizes += ["--threads", "1"]
    _, opened = resolve(load(AgentSettings, ["--engine", "transformers", "--model", model, *sizes]))
    return opened


def trace(count: int, rate: float | None, seed: int) -> list[Request]:
    """Prompts of 16 to 384 tokens, outputs of 8 to 160; all at once, or `rate` a second."""
    rng = random.Random(seed)
    found = [Request(str(k), rng.randint(16, 384), rng.randint(8, 160)) for k in range(count)]
    return all_at_once(found) if rate is None else poisson(found, rate, rng)


def simulated_s(requests: Sequence[Request], cost: CostModel, policy: str) -> float:
    """Makespan of one worker in the simulator."""
    worker = Worker("w0", cost, SETTING, POLICIES[policy]())
    arriving, now = list(enumerate(requests))[::-1], 0.0
    while arriving or worker.in_flight:
        now = min(worker.stage_end_s, arriving[-1][1].arrival_s if arriving else inf)
        if worker.stage_end_s <= now:
            worker.finish()
        while arriving and arriving[-1][1].arrival_s <= now:
            number, request = arriving.pop()
            worker.submit(request, number, float(request.output_tokens), now)
        worker.start(now)
    return now


async def live_s(
    requests: Sequence[Request], cost: CostModel, policy: str, engine: Engine, model: str
) -> float:
    """Makespan of the agent's loop on the wall clock."""
    batcher = Worker("w0", cost, SETTING, POLICIES[policy]()).batcher
    loop = EngineLoop(batcher, engine, AgentMetrics(), OnlineFit(cost))
    running = asyncio.create_task(loop.run())
    start, rng = time.monotonic(), random.Random(7)

    async def one(request: Request) -> None:
        await asyncio.sleep(max(0.0, start + request.arrival_s - time.monotonic()))
        most = request.output_tokens
        body = {
            "model": model,
            "prompt": rng.choices(range(LEAST_ID, MOST_ID), k=request.prompt_tokens),
            "max_tokens": most,
            "ignore_eos": True,
            "temperature": 0,
        }
        answers = engine.answers(read(body, chat=False), body, lambda _: most)
        job = EngineRequest(answers, request.prompt_tokens)
        loop.submit(job, float(most), time.monotonic())
        while not any(piece.token.finish_reason for piece in await job.take()):
            pass

    await asyncio.gather(*map(one, requests))
    took = time.monotonic() - start
    running.cancel()
    return took


async def compare(arguments: argparse.Namespace) -> bool:
    """Print the table; whether all is close."""
    engine = open_engine(arguments.engine, arguments.model)
    shapes = Shapes(SLOTS, KV_TOKENS, MAX_MODEL_LEN, arguments.rounds)
    cases = [(rate, p) for rate in (None, arguments.rate) for p in arguments.policies.split(",")]
    took: dict[tuple[float | None, str], list[float]] = {case: [] for case in cases}
    samples: list[Sample] = []
    for seed in range(arguments.repeats):
        samples += await measure(EngineProbe(engine, arguments.model, shapes, seed))
        cost = calibrate(samples).cost
        for rate, policy in tqdm(cases, f"round {seed + 1} of {arguments.repeats}", disable=None):
            requests = trace(arguments.requests, rate, seed=1)
            live = await live_s(requests, cost, policy, engine, arguments.model)
            took[rate, policy].append(live)
    found = calibrate(samples)
    for action, error in found.errors.items():
        print(f"{action.value:<8} errors: median {error.median:.1%}, p95 {error.p95:.1%}")
    print(f"{'arrivals':<14}{'policy':<15}{'live, s':>9}{'simulated, s':>14}{'ratio':>8}")
    close = True
    for rate, policy in cases:
        live = median(took[rate, policy])
        said = simulated_s(trace(arguments.requests, rate, seed=1), found.cost, policy)
        name = "all at once" if rate is None else f"poisson {rate:g}"
        print(f"{name:<14}{policy:<15}{live:>9.2f}{said:>14.2f}{live / said:>8.3f}")
        close = close and abs(live / said - 1) <= CLOSE
    return close


def main() -> None:
    """Exits with 1 if a makespan is off by more than `CLOSE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("emulated", "transformers"), default="emulated")
    parser.add_argument("--model", default="")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--policies", default="prefill-first,mixed,adaptive")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        if not arguments.model and arguments.engine == "transformers":
            from tests.engines.tiny_model import make_tiny_model

            make_tiny_model(Path(folder))
            arguments.model = folder
        close = asyncio.run(compare(arguments))
    if not close:
        print(f"a makespan is off by more than {CLOSE:.0%}")
        sys.exit(1)


if __name__ == "__main__":
    main()
