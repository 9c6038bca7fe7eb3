"""``makespan batch plan``: how long a batch will take on how many workers, before it is sent."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import orjson

from router.gateway.batches.searching import BATCHES
from router.lab.packing.batch_file import BatchFile, Label, read_batch
from router.lab.simulate import progress
from router.settings.batch_plan import BatchPlanSettings
from router.settings.hardware import hardware
from router.solver_process import SolverProcess
from solver.lengths.predictor import Features, LengthPredictor
from solver.routing.backlog import Backlog
from solver.routing.bulk_plan import Asked, BulkPlan, Outlook, plan_of
from solver.routing.kinds import Expected, Kind, Length
from solver.routing.problem import WorkerView

BAR = 32


@dataclass(frozen=True, slots=True)
class _Line:
    kind: Kind


@dataclass(frozen=True, slots=True)
class Row:
    """On so many workers: when it is done, and what that takes; `price` None: nobody has said."""

    workers: int
    outlook: Outlook
    price: float | None

    @property
    def worker_hours(self) -> float:
        """Hours of all workers until it is done."""
        return self.workers * self.outlook.finish_s / 3600

    def to_json(self) -> dict[str, Any]:
        """The fields that other programs read."""
        out: dict[str, Any] = {
            "workers": self.workers,
            "finish_s": self.outlook.finish_s,
            "lower_bound_s": self.outlook.bound_s,
            "gap_ratio": self.outlook.gap_ratio,
            "worker_hours": self.worker_hours,
        }
        if self.price is not None:
            out["price"] = self.price
        return out


def batch_plan(settings: BatchPlanSettings) -> None:
    """Read the file, plan it for each number of workers, and print.

    Raises:
        BadSettings: if the file is wrong.
    """
    size = settings.file.stat().st_size if settings.file.is_file() else 0
    with progress(size, "bytes") as advanced:
        found = read_batch(settings.file, lambda at: advanced(at) if at else None)
    if found.left_out:
        print(f"{settings.file}: {found.left_out:,} left out, the first: "
              f"{found.first_left_out}", file=sys.stderr)  # fmt: skip
    rows = asyncio.run(_rows(settings, found))
    print(orjson.dumps(_json(settings, found, rows)).decode() if settings.json else
          _table(settings, found, rows))  # fmt: skip


async def _rows(settings: BatchPlanSettings, found: BatchFile) -> list[Row]:
    expected, rows = lengths(settings.output_tokens), list[Row]()
    solver = SolverProcess(BATCHES)
    if settings.deadline:
        solver.start()
        await solver.warm()
    try:
        with progress(len(settings.workers), "plans") as advanced:
            for count in settings.workers:
                outlook = await _outlook(_asked(settings, found, count, expected), solver, settings)
                price = settings.price_per_hour
                hours = count * outlook.finish_s / 3600
                rows.append(Row(count, outlook, None if price is None else price * hours))
                advanced(len(rows))
    finally:
        if settings.deadline:
            solver.stop()
    return rows


def _asked(settings: BatchPlanSettings, found: BatchFile, count: int, expected: Expected) -> Asked:
    """All lines, on so many workers."""
    backlog: Backlog[_Line] = Backlog()
    backlog.add([_Line(kind) for kind in found.kinds.elements()])
    asked = backlog.ask(views(settings, count), expected, 0.0)
    assert asked is not None  # there are lines, and workers
    return asked


async def _outlook(
    asked: Asked, solver: SolverProcess[Asked, BulkPlan], settings: BatchPlanSettings
) -> Outlook:
    best: BulkPlan | None = None
    if settings.deadline:
        best = await solver.improve(asked, None, time.monotonic() + settings.deadline)
    return (best or plan_of(asked)).whole


def views(settings: BatchPlanSettings, count: int) -> list[WorkerView]:
    """So many workers with nothing to do."""
    known = hardware(settings.cost)
    slots = settings.slots or known.slots
    return [
        WorkerView(known.cost.scaled(1 / speed), slots, 0, 0.0, 0.0, None)
        for speed in islice(cycle(settings.speed), count)
    ]


def lengths(mean: float | None) -> Expected:
    """Output tokens of a kind; `mean` of those without a limit, if that is known."""
    predictor = LengthPredictor()

    def expected(kind: Kind) -> Length:
        label = kind.label
        assert isinstance(label, Label)
        if mean is not None:
            return Length(min(mean, label.max_tokens or mean))
        features = Features(label.model, kind.prompt_tokens, label.max_tokens or None)
        found = predictor.predict(features)
        return Length(found.mean, found.overrun)

    return expected


def _json(settings: BatchPlanSettings, found: BatchFile, rows: Sequence[Row]) -> dict[str, Any]:
    expected = lengths(settings.output_tokens)
    output = sum(expected(kind).tokens * n for kind, n in found.kinds.items())
    return {
        "lines": found.lines,
        "left_out": found.left_out,
        "prompt_tokens": sum(kind.prompt_tokens * n for kind, n in found.kinds.items()),
        "output_tokens": output,
        "plans": [row.to_json() for row in rows],
    }


def _table(settings: BatchPlanSettings, found: BatchFile, rows: Sequence[Row]) -> str:
    """For people."""
    told = _json(settings, found, rows)
    shared = sum(n for kind, n in found.kinds.items() if kind.prefix is not None)
    lines = [
        f"{found.lines:,} lines of {settings.file.name}: {told['prompt_tokens']:,} prompt tokens, "
        f"{told['output_tokens']:,.0f} expected of answers; {shared:,} lines begin like others",
        "",
        "workers       done   lower bound     gap  worker-hours"
        + ("" if settings.price_per_hour is None else "       price"),
    ]
    longest = max(row.outlook.finish_s for row in rows)
    for row in rows:
        price = "" if row.price is None else f"{row.price:>12,.2f}"
        bar = "█" * max(1, round(BAR * row.outlook.finish_s / longest))
        lines.append(
            f"{row.workers:>7}{duration(row.outlook.finish_s):>11}"
            f"{duration(row.outlook.bound_s):>14}{row.outlook.gap_ratio:>8.1%}"
            f"{row.worker_hours:>14.2f}{price}  {bar}"
        )
    lines += ["", "No schedule is done before the bound, if answers are as long as expected."]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """In words that people use."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
