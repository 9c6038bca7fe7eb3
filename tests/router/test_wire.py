"""The state message: there and back, tolerant of newer agents, clear about nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import orjson
import pytest

from router.wire import (
    LONGEST_NAME,
    MOST_RECALLED,
    MOST_TOKENS,
    AgentState,
    Beside,
    Recall,
    SlotReport,
    Want,
    WireError,
)
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


SLOTS = SlotReport(9.0, 2, {"empty": 3.5}, 0.9, 8.0, 9.0, [(0, 1.5, 2.0)], [(0.0, 1.0, True, (0,))])
MESSAGES: dict[str, Any] = {
    "state": replace(state("a"), beside=Beside(1, 1, 1, 1, 1, 1.0, 1, 1, 1.0, 1.0)),
    "slots": SLOTS,
    "recall": Recall(("x",), 3),
    "want": Want(1, 2.0, 3.0),
}


def changed(told: Any, to: object, kind: type | tuple[type, ...]) -> Iterator[Any]:  # noqa: ANN401
    """The message with each of its numbers, or texts, in turn as something else."""
    if isinstance(told, kind) and not isinstance(told, bool):
        yield to
    for key, part in _parts(told):
        for other in changed(part, to, kind):
            copy = told.copy() if isinstance(told, dict) else list(told)
            copy[key] = other
            yield copy


def _parts(told: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401
    if isinstance(told, dict):
        return list(told.items())
    return list(enumerate(told)) if isinstance(told, list | tuple) else []


def numbers(told: Any) -> Iterator[float]:  # noqa: ANN401
    if isinstance(told, int | float):
        yield told
    for _, part in _parts(told):
        yield from numbers(part)


@pytest.mark.parametrize("name", MESSAGES)
def test_no_number_that_is_told_is_beyond_what_can_be_reckoned_with(name: str) -> None:
    message = MESSAGES[name]
    tried = 0
    for monstrous in (1e300, -1e300, 1e18, -1e18, 10**15, -(10**15)):
        for told in changed(asdict(message), monstrous, (int, float)):
            tried += 1
            try:
                read = type(message).decode(orjson.dumps(told))
            except WireError:
                continue
            assert all(abs(one) <= MOST_TOKENS for one in numbers(asdict(read))), told
    assert tried >= 6


@pytest.mark.parametrize("part", [-0.1, 1e7, MOST_TOKENS])
@pytest.mark.parametrize("name", ["utilization", "efficiency"])
def test_parts_of_something_are_told_as_such(name: str, part: float) -> None:
    message = MESSAGES["state" if name == "utilization" else "slots"]
    with pytest.raises(WireError, match=name):
        type(message).decode(orjson.dumps({**asdict(message), name: part}))


def test_no_more_and_no_longer_names_are_read_than_there_can_be() -> None:
    for requests in (["x"] * (MOST_RECALLED + 1), ["x" * (LONGEST_NAME + 1)]):
        with pytest.raises(WireError, match="requests"):
            Recall.decode(orjson.dumps({"requests": requests}))
