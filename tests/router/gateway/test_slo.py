"""Which targets a request has kept, by how it ended and what its user felt."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.slo import Felt, Timing, kept
from router.gateway.explanations.request_record import RequestRecord
from router.http.errors import Outcome
from router.http.schemas import read
from router.http.usage import Usage
from router.observe.metrics import GatewayMetrics
from solver.batching.targets import NO_TARGETS, Targets

BOTH = Targets(2.0, 0.1)
STREAM = Felt(ttft_s=1.0, tpot_s=0.05, all_s=6.0, tokens=101)
WHOLE = Felt(ttft_s=None, tpot_s=None, all_s=11.9, tokens=101)
MISSED_BOTH = {"ttft": False, "tpot": False, "both": False}


@pytest.mark.parametrize(
    ("targets", "felt", "found"),
    [
        (BOTH, STREAM, {"ttft": True, "tpot": True, "both": True}),
        (BOTH, STREAM._replace(ttft_s=2.0, tpot_s=0.1), {"ttft": True, "tpot": True, "both": True}),
        (BOTH, STREAM._replace(ttft_s=2.1), {"ttft": False, "tpot": True, "both": False}),
        (BOTH, STREAM._replace(tpot_s=0.11), {"ttft": True, "tpot": False, "both": False}),
        (BOTH, STREAM._replace(ttft_s=9.0, tpot_s=1.0), MISSED_BOTH),
        (BOTH, STREAM._replace(tpot_s=None, tokens=None), {"ttft": True}),
        (Targets(ttft_s=2.0), STREAM._replace(tpot_s=9.0), {"ttft": True, "both": True}),
        (Targets(tpot_s=0.1), STREAM._replace(ttft_s=9.0), {"tpot": True, "both": True}),
        (NO_TARGETS, STREAM, {}),
        (BOTH, WHOLE, {"both": True}),
        (BOTH, WHOLE._replace(all_s=12.1), {"both": False}),
        (BOTH, WHOLE._replace(all_s=2.1, tokens=1), {"both": False}),
        (BOTH, WHOLE._replace(tokens=None), {}),
        (Targets(ttft_s=2.0), WHOLE, {}),
        (Targets(tpot_s=0.1), WHOLE, {}),
    ],
)
def test_what_was_completed_is_measured(
    targets: Targets, felt: Felt, found: dict[str, bool]
) -> None:
    assert kept(targets, Outcome.COMPLETED, felt) == found


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - {Outcome.COMPLETED}))
def test_whoever_was_not_served_has_missed_all_or_does_not_count(outcome: Outcome) -> None:
    late, early = WHOLE._replace(all_s=2.1), WHOLE._replace(all_s=1.9)
    missed = {Outcome.FAILED, Outcome.EXPIRED, Outcome.REJECTED_NO_CAPACITY}
    if outcome in missed:
        assert kept(BOTH, outcome, STREAM) == kept(BOTH, outcome, early) == MISSED_BOTH
        assert kept(Targets(ttft_s=2.0), outcome, STREAM) == {"ttft": False, "both": False}
    elif outcome is Outcome.CANCELLED:
        assert kept(BOTH, outcome, late) == {"ttft": False, "both": False}
        assert kept(BOTH, outcome, early) == kept(BOTH, outcome, STREAM) == {}
        assert kept(Targets(tpot_s=0.1), outcome, late) == {}
    else:
        assert kept(BOTH, outcome, STREAM) == {}
    assert kept(NO_TARGETS, outcome, late) == {}


@given(
    st.floats(0.001, 10),
    st.floats(0.001, 1),
    st.integers(1, 500),
    st.floats(0, 20),
    st.floats(0, 1),
)
def test_in_one_piece_nobody_is_judged_harder_than_in_a_stream(
    ttft_s: float, tpot_s: float, tokens: int, first_s: float, each_s: float
) -> None:
    """Who keeps both as a stream keeps them as a whole answer that comes by its end."""
    targets, ended = Targets(ttft_s, tpot_s), first_s + each_s * (tokens - 1)
    times = Timing(0.0, 0.0, first_s, first_s, ended)
    streamed = kept(targets, Outcome.COMPLETED, Felt.of(times, tokens, 1))
    whole = kept(targets, Outcome.COMPLETED, Felt.of(times._replace(first_token=None), tokens, 1))
    assert (
        whole["both"]
        or not streamed["both"]
        or ended == pytest.approx(ttft_s + tpot_s * (tokens - 1))
    )


@pytest.mark.parametrize(
    ("tokens", "choices", "tpot_s"),
    [(101, 1, 0.05), (202, 2, 0.05), (1, 1, 0.0), (3, 3, 0.0), (0, 1, 0.0), (None, 1, None)],
)
def test_choices_run_side_by_side(tokens: int | None, choices: int, tpot_s: float | None) -> None:
    felt = Felt.of(Timing(10.0, 10.1, 10.9, 11.0, 16.0), tokens, choices)
    assert (felt.ttft_s, felt.all_s) == (1.0, 6.0)
    assert felt.tpot_s == (None if tpot_s is None else pytest.approx(tpot_s))


def test_each_request_is_counted_once_and_remembers_what_it_kept() -> None:
    metrics = GatewayMetrics()
    accounts = Accounts(metrics, 10)
    for k, (targets, first) in enumerate([(BOTH, 1.0), (BOTH, 3.0), (Targets(tpot_s=inf), 9.0)]):
        record = RequestRecord(f"r{k}", "m", True, 0.0, targets=targets, output_tokens=11)
        accounts.begin(record)
        accounts.end(record, Outcome.COMPLETED, Timing(0.0, 0.0, 0.5, first, first + 0.5))
    assert metrics.kept_both() == (1, 1)
    one, two, three = (accounts.log.find(f"r{k}") for k in range(3))
    assert one is not None
    assert two is not None
    assert three is not None
    assert one.explain()["slo"] == {
        "ttft": {"target_s": 2.0, "actual_s": 1.0, "met": True},
        "tpot": {"target_s": 0.1, "actual_s": 0.05, "met": True},
        "both": {"met": True},
    }
    assert two.explain()["slo"]["ttft"] == {"target_s": 2.0, "actual_s": 3.0, "met": False}
    assert three.explain()["slo"]["tpot"] == {"target_s": None, "actual_s": 0.05, "met": None}


def ended(accounts: Accounts, count: int) -> None:
    """So many are answered, and keep both targets."""
    for k in range(count):
        record = RequestRecord(f"r{k}", "m", False, 0.0, targets=BOTH, output_tokens=11)
        accounts.begin(record)
        asked = read({"model": "m", "prompt": "How many?", "max_tokens": 20}, chat=False)
        accounts.learn(asked, record, Usage(7, 11))
        accounts.end(record, Outcome.COMPLETED, Timing(0.0, 0.0, 0.5, None, 0.9))


def kept_by(record: RequestRecord | None) -> bool:
    assert record is not None
    return record.kept["both"]


@pytest.mark.parametrize("count", [1, 40, 233, 400])
@pytest.mark.parametrize(
    "look",
    [
        lambda accounts, _: accounts.tenants.rows([], 9)[0]["completed"],
        lambda _, metrics: metrics.outcomes()["completed"],
        lambda _, metrics: metrics.kept_both()[0],
        lambda _, metrics: int(
            re.findall(rb"makespan_gateway_overhead_seconds_count (\d+)", metrics.render())[0]
        ),
        lambda accounts, _: sum(map(kept_by, accounts.log.latest_ended())),
        lambda accounts, _: sum(map(kept_by, accounts.log.latest(1000))),
        lambda accounts, _: sum(
            kept_by(accounts.log.find(f"r{k}")) for k in range(accounts.log.ended)
        ),
    ],
)
def test_whoever_looks_finds_all_that_have_ended(
    look: Callable[[Accounts, GatewayMetrics], int], count: int
) -> None:
    metrics = GatewayMetrics()
    accounts = Accounts(metrics, 1000)
    ended(accounts, count)
    assert look(accounts, metrics) == count
    assert accounts.learned == count


def test_ends_are_looked_through_in_fewer_goes_than_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes: list[None] = []
    settle = Accounts.settle
    monkeypatch.setattr(Accounts, "settle", lambda accounts: goes.append(settle(accounts)))
    accounts = Accounts(GatewayMetrics(), 1000)
    ended(accounts, 1000)
    assert len(goes) < 100
    assert accounts.learned > 900


def test_tokens_of_a_stream_that_its_client_left_are_its_tenant_s() -> None:
    accounts = Accounts(GatewayMetrics(), 10)
    for k, made in enumerate((7, None)):
        record = RequestRecord(f"r{k}", "m", True, 0.0, prompt_tokens=3, tenant="t")
        accounts.begin(record)
        accounts.end(record, Outcome.CANCELLED, Timing(0.0, 0.0, 0.5, 0.6, 1.0), made=made)
    (row,) = accounts.tenants.rows([], 9)
    assert (row["prompt_tokens"], row["output_tokens"]) == (6, 7)
