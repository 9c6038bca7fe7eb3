"""What dashboards of several processes show together."""

from __future__ import annotations

from router.gateway.dashboard.frames import MOST_SHOWN
from router.gateway.dashboard.merged import merged_fleet, merged_lists


def fleet(running: int, completed: int, plan_at: float | None) -> dict[str, object]:
    return {
        "at": 1.0,
        "running": running,
        "unsent": 2 * running,
        "outcomes": {"completed": completed} if completed else {},
        "targets": {"kept": completed, "missed": 1},
        "plan": None if plan_at is None else {"at": plan_at, "number": running},
        "workers": [{"url": "http://a:1", "up": True, "in_flight": running}],
    }


def test_counts_add_up_and_the_latest_plan_is_the_latest_of_all() -> None:
    shown = merged_fleet(fleet(1, 0, None), [fleet(2, 5, 8.0), fleet(3, 7, 9.0)])
    assert (shown["running"], shown["unsent"]) == (6, 12)
    assert shown["outcomes"] == {"completed": 12}
    assert shown["targets"] == {"kept": 12, "missed": 3}
    assert shown["plan"] == {"at": 9.0, "number": 3}
    assert shown["workers"] == [{"url": "http://a:1", "up": True, "in_flight": 6}]


def lists(first: int, tenant: str) -> dict[str, object]:
    numbers = range(first, first + 4 * MOST_SHOWN, 2)
    return {
        "plans": [{"at": float(k), "number": k} for k in numbers][::-1],
        "requests": [{"id": f"r{k}", "received_at": float(k)} for k in numbers][::-1],
        "tenants": [
            {"tenant": name, "in_flight": 1, "prompt_tokens": first, "output_tokens": 1}
            for name in ("", tenant)
        ],
        "batches": [{"id": "batch_1"}],
        "bins": {"since": 0.0, "bins": {}},
    }


def test_lists_are_the_latest_of_all_and_tenants_are_counted_once() -> None:
    shown = merged_lists(lists(1, "a"), [lists(2, "b")])
    latest = [one["received_at"] for one in shown["requests"]]
    assert latest == sorted(range(1, 4 * MOST_SHOWN + 1), reverse=True)[:MOST_SHOWN]
    assert shown["plans"][0]["at"] == max(latest)
    assert shown["batches"] == [{"id": "batch_1"}]
    assert shown["tenants"] == [
        {"tenant": "", "in_flight": 2, "prompt_tokens": 3, "output_tokens": 2},
        {"tenant": "b", "in_flight": 1, "prompt_tokens": 2, "output_tokens": 1},
        {"tenant": "a", "in_flight": 1, "prompt_tokens": 1, "output_tokens": 1},
    ]
