"""What a plan of all bulk work costs an event loop, and the process beside it.

20,000 lines of 200 kinds, of two batches, on fleets of workers with 32 slots: milliseconds of CPU
to say what is to be planned, to read the answer and to follow it, which are the loop's (or a
thread's beside it), and to plan, which is another process's; and microseconds a line that is
taken::

    python -m tests.bench.bench_bulk_loop
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from solver.cost.profiles import PROFILES
from solver.routing.backlog import Backlog
from solver.routing.bulk_plan import plan_of
from solver.routing.kinds import Kind, Length
from solver.routing.problem import WorkerView

LINES, KINDS, SLOTS, TRIES = 20_000, 200, 32, 3
FLEETS = (2, 8, 64, 256)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One that waits."""

    kind: Kind


def timed(what: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and seconds of this process's CPU."""
    start_s = time.process_time()
    found = what()
    return found, time.process_time() - start_s


def once(workers: int, *, equal: bool) -> tuple[float, ...]:
    """Seconds to ask, plan, read and follow, and a line that is taken."""
    cost = PROFILES["llama-2-70b-a100-tp4"].cost
    speeds = (1.0,) if equal else (0.5, 1.0, 2.0)
    fleet = [
        WorkerView(cost.scaled(1 / speeds[j % len(speeds)]), SLOTS, 0, 0.0, 0.0, None, room=SLOTS)
        for j in range(workers)
    ]
    kinds = [Kind(f"b{k % 2}", 50 + 7 * k, label=k % 3) for k in range(KINDS)]
    backlog: Backlog[Line] = Backlog()
    backlog.add([Line(kinds[k % KINDS]) for k in range(LINES)])
    lengths = [Length(100.0 * (k + 1), 50.0) for k in range(3)]

    def expected(kind: Kind) -> Length:
        return lengths[int(str(kind.label))]

    asked, ask_s = timed(lambda: backlog.ask(fleet, expected, 0.0))
    assert asked is not None
    plan, plan_s = timed(lambda: plan_of(asked))
    sent = pickle.dumps(plan)
    plan, read_s = timed(lambda: pickle.loads(sent))
    _, follow_s = timed(lambda: backlog.follow(plan))
    taken, take_s = timed(lambda: sum(1 for _ in backlog.take([SLOTS] * workers, fleet, 0.0)))
    return ask_s, plan_s, read_s, follow_s, take_s / max(1, taken)


def main() -> None:
    """Print the table: the best of few tries."""
    print("workers           ask    plan    read  follow, ms   a line, us")
    for workers in FLEETS:
        for equal in (True, False):
            runs = [once(workers, equal=equal) for _ in range(TRIES)]
            *parts, line_s = (min(column) for column in zip(*runs, strict=True))
            cells = "".join(f"{part * 1000:8.1f}" for part in parts)
            name = f"{workers} {'equal' if equal else 'unequal'}"
            print(f"{name:<13}{cells}{line_s * 1e6:17.0f}", flush=True)


if __name__ == "__main__":
    main()
