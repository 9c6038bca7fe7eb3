"""Tenants on the dashboard: counted by name, but not without end."""

from __future__ import annotations

from router.gateway.accounting.tenants import MOST, OTHERS, Tenants
from router.gateway.explanations.request_record import RequestRecord
from router.http.errors import Outcome


def record(tenant: str, output: int | None = 5) -> RequestRecord:
    return RequestRecord(
        "id", "m", False, 0.0, prompt_tokens=10, output_tokens=output, tenant=tenant
    )


def test_the_greatest_come_first_and_who_has_only_begun_is_there() -> None:
    tenants = Tenants()
    tenants.end(record("small"), Outcome.COMPLETED)
    for _ in range(2):
        tenants.end(record(""), Outcome.COMPLETED)
    tenants.end(record("", None), Outcome.FAILED)
    rows = tenants.rows([record("new"), record("")], 10)
    assert [row["tenant"] for row in rows] == ["", "small", "new"]
    assert rows[0] == {
        "tenant": "", "in_flight": 1, "completed": 2, "not_completed": 1,
        "prompt_tokens": 30, "output_tokens": 10, "slot_s": 0.0,
    }  # fmt: skip
    assert [row["tenant"] for row in tenants.rows([], 1)] == [""]


def test_beyond_a_number_they_count_together() -> None:
    tenants = Tenants()
    for k in range(2 * MOST):
        tenants.end(record(f"t{k}"), Outcome.COMPLETED)
    rows = tenants.rows([], 2 * MOST)
    assert len(rows) == MOST + 1
    assert rows[0]["tenant"] == OTHERS
    assert sum(row["completed"] for row in rows) == 2 * MOST
