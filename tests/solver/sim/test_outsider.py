"""The outsider accepts what keeps the contract, and refuses what breaks any part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from tests.solver.sim.outsider import Hardware, Refused, check

Lines = list[dict[str, Any]]

REQUESTS: Lines = [
    {"id": "a", "prompt_tokens": 10, "output_tokens": 3, "arrival_s": 0.0},
    {"id": "b", "prompt_tokens": 20, "output_tokens": 5, "arrival_s": 0.0},
    {"id": "c", "prompt_tokens": 30, "output_tokens": 2, "arrival_s": 2.0},
]
# A prefill takes a second and a tenth a token, a round a second and a tenth a sequence.
COST = {"alpha_p_ms": 1000, "beta_p_ms": 100, "alpha_d_ms": 1000, "beta_d_ms": 100}
ENGINE = Hardware(COST, slots=2, kv_tokens=57)


def line(
    start_s: float,
    end_s: float,
    prefill: Mapping[str, int],
    decode: str = "",
    rounds: int = 1,
    slots: str = "a1 b0 c1",
    **more: Any,  # noqa: ANN401
) -> dict[str, Any]:
    kind = ("mixed" if decode else "prefill") if prefill else "decode"
    place = {pair[0]: int(pair[1]) for pair in slots.split()}
    return {
        "worker": "w0",
        "kind": kind,
        "start_s": start_s,
        "end_s": end_s,
        "rounds": rounds,
        "prefill": dict(prefill),
        "decode": list(decode),
        "slots": {key: place[key] for key in [*prefill, *decode]},
    } | more


# b and a on two slots, then c on a's.
LINES = [
    line(0.0, 4.0, {"b": 20, "a": 10}),
    line(4.0, 7.6, {}, "ba", rounds=3),
    line(7.6, 11.6, {"c": 30}),
    line(11.6, 14.0, {}, "bc", rounds=2),
]
REPORT = {
    "makespan_s": 14.0,
    "utilization": (2 * 4.0 + 2 * 3.6 + 4.0 + 2 * 2.4) / 28,
    "generation_tokens_per_s": 10 / 14,
    "prefill_stages": 2,
    "decode_rounds": 5,
    "mixed_iterations": 0,
    "preemptions": 0,
    "lower_bound_s": 12.5,
    "gap_ratio": 0.12,
    "ttft_s": {"mean": (5.2 + 5.2 + 10.8) / 3, "p50": 5.2, "p95": 10.24, "p99": 10.688},
    "e2e_s": {"mean": (7.6 + 14.0 + 12.0) / 3, "p50": 12.0, "p95": 13.8, "p99": 13.96},
    "stall_s": {"mean": (1.2 + 5.2 + 1.2) / 3, "p50": 1.2, "p95": 4.8, "p99": 5.12},
    "goodput": 0.0,
}


def test_it_accepts_a_schedule_that_keeps_the_contract() -> None:
    found = check(REQUESTS, LINES, {"w0": ENGINE}, REPORT)
    assert (found.makespan_s, found.preemptions) == (14.0, 0)


def change(number: int, **values: Any) -> Callable[[Lines], None]:  # noqa: ANN401
    return lambda lines: lines[number].update(values)


def later(number: int, seconds: float) -> Callable[[Lines], None]:
    def shift(lines: Lines) -> None:
        lines[number]["start_s"] += seconds
        lines[number]["end_s"] += seconds

    return shift


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (lambda lines: lines.pop(0), ": decodes before its prefill"),
        (lambda lines: lines.pop(1), "b has not all its tokens|slot 1 is taken"),
        (lambda lines: lines.pop(), "has not all its tokens"),
        (lambda lines: lines.append(line(14.0, 18.0, {"c": 30})), "c: "),
        (later(1, -0.1), "overlap"),
        (change(1, end_s=7.5), "not 3.6"),
        (change(1, rounds=2, end_s=6.4), "c: slot 1 is taken"),
        (change(1, rounds=4, end_s=8.8), "overlap|more tokens"),
        (change(0, prefill={"b": 20, "a": 9}, end_s=3.9), "a: decodes before its prefill is over"),
        (change(0, prefill={"b": 20, "a": 11}, end_s=4.1), "a: more is prefilled than it has"),
        (change(2, slots={"c": 0}), "slot 0 is taken"),
        (change(2, slots={"c": 2}), "there is no slot 2"),
        (change(3, slots={"b": 0, "c": 0}), "c: on two slots"),
        (change(3, worker="w1"), "decodes before its prefill is over"),
        (change(3, worker="w7"), "a worker that there is not"),
        (change(3, decode=["b"], slots={"b": 0}, end_s=13.8), "c: is left out of a round"),
        (change(3, decode=["b", "b"]), "a request decodes twice"),
        (change(3, kind="mixed"), "another kind"),
        (change(2, decode=["b"], slots={"b": 0, "c": 1}, kind="mixed"), "none"),
        (change(2, cached={"c": 5}, prefill={"c": 25}, end_s=11.1), "nothing like it is cached"),
        (change(2, slots={"c": 1, "b": 0}), "slots of others"),
        (change(0, comment="fine"), "fields"),
    ],
)
def test_it_refuses_a_schedule_that_was_tampered_with(
    tamper: Callable[[Lines], None], complaint: str
) -> None:
    lines = deepcopy(LINES)
    tamper(lines)
    with pytest.raises(Refused, match=complaint):
        check(REQUESTS, lines, {"w0": ENGINE, "w1": ENGINE})


def test_it_refuses_a_start_before_the_arrival() -> None:
    late = [*REQUESTS[:2], REQUESTS[2] | {"arrival_s": 7.7}]
    with pytest.raises(Refused, match="c: before it arrives"):
        check(late, LINES, {"w0": ENGINE})


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        (replace(ENGINE, kv_tokens=56), "57 tokens in memory"),
        (replace(ENGINE, slots=1), "there is no slot 1"),
        (replace(ENGINE, prefill_budget=29), "over its budget"),
        (replace(ENGINE, cost=COST | {"gamma_d_ms": 1}), "not 3.6"),
    ],
)
def test_it_refuses_what_an_engine_cannot_do(engine: Hardware, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        check(REQUESTS, LINES, {"w0": engine})


@pytest.mark.parametrize("figure", sorted(REPORT))
def test_it_refuses_a_report_that_says_otherwise(figure: str) -> None:
    told = REPORT[figure]
    wrong: Any = {"mean": 1.0, "p50": 1.0, "p95": 1.0, "p99": 1.0}
    if not isinstance(told, dict):
        wrong = told + 1.6  # type: ignore[operator]
    with pytest.raises(Refused, match=figure if figure != "lower_bound_s" else "bound"):
        check(REQUESTS, LINES, {"w0": ENGINE}, REPORT | {figure: wrong})


# a loses its memory after one token, and is prefilled again with it.
PREEMPTED = [
    line(0.0, 4.0, {"b": 20, "a": 10}),
    line(4.0, 5.2, {}, "ba"),
    line(5.2, 9.6, {}, "b", rounds=4, preempted=["a"]),
    line(9.6, 11.7, {"a": 11}),
    line(11.7, 13.9, {}, "a", rounds=2),
    line(13.9, 17.9, {"c": 30}),
    line(17.9, 20.1, {}, "c", rounds=2),
]


def test_who_loses_memory_is_prefilled_again() -> None:
    engines = {"w0": replace(ENGINE, kv_tokens=32)}
    assert check(REQUESTS, PREEMPTED, engines).preemptions == 1
    for tampered, complaint in (
        ([line(9.6, 11.6, {"a": 10})], "a: decodes before its prefill is over"),
        ([line(9.6, 11.8, {"a": 12})], "a: more is prefilled than it has"),
        ([], "a: decodes before its prefill is over"),
    ):
        with pytest.raises(Refused, match=complaint):
            check(REQUESTS, [*PREEMPTED[:3], *tampered, *PREEMPTED[4:]], engines)
    unsaid = [*PREEMPTED[:2], line(5.2, 9.6, {}, "b", rounds=4), *PREEMPTED[3:]]
    with pytest.raises(Refused, match="a: is left out of a round"):
        check(REQUESTS, unsaid, engines)
    elsewhere = [*PREEMPTED[:3], PREEMPTED[3] | {"worker": "w1"}]
    with pytest.raises(Refused, match="a: on two workers"):
        check(REQUESTS, elsewhere, engines | {"w1": ENGINE})
    with pytest.raises(Refused, match="c: preempted without memory"):
        check(REQUESTS, [*PREEMPTED[:3], PREEMPTED[3] | {"preempted": ["c"]}], engines)
    with pytest.raises(Refused, match="32 tokens in memory"):  # 21 of b's and 11 of a's
        check(REQUESTS, PREEMPTED, {"w0": replace(ENGINE, kv_tokens=31)})
