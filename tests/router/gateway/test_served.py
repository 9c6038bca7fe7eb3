"""What was served over the last minutes: counts, quantiles, shares, and that processes add up."""

from __future__ import annotations

import json
import random
from math import ceil

import pytest

from router.gateway.dashboard import served
from router.gateway.dashboard.served import BIN_S, FLAT, REST, STEP, Served, points
from router.gateway.explanations.request_log import RequestLog
from router.gateway.explanations.request_record import RequestRecord

NOW = 1_800_000_000.0 + 4 * BIN_S - 1  # a second before a bin ends


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Still:
        @staticmethod
        def time() -> float:
            return NOW

    monkeypatch.setattr(served, "time", Still)


def ended(
    name: str, ago_s: float, took_s: float = 1.0, ttft_s: float | None = 0.2, **more: object
) -> RequestRecord:
    record = RequestRecord(name, "m", stream=True, received_s=NOW - ago_s - took_s)
    record.outcome, record.ended_s, record.ttft_s = "completed", NOW - ago_s, ttft_s
    record.output_tokens = 30
    for key, value in more.items():
        setattr(record, key, value)
    return record


def seen(*records: RequestRecord, remember: int = 10_000, since_s: float = 0.0) -> Served:
    log = RequestLog(remember)
    for record in sorted(records, key=lambda record: record.ended_s or 0.0):
        log.end(record)
    found = Served(log)
    found._since_s = since_s
    return found


def rows(*of: Served) -> list[list[float | None]]:
    """As another process would read it."""
    bins = [json.loads(json.dumps(one.bins())) for one in of]
    found: list[list[float | None]] = points(bins, NOW)["served"]
    return found


def test_rates_are_of_the_last_bins_and_go_out_with_them() -> None:
    over_s = FLAT * BIN_S - 1
    records = [ended(f"a{k}", 2.0) for k in range(28)]
    records += [ended(f"b{k}", 2.0, outcome="failed", output_tokens=None) for k in range(14)]
    found = rows(seen(*records))
    assert found[-1][:4] == [NOW, *(round(n / over_s, 3) for n in (28, 14, 28 * 30))]
    assert [row[1] for row in found[:-1]] == [0.0] * (len(found) - 1)
    assert rows(seen(*[ended(f"a{k}", 2.0 + FLAT * BIN_S) for k in range(28)]))[-1][1] == 0.0


def test_what_is_known_only_since_a_moment_is_told_only_from_then_on() -> None:
    assert len(rows(seen(ended("a", 1.0)))) == served.BINS
    fresh = rows(seen(ended("a", 1.0), since_s=NOW - 2.0))
    assert [row[:2] for row in fresh] == [[NOW, 0.5]]
    forgot = seen(*[ended(f"a{k}", 20.0 - k) for k in range(20)], remember=8)
    assert len(rows(forgot)) == ceil((8 + BIN_S - 4) / BIN_S)  # the last eight seconds
    assert rows(forgot)[-1][1] == round(8 / 8, 3)


def test_each_is_counted_once_however_often_somebody_looks() -> None:
    log = RequestLog(100)
    found = Served(log)
    found._since_s = 0.0
    for k in range(28):
        log.end(ended(f"a{k}", 2.0))
        found.bins()
    assert rows(found)[-1][1] == round(28 / (FLAT * BIN_S - 1), 3)


def test_quantiles_are_those_of_the_requests() -> None:
    draw = random.Random(1)
    took = [draw.lognormvariate(0.0, 1.5) for _ in range(999)]
    first = [each / 3 for each in took[:500]]
    records = [
        ended(f"a{k}", 3.0, each, first[k] if k < len(first) else None)
        for k, each in enumerate(took)
    ]
    *_, ttft50, ttft99, e2e50, e2e99 = rows(seen(*records))[-1]
    for told, of, share in (
        (ttft50, first, 0.5), (ttft99, first, 0.99), (e2e50, took, 0.5), (e2e99, took, 0.99),
    ):  # fmt: skip
        assert told == pytest.approx(sorted(of)[ceil(share * len(of)) - 1], rel=0.6 * STEP)
    assert rows(seen(ended("a", 1.0, ttft_s=None)))[-1][4:6] == [None, None]
    left = rows(seen(ended("a", 1.0, ttft_s=0.5, outcome="cancelled", output_tokens=8)))[-1]
    assert left[4:] == [pytest.approx(0.5, rel=STEP), pytest.approx(0.5, rel=STEP), None, None]


def test_processes_add_up() -> None:
    draw = random.Random(2)
    records = [
        ended(f"a{k}", draw.uniform(0, 60), draw.uniform(0.1, 9), tenant=draw.choice("xy"),
              slot_s=draw.uniform(1, 9))
        for k in range(300)
    ]  # fmt: skip
    whole = points([seen(*records).bins()], NOW)
    parts = points([seen(*records[:100]).bins(), seen(*records[100:]).bins()], NOW)
    assert parts["served"] == whole["served"]
    assert parts["shares"]["tenants"] == whole["shares"]["tenants"]
    for one, other in zip(parts["shares"]["rows"], whole["shares"]["rows"], strict=True):
        assert one == pytest.approx(other, abs=2e-4)


def test_shares_are_of_engine_time_and_the_rest_is_one() -> None:
    records = [ended(f"{k}", 2.0, tenant=f"t{k}", slot_s=10.0 - k) for k in range(9)]
    shares = points([seen(*records).bins()], NOW)["shares"]
    assert shares["tenants"] == [*(f"t{k}" for k in range(served.MOST_TENANTS)), REST]
    assert shares["rows"][-1][1] == pytest.approx(10 / 54, abs=1e-4)
    assert sum(shares["rows"][-1][1:]) == pytest.approx(1.0, abs=1e-3)
    assert points([seen(records[0]).bins()], NOW)["shares"] is None
