"""The longest turn of the gateway's event loop while it plans, by size of the window.

python -m tests.bench.bench_stall
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass, field

from tests.router.gateway.fleet import half, random_tickets
from tests.router.gateway.test_dispatch import place_all

SIZES = ((1, 2), (16, 4), (64, 16), (200, 8), (500, 32))


@dataclass
class Pulse:
    """The longest that the event loop's thread worked between two turns of the loop.

    CPU time of the thread, so that a busy machine does not count as a stall; the longest wall time
    is kept beside it to be looked at.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    _stop: bool = field(default=False, init=False)

    async def beat(self) -> None:
        """Until it is stopped."""
        while not self._stop:
            cpu, wall = time.thread_time(), time.monotonic()
            await asyncio.sleep(0)
            self.cpu_s = max(self.cpu_s, time.thread_time() - cpu)
            self.wall_s = max(self.wall_s, time.monotonic() - wall)

    def stop(self) -> None:
        """After the turn that is under way."""
        self._stop = True


async def longest(requests: int, workers: int) -> Pulse:
    """Over five windows of that size."""
    worst = Pulse()
    for seed in range(5):
        async with half(workers, window_max_size=requests, window_max_wait_s=0.0) as made:
            await made.warm()
            pulse = Pulse()
            beating = asyncio.create_task(pulse.beat())
            await place_all(made, random_tickets(requests, seed))
            pulse.stop()
            await beating
        worst.cpu_s, worst.wall_s = max(worst.cpu_s, pulse.cpu_s), max(worst.wall_s, pulse.wall_s)
    return worst


def main() -> None:
    """Print the table."""
    gc.collect()
    gc.freeze()
    print(f"{'requests x workers':<20}{'CPU, ms':>10}{'wall, ms':>10}")
    for requests, workers in SIZES:
        pulse = asyncio.run(longest(requests, workers))
        name = f"{requests} x {workers}"
        print(f"{name:<20}{pulse.cpu_s * 1e3:>10.1f}{pulse.wall_s * 1e3:>10.1f}")


if __name__ == "__main__":
    main()
