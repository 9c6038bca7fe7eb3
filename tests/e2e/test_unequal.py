"""Workers of unequal speed, as real processes: the faster are sent more."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import httpx
import pytest

from tests import http
from tests.helpers import Fleet, gsm8k, write_lengths

REQUESTS = 96
# Iterations of 8 ms and more, so that a busy machine does not make them all alike.
SPEEDS = {"agent-0": 4.0, "agent-1": 4.0, "agent-2": 1.0}


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
    async with http.AsyncClient(base_url=fleet.url, limits=limits) as client:

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


def test_the_faster_have_more_to_do(outcome: tuple[dict[str, Any], list[Any]]) -> None:
    """How much more, and that they finish together, tests/solver tells in virtual time."""
    tokens: dict[str, int] = defaultdict(int)
    for request in outcome[1]:
        assert request["outcome"] == "completed"
        tokens[request["worker"]] += request["output_tokens"]
    assert set(tokens) == set(SPEEDS)
    print(f"tokens: {dict(tokens)}")
    assert min(tokens["agent-0"], tokens["agent-1"]) > 1.2 * tokens["agent-2"]
