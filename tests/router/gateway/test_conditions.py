"""What workers say of themselves is logged when it is new, and fills no disk."""

from __future__ import annotations

import pytest

from router.gateway.fleet.conditions import MOST_REASONS
from tests.router.gateway.fleet import half


async def test_a_worker_that_says_something_else_each_time_writes_few_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with half(2) as made:
        worker, other = made.workers
        conditions = made.workers.conditions
        caplog.clear()
        with caplog.at_level("INFO"):
            for k in range(200):
                conditions.busy(worker, f"full {k}", 60.0, trial=False)
                conditions.served(worker, trial=True)
            for k in range(200):
                conditions.lost(worker, f"gone {k}")
            conditions.lost(other, "gone, too")
    whys = [getattr(one, "why", None) for one in caplog.records]
    assert whys[:2] == ["full 0", "full 1"]
    assert {"gone 0", "gone 1", "gone, too"} <= set(whys)
    assert len(whys) <= 2 * MOST_REASONS + 2
