"""vLLM under its own scheduler and under ours, in one process, on one thread, with a tiny model.

    .venv-vllm/bin/python -m tests.bench.bench_vllm [REPETITIONS] [POLICY ...]

Runs of the two take turns; figures are medians. CPU time is the process's. Burst: all requests come
at once; stream: one comes every so many steps of the engine.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.engines.vllm_runs import Bench, Load, Run

LOADS = {
    "prefill-heavy burst": Load.draw((128, 384), (4, 32)),
    "balanced burst": Load.draw((16, 384), (8, 160)),
    "decode-heavy burst": Load.draw((16, 64), (64, 256), count=40),
    "balanced stream": Load.draw((16, 384), (8, 160), every=6.0),
}
LEAST_RATIO = 0.97


def describe(run: Run) -> str:
    """Iterations by kind."""
    kinds = "/".join(str(run.iterations[kind]) for kind in ("decode", "prefill", "mixed", "empty"))
    return f"{sum(run.iterations.values())} ({kinds})"


def compare(bench: Bench, load: Load, policy: str, repetitions: int) -> tuple[list[Run], list[Run]]:
    """Runs of vLLM's own scheduler and of ours, by turns, after one of each that does not count.

    Each side keeps its scheduler, so that what ours learns from its iterations is not lost.
    """
    sides: tuple[list[Run], list[Run]] = [], []
    schedulers = [bench.make_scheduler(None), bench.make_scheduler(policy)]
    for repetition in range(repetitions + 1):
        for runs, scheduler in zip(sides, schedulers, strict=True):
            run = bench.play(load, scheduler)
            if repetition:
                runs.append(run)
    return sides


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    policies = sys.argv[2:] or ["adaptive"]
    worst = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        print(f"Medians of {repetitions}; iterations are (decode/prefill/mixed/empty)")
        print(f"{'load':<21}{'scheduler':<15}{'iterations':<26}{'CPU ms/token':>13}{'ratio':>7}")
        for name, load in LOADS.items():
            for policy in policies:
                own, ours = compare(bench, load, policy, repetitions)
                speeds = [median(run.tokens_per_cpu_s for run in runs) for runs in (own, ours)]
                ratio = speeds[1] / speeds[0]
                worst = min(worst, ratio if policy == "adaptive" else worst)
                rows = (
                    (own, "vLLM's own", speeds[0], ""),
                    (ours, policy, speeds[1], f"{ratio:.2f}"),
                )
                for runs, who, speed, told in rows:
                    what = describe(runs[-1])
                    print(
                        f"{name:<21}{who:<15}{what:<26}{1000 / speed:>13.3f}{told:>7}", flush=True
                    )
    if worst < LEAST_RATIO:
        sys.exit(f"The default policy came to {worst:.2f} of vLLM's own: below {LEAST_RATIO}.")


if __name__ == "__main__":
    main()
