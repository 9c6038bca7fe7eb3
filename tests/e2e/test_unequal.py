"""Workers of unequal speed get work in proportion, and finish when the plan says."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import httpx
import pytest

from tests.helpers import Fleet, gsm8k, write_lengths

REQUESTS = 300
SPEEDS = {"agent-0": 24.0, "agent-1": 24.0, "agent-2": 8.0}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    """The last plan, and the explanations of all requests, which came at once."""
    rows = gsm8k()[:REQUESTS]
    lengths = write_lengths(tmp_path_factory.mktemp("unequal") / "lengths.jsonl", rows)
    speeds = ",".join(f"{speed:g}" for speed in SPEEDS.values())
    options = ("--agents", "3", "--slots", "8", "--speed", speeds, "--lengths", str(lengths))
    with Fleet(*options) as fleet:
        return asyncio.run(_ask_all(fleet, rows))


async def _ask_all(fleet: Fleet, rows: list[tuple[str, int]]) -> tuple[dict[str, Any], list[Any]]:
    limits = httpx.Limits(max_connections=REQUESTS, max_keepalive_connections=REQUESTS)
    async with httpx.AsyncClient(base_url=fleet.url, timeout=120, limits=limits) as client:

        async def ask(k: int) -> object:
            question, length = rows[k]
            answer = await client.post(
                "/v1/completions",
                json={"model": "llama-65b", "prompt": question, "max_tokens": 512},
                headers={"x-request-id": f"q{k}", "x-makespan-expected-tokens": str(length)},
            )
            assert answer.json()["usage"]["completion_tokens"] == length
            return (await client.get(f"/makespan/v1/requests/q{k}")).json()

        explained = await asyncio.gather(*(ask(k) for k in range(len(rows))))
        return (await client.get("/makespan/v1/plans/latest")).json(), explained


def test_no_worker_finishes_much_later_than_planned(
    outcome: tuple[dict[str, Any], list[Any]],
) -> None:
    plan, explained = outcome
    ends: dict[str, float] = defaultdict(float)
    for request in explained:
        assert request["outcome"] == "completed"
        ends[request["worker"]] = max(ends[request["worker"]], request["times"]["ended_at"])
    assert set(ends) == set(SPEEDS)
    took = {worker: end - plan["planned_at"] for worker, end in ends.items()}
    print(f"planned {plan['makespan_s']:.2f} s, took {took}")
    assert max(took.values()) <= 1.15 * plan["makespan_s"]
    assert min(took.values()) >= 0.7 * plan["makespan_s"], "the plan is not worth its name"


def test_work_is_in_proportion_to_speed(outcome: tuple[dict[str, Any], list[Any]]) -> None:
    tokens: dict[str, int] = defaultdict(int)
    for request in outcome[1]:
        tokens[request["worker"]] += request["output_tokens"]
    total = sum(tokens.values())
    for worker, speed in SPEEDS.items():
        share = speed / sum(SPEEDS.values())
        assert tokens[worker] / total == pytest.approx(share, rel=0.15)
