"""What `makespan up` tells the processes that it starts."""

from __future__ import annotations

import pytest

from router.settings.agent import AgentSettings
from router.settings.base import BadSettings
from router.settings.commands import load
from router.settings.up import UpSettings
from router.up import agent_arguments


def agent_of(*flags: str, index: int = 0) -> AgentSettings:
    """An agent's settings, as it reads them from its own flags."""
    command, *arguments = agent_arguments(load(UpSettings, list(flags)), index)
    assert command == "agent"
    return load(AgentSettings, arguments)


def test_agents_of_a_real_engine_take_its_cost_as_it_is() -> None:
    real = agent_of("--engine", "transformers", "--model", "x", "--cost", "opt-66b-a100-tp4")
    assert (real.speed, real.cost) == (1.0, "opt-66b-a100-tp4")
    assert agent_of().speed == 20.0
    assert [agent_of("--speed", "24,8", index=k).speed for k in range(3)] == [24.0, 8.0, 24.0]


def test_agents_know_what_was_given_from_what_was_not() -> None:
    assert not {"kv_tokens", "max_model_len", "slots"} & agent_of().model_fields_set
    assert "kv_tokens" in agent_of("--kv-tokens", "131072").model_fields_set
    assert agent_of().drain_s == 2.0  # another default than an agent's own


@pytest.mark.parametrize(
    ("given", "each"),
    [
        ("tcp://*:24800", ["tcp://*:24800", "tcp://*:24801"]),
        ("tcp://[::1]:24800", ["tcp://[::1]:24800", "tcp://[::1]:24801"]),
        ("tcp://127.0.0.1:0", ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0"]),
    ],
)
def test_agents_publish_at_ports_of_their_own(given: str, each: list[str]) -> None:
    assert [agent_of("--kv-events", given, index=k).kv_events for k in range(2)] == each


def test_no_agent_publishes_beyond_the_last_port() -> None:
    with pytest.raises(BadSettings, match="kv_events: 3 agents from 65534"):
        agent_of("--agents", "3", "--kv-events", "tcp://*:65534")
    assert agent_of("--agents", "2", "--kv-events", "tcp://*:65534", index=1)
