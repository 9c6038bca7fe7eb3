"""Targets by their headers: two names for each, the gateway's defaults, and what is no target."""

from __future__ import annotations

from math import inf

import pytest

from router.agent.queue_position import read_queue_position
from router.gateway.admission.headers import read_hint
from router.http.asgi import Scope
from router.http.errors import RequestError
from router.http.request_headers import read_keepalive, read_urgency
from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, NO_TARGETS, Targets

TTFT, TPOT = "x-makespan-ttft-ms", "x-makespan-tpot-ms"
SLO_TTFT, SLO_TPOT = "x-slo-ttft-ms", "x-slo-tpot-ms"
WEEK_MS = "604800000"


def scope(**headers: str) -> Scope:
    return asked({name.replace("_", "-"): value for name, value in headers.items()})


def asked(headers: dict[str, str]) -> Scope:
    return {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}


@pytest.mark.parametrize(
    ("headers", "targets"),
    [
        ({}, Targets(2.0, 0.1)),
        ({TTFT: "500"}, Targets(0.5, 0.1)),
        ({TPOT: "40"}, Targets(2.0, 0.04)),
        ({TTFT: "500", TPOT: "40"}, Targets(0.5, 0.04)),
        ({SLO_TTFT: "500", SLO_TPOT: "40"}, Targets(0.5, 0.04)),
        ({SLO_TTFT: "500", TPOT: "40"}, Targets(0.5, 0.04)),
        ({SLO_TTFT: "900", TTFT: "500", SLO_TPOT: "90", TPOT: "40"}, Targets(0.5, 0.04)),
        ({SLO_TTFT: "soon", TTFT: "500"}, Targets(0.5, 0.1)),  # it is not asked
        ({TTFT: " 12.5 "}, Targets(0.0125, 0.1)),
        ({TTFT: "1e3"}, Targets(1.0, 0.1)),
        ({TTFT: WEEK_MS, TPOT: "0.001"}, Targets(604_800.0, 1e-6)),
        ({"x-makespan-priority": "interactive"}, Targets(2.0, 0.1)),
        ({"x-makespan-priority": "bulk"}, NO_TARGETS),
        ({"x-makespan-priority": "bulk", SLO_TTFT: "60000"}, Targets(60.0, inf)),
    ],
)
def test_makespan_names_win_and_defaults_fill_in(headers: dict[str, str], targets: Targets) -> None:
    assert read_urgency(asked(headers), DEFAULT_TARGETS).targets == targets


@pytest.mark.parametrize("name", [TTFT, TPOT, SLO_TTFT, SLO_TPOT])
@pytest.mark.parametrize(
    "value",
    "|soon|2s|0|-0|-5|nan|inf|-inf|1e400|1e-9|5e-324|0x10|1_000|100, 200|604800001|\xb2".split("|"),  # noqa: SIM905
)
def test_what_is_no_target_is_refused_by_its_name(name: str, value: str) -> None:
    """By the gateway, and by an agent that is asked without one."""
    for read in (lambda one: read_urgency(one, DEFAULT_TARGETS), read_queue_position):
        with pytest.raises(RequestError, match=f"'{name}' must be a number of milli") as refused:
            read(asked({name: value}))
        assert (refused.value.status, refused.value.param) == (400, name)


def test_the_operator_sets_the_defaults() -> None:
    own = {priority: Targets(ttft_s=float(k)) for k, priority in enumerate(Priority, 1)}
    for priority, targets in own.items():
        assert read_urgency(scope(x_makespan_priority=priority.value), own).targets == targets


def test_an_agent_has_no_defaults_and_counts_from_the_arrival_at_the_gateway() -> None:
    """What it is told is what is left of the first token's target; waiting does not begin anew."""
    assert read_queue_position(scope()).targets == NO_TARGETS
    told = scope(x_makespan_ttft_ms="1500", x_makespan_tpot_ms="50", x_makespan_waited_ms="500")
    assert read_queue_position(told).targets == Targets(2.0, 0.05)


@pytest.mark.parametrize("asked_for", [None, *Priority])
@pytest.mark.parametrize("usual", list(Priority))
@pytest.mark.parametrize("highest", list(Priority))
def test_a_key_s_highest_priority_brings_its_targets_with_it(
    asked_for: Priority | None, usual: Priority, highest: Priority
) -> None:
    """As if its request had asked for that itself; a deadline has who may be interactive."""
    own = {priority: Targets(ttft_s=float(k)) for k, priority in enumerate(Priority, 1)}
    for more in ({}, {"x-makespan-deadline-ms": "1"}, {TTFT: "9"}):
        named = {} if asked_for is None else {"x-makespan-priority": asked_for.value}
        found = read_urgency(asked({**named, **more}), own, usual, highest)
        wanted = max(highest, asked_for or usual, key=list(Priority).index)
        same = read_urgency(scope(x_makespan_priority=wanted.value), own)
        assert found.priority is wanted
        assert (found.deadline_s < inf) == (
            "x-makespan-deadline-ms" in more and highest is Priority.INTERACTIVE
        )
        if TTFT not in more or highest is Priority.BULK:
            assert found.targets == same.targets
        else:
            assert found.targets.ttft_s == 0.009


NO_NUMBERS = ["", "soon", "nan", "inf", "-inf", "1e400", "-1", "1_000", "0x10", "1, 2", "1e999999"]


@pytest.mark.parametrize("value", [*NO_NUMBERS, "1e-9", "5e-324", "0.09", "3601", "-0", "00"])
def test_what_is_no_time_between_comments_is_refused(value: str) -> None:
    with pytest.raises(RequestError, match=r"from 0\.1 to 3600, or 0 for none"):
        read_keepalive(asked({"x-makespan-keepalive-s": value}), 15.0)


def test_times_between_comments() -> None:
    for value, seconds in (("0", 0.0), ("0.0", 0.0), (" 0.1", 0.1), ("3600", 3600.0)):
        assert read_keepalive(asked({"x-makespan-keepalive-s": value}), 15.0) == seconds
    assert read_keepalive(asked({}), 15.0) == 15.0


@pytest.mark.parametrize("value", [*NO_NUMBERS, "0", "0.9", "1e10"])
def test_what_is_no_number_of_tokens_is_refused(value: str) -> None:
    with pytest.raises(RequestError, match="a number of tokens from 1"):
        read_hint(value.encode())


@pytest.mark.parametrize("value", [*NO_NUMBERS, "0", "1e-9", "604800001"])
def test_what_is_no_deadline_is_refused(value: str) -> None:
    with pytest.raises(RequestError, match="a number of milliseconds"):
        read_urgency(asked({"x-makespan-deadline-ms": value}))
