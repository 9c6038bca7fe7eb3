"""Workers of unequal speed get work in proportion, and finish together."""

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
    async with httpx.AsyncClient(base_url=fleet.url, limits=limits) as client:

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


def test_no_worker_is_left_with_work_when_the_others_have_done_theirs(
    outcome: tuple[dict[str, Any], list[Any]],
) -> None:
    """What is unsent is planned again and again, so the fleet ends together."""
    explained = outcome[1]
    start = min(request["times"]["received_at"] for request in explained)
    took: dict[str, float] = defaultdict(float)
    for request in explained:
        assert request["outcome"] == "completed"
        ended = request["times"]["ended_at"] - start
        took[request["worker"]] = max(took[request["worker"]], ended)
    assert set(took) == set(SPEEDS)
    print(f"took {dict(took)}")
    assert min(took.values()) >= 0.8 * max(took.values())


def test_work_is_in_proportion_to_speed(outcome: tuple[dict[str, Any], list[Any]]) -> None:
    tokens: dict[str, int] = defaultdict(int)
    for request in outcome[1]:
        tokens[request["worker"]] += request["output_tokens"]
    total = sum(tokens.values())
    for worker, speed in SPEEDS.items():
        share = speed / sum(SPEEDS.values())
        assert tokens[worker] / total == pytest.approx(share, rel=0.15)
