"""The state message: there and back, tolerant of newer agents, clear about nonsense."""

from __future__ import annotations

import orjson
import pytest

from router.wire import AgentState, SlotReport, WireError
from tests.router.fleet import state


def test_there_and_back() -> None:
    line = state("a").encode()
    assert line.endswith(b"\n")
    assert AgentState.decode(line) == state("a")


def test_fields_of_newer_agents_are_ignored() -> None:
    data = {**state("a").to_json(), "invented_later": 1}
    assert AgentState.decode(orjson.dumps(data)) == state("a")


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
