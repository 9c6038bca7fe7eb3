"""What the window adds at low load: the live gateway's own time before it sends a request.

python -m tests.bench.bench_window
"""

from __future__ import annotations

import time
from statistics import quantiles

from tests import http
from tests.helpers import Fleet

REQUESTS = 400
# Seconds between requests: far below what two agents of 200 slots can do.
PAUSE_S = 0.01
GOAL_MS = 1.0


def overheads(fleet: Fleet) -> list[float]:
    """Milliseconds from having each request to sending it, one request after the other."""
    body = {"model": "llama-65b", "prompt": "How many clips?", "max_tokens": 2}
    found: list[float] = []
    with http.Client(base_url=fleet.url, timeout=30) as client:
        for k in range(REQUESTS):
            answer = client.post("/v1/completions", json={**body, "prompt": f"How many? {k}"})
            found.append(float(answer.headers["x-makespan-overhead-ms"]))
            time.sleep(PAUSE_S)
    return found


def main() -> None:
    """Print the percentiles, and whether the goal is met."""
    with Fleet("--speed", "100") as fleet:
        overheads(fleet)  # the first ones pay for warming up
        cuts = quantiles(overheads(fleet), n=100)
    print(f"x-makespan-overhead-ms at low load: p50 {cuts[49]:.2f}, p99 {cuts[98]:.2f}")
    print(f"the median is {'below' if cuts[49] < GOAL_MS else 'ABOVE'} {GOAL_MS:g} ms")


if __name__ == "__main__":
    main()
