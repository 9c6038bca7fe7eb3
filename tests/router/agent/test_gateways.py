"""An agent tells each gateway of the others' requests, and takes no more than it can start soon."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.agent.gateways import Gateways
from router.http.errors import WorkerFullError
from router.wire import FULL, Beside, Want
from solver.routing.rolling import lead

request = st.tuples(st.sampled_from(["a-1", "b-x-2", "c-3", None]), st.integers(1, 4))


@given(st.lists(st.tuples(request, st.integers(0, 3)), max_size=12))
def test_each_hears_of_all_requests_but_its_own(
    requests: list[tuple[tuple[str | None, int], int]],
) -> None:
    gateways = Gateways()
    with ExitStack() as stack:
        for (attempt, sequences), made in requests:
            held = gateways.hold(attempt, sequences, 10, 20.0, partial(int, made))
            stack.enter_context(held)
        for gateway in ("a", "b", "c", "d"):
            others = [
                (sequences, made)
                for (attempt, sequences), made in requests
                if (attempt or "").partition("-")[0] != gateway
            ]
            begun = [sequences for sequences, made in others if made]
            assert gateways.beside(gateway) == Beside(
                sequences=sum(sequences for sequences, _ in others),
                begun=sum(begun),
                prompt_tokens=10 * len(others),
                prefilled=10 * len(begun),
                made=sum(made for _, made in others),
                left=sum(20.0 - made for _, made in others),
            )
    assert gateways.beside("d") == Beside()


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_only_where_several_send_it_is_ever_full(slots: int) -> None:
    most = slots + lead(slots, 1)
    gateways = Gateways()
    for name in ("a", "b"):
        gateways.beside(name)
    with ExitStack() as stack:
        for k in range(most):
            stack.enter_context(gateways.hold(f"a-{k}", 1, 1, 1.0, lambda: 0))
        gateways.check_room("a-more", slots)  # as it has seen room for it
        gateways.check_room(None, slots)
        with pytest.raises(WorkerFullError) as full:
            gateways.check_room("b-1", slots)
        assert (FULL, b"1") in full.value.headers()
        gateways.check_room("old-1", slots)  # it has not said who it is, and would not understand
    with ExitStack() as stack:
        for k in range(most - 1):
            stack.enter_context(gateways.hold(f"{'ab'[k % 2]}-{k}", 1, 1, 1.0, lambda: 0))
        gateways.check_room("b-2", slots)


def test_who_wants_room_is_told_of_to_the_others_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("router.agent.gateways.time.monotonic", lambda: now)
    gateways = Gateways()
    gateways.want("a", Want(3, 30.0, 60.0))
    assert (gateways.beside("a").wanting, gateways.beside("b").wanting) == (0, 1)
    assert gateways.beside("b").wanted == 3
    assert gateways.beside("b").wanted_output == 60.0
    now += 10
    assert gateways.beside("b").wanting == 0
