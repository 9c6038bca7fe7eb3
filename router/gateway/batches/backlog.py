"""What is left of all batches, for metrics: lines, and engine time as predicted; and what is old.

Output tokens of a line that waits are taken to be the mean of its batch's that have ended, or what
is predicted for its like as long as none has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from sqlalchemy import func, select

from router.gateway.batches.database import Database, StoreLost
from router.gateway.batches.removal import Removal
from router.gateway.batches.runner import Runner
from router.gateway.batches.tables import OPEN, Line, lines
from router.observe.metrics import GatewayMetrics
from solver.cost.estimators import BYTES_PER_TOKEN

log = logging.getLogger(__name__)

# It reads a row of each line that is left: of 50,000 in some ten milliseconds.
EVERY_S = 5.0
# How often what is old is looked for, at least.
CLEAN_S = 600.0


@dataclass(frozen=True, slots=True)
class Work:
    """Lines of one batch and model that are left, and their prompts' tokens.

    Attributes:
        made: output tokens of one line of it that has ended, in the mean; None: none has.
        limit: most output tokens that one of them asks for, in the mean; 0: unlimited.
    """

    model: str
    tenant: str
    requests: int
    prompt_tokens: float
    made: float | None
    limit: int


class Backlog:
    """Sets the gauges; `seconds` is the engine time of some work, by the whole fleet."""

    def __init__(
        self,
        database: Database,
        removal: Removal,
        runner: Runner,
        seconds: Callable[[Work], float],
        metrics: GatewayMetrics,
    ) -> None:
        self._database, self._removal = database, removal
        self._runner, self._seconds = runner, seconds
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled."""
        cleaned_s, clean_s = -inf, min(CLEAN_S, self._removal.kept_s or CLEAN_S)
        while True:
            try:
                await self.tell()
                if time.monotonic() - cleaned_s > clean_s:
                    cleaned_s = time.monotonic()
                    await self._removal.run()
            except StoreLost:
                log.debug("what is left of batches cannot be read now")
            except Exception:
                log.exception("what is left of batches cannot be told")
            await asyncio.sleep(EVERY_S)

    async def tell(self) -> None:
        """Look, and set them."""
        runner, metrics = self._runner, self._metrics
        states = Counter(row.status for row in runner.open.values())
        for status in OPEN:
            metrics.batches.labels(status.value).set(states[status])
        metrics.batches_late.set(runner.late())
        works = await self._left() if runner.open else []
        metrics.batch_waiting.set(sum(work.requests for work in works))
        metrics.batch_backlog.set(sum(map(self._seconds, works)))

    async def _left(self) -> list[Work]:
        asked = (
            select(
                lines.c.batch,
                lines.c.model,
                lines.c.state,
                func.count(),
                func.sum(lines.c.length),
                func.sum(lines.c.tokens),
                func.sum(lines.c.output_tokens),
            )
            .where(lines.c.batch.in_(list(self._runner.open)))
            .group_by(lines.c.batch, lines.c.model, lines.c.state)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(asked)).all()
        found: dict[tuple[str, str | None], dict[int, list[Any]]] = {}
        for name, model, state, *figures in rows:
            found.setdefault((name, model), {})[state] = figures
        works = []
        for (name, model), mine in found.items():
            batch = self._runner.open.get(name)
            left = [mine[state] for state in (Line.WAITING, Line.RUNNING) if state in mine]
            n = sum(figures[0] for figures in left)
            if not n or batch is None:
                continue
            prompt_tokens = sum(int(figures[1]) for figures in left) / BYTES_PER_TOKEN
            limit = sum(int(figures[2]) for figures in left) // n
            done = mine.get(Line.DONE)
            made = int(done[3]) / done[0] if done else None
            works.append(
                Work(model or batch.model or "", batch.tenant, n, prompt_tokens, made, limit)
            )
        return works
