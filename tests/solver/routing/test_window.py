"""Windows: no wait that cannot help, no wait beyond the limit, the same however they are fed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from solver.routing.window import CloseReason, Window, WindowPolicy

arrivals = st.lists(st.floats(0.0, 0.2), min_size=1, max_size=40).map(sorted)


def drip(times: list[float], policy: WindowPolicy[int]) -> list[Window[int]]:
    """One by one, polling at each arrival and each deadline, as a live shell does."""
    closed: list[Window[int]] = []
    for index, now in enumerate(times):
        while (deadline := policy.next_deadline()) is not None and deadline <= now:
            closed += drain(policy, deadline)
        policy.add(index, now)
        closed += drain(policy, now)
    while (deadline := policy.next_deadline()) is not None:
        closed += drain(policy, deadline)
    return closed


def drain(policy: WindowPolicy[int], now: float) -> list[Window[int]]:
    windows = []
    while (window := policy.poll(now, worker_free=False)) is not None:
        windows.append(window)
    return windows


@given(arrivals, st.integers(1, 8))
def test_drip_equals_bulk(times: list[float], size: int) -> None:
    bulk: WindowPolicy[int] = WindowPolicy(0.02, size)
    for index, now in enumerate(times):
        bulk.add(index, now)
    assert drain(bulk, 1e9) == drip(times, WindowPolicy(0.02, size))


@given(arrivals, st.integers(1, 8))
def test_each_request_is_in_one_window_and_waits_no_longer_than_allowed(
    times: list[float], size: int
) -> None:
    windows = drip(times, WindowPolicy(0.02, size))
    assert [item for window in windows for item in window.items] == list(range(len(times)))
    for window in windows:
        assert 1 <= len(window.items) <= size
        assert all(0 <= window.closed_s - times[item] <= 0.02 + 1e-12 for item in window.items)


def test_nobody_waits_while_a_worker_is_free() -> None:
    policy: WindowPolicy[str] = WindowPolicy(0.02, 10)
    policy.add("a", 5.0)
    assert policy.poll(5.0, worker_free=False) is None
    window = policy.poll(5.001, worker_free=True)
    assert window == Window(("a",), 5.0, 5.001, CloseReason.WORKER_FREE)
    assert policy.next_deadline() is None


def test_who_leaves_is_not_planned() -> None:
    policy: WindowPolicy[str] = WindowPolicy(0.02, 10)
    for item in "abc":
        policy.add(item, 0.0)
    policy.discard("b")
    policy.discard("never came")
    window = policy.poll(0.02, worker_free=False)
    assert window is not None
    assert window.items == ("a", "c")
