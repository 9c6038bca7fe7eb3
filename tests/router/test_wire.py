"""The state message: there and back, tolerant of newer agents, clear about nonsense."""

from __future__ import annotations

import orjson
import pytest

from router.wire import AgentState, Recall, SlotReport, WireError
from tests.router.gateway.fleet import state


def test_there_and_back() -> None:
    line = state("a").encode()
    assert line.endswith(b"\n")
    assert AgentState.decode(line) == state("a")


def test_what_newer_agents_say_beyond_that_is_ignored() -> None:
    data = {**state("a").to_json(), "invented_later": 1}
    data["cost_ms"]["term_ms"] = 3.0
    assert AgentState.decode(orjson.dumps(data)) == state("a")
    assert Recall.decode(b'{"requests": ["x"], "invented_later": 1}') == Recall(("x",))


def test_what_agents_have_always_said_is_enough() -> None:
    """A field or term that comes later needs a default, or no older agent would be up."""
    cost = {"alpha_p_ms": 1.0, "beta_p_ms": 1.0, "alpha_d_ms": 1.0, "beta_d_ms": 1.0}
    told = {
        "name": "a",
        "model": "m",
        "engine": "emulated",
        "policy": "mixed",
        "slots": 1,
        "kv_tokens": 9,
        "max_model_len": 9,
        "cost_ms": cost,
        "running": 0,
        "queued": 0,
        "kv_held": 0,
        "utilization": 0.0,
        "draining": False,
    }
    assert AgentState.decode(orjson.dumps(told)).name == "a"


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"<html>", b'{"name": "a"}'])
def test_nonsense_is_quoted(line: bytes) -> None:
    with pytest.raises(WireError, match="not an agent's state"):
        AgentState.decode(line)


def test_a_cost_model_that_makes_no_sense_is_refused() -> None:
    data = {**state("a").to_json(), "cost_ms": {"alpha_p_ms": -1}}
    with pytest.raises(WireError, match="missing"):
        AgentState.decode(orjson.dumps(data))


def test_slots_there_and_back() -> None:
    seconds = {"prefill": 0.5, "empty": 3.5}
    told = SlotReport(9.0, 2, seconds, 0.9, 8.0, 9.0, [(0, 1.5, 2.0)], [(0.0, 1.0, True, (0, 1))])
    assert SlotReport.decode(told.encode()) == told


@pytest.mark.parametrize("line", [b"", b"{}", b'{"now_s": "then"}'])
def test_nonsense_of_slots_is_quoted(line: bytes) -> None:
    with pytest.raises(WireError, match="not a report of slots"):
        SlotReport.decode(line)
