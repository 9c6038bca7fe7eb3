"""The frames of all processes of a gateway as those of one; see `frames` for what is in them.

Counts add up, lists are the latest of all, the latest plan is the latest of all; how workers are,
and what their slots do, is as the process sees it that is looked at.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from router.gateway.dashboard.frames import MOST_PLANS, MOST_SHOWN, MOST_TENANTS, Frame
from router.gateway.dashboard.served import points


def merged_fleet(own: Frame, others: Sequence[Frame]) -> Frame:
    """Of `fleet` frames."""
    frames = [own, *others]
    in_flight = Counter[str]()
    for frame in frames:
        in_flight.update({worker["url"]: worker["in_flight"] for worker in frame["workers"]})
    plans = [frame["plan"] for frame in frames if frame["plan"] is not None]
    return own | {
        "running": sum(frame["running"] for frame in frames),
        "unsent": sum(frame["unsent"] for frame in frames),
        "outcomes": _sum([frame["outcomes"] for frame in frames]),
        "targets": _sum([frame["targets"] for frame in frames]),
        "plan": max(plans, key=lambda plan: float(plan["at"]), default=None),
        "workers": [one | {"in_flight": in_flight[one["url"]]} for one in own["workers"]],
    }


def merged_lists(own: Frame, others: Sequence[Frame]) -> Frame:
    """Of `lists` frames; their bins become points."""
    frames = [own, *others]
    tenants: dict[str, list[Frame]] = {}
    for row in (row for frame in frames for row in frame["tenants"]):
        tenants.setdefault(row["tenant"], []).append(
            {name: value for name, value in row.items() if name != "tenant"}
        )
    rows: list[Frame] = [{"tenant": name, **_sum(parts)} for name, parts in tenants.items()]
    return {
        "plans": _latest(frames, "plans", lambda plan: plan["at"], MOST_PLANS),
        "requests": _latest(frames, "requests", lambda one: one["received_at"], MOST_SHOWN),
        "batches": own["batches"],  # which all processes have from the same database
        "tenants": sorted(rows, key=_tokens, reverse=True)[:MOST_TENANTS],
        **points([frame["bins"] for frame in frames], time.time()),
    }


def _latest(
    frames: Sequence[Frame], kind: str, at: Callable[[Frame], float], most: int
) -> list[Frame]:
    rows = [row for frame in frames for row in frame[kind]]
    return sorted(rows, key=at, reverse=True)[:most]


def _tokens(row: Frame) -> int:
    return int(row["prompt_tokens"] + row["output_tokens"])


def _sum(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}
