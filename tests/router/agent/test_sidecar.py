"""What a sidecar reads from its server, and what it refuses to start with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.agent.queue_position import DEFAULT_POSITION
from router.agent.sidecar.app import create_app, open_releaser
from router.agent.sidecar.engine import Engine
from router.agent.sidecar.gate import Gate
from router.agent.sidecar.health import (
    PROVEN,
    QUICK_S,
    QUICK_THRESHOLD,
    SLOW_THRESHOLD,
    HealthCheck,
)
from router.agent.sidecar.sizing import ANSWER_TOKENS, RequestSizer
from router.agent.sidecar.stream_parser import NamedEvents, StreamEvent, StreamParser
from router.agent.sidecar.upstream import Upstream, UpstreamUnusable
from router.http.apis import CHAT, COMPLETIONS
from router.http.connections import Connections
from router.http.outline import outline
from router.http.usage import Usage
from router.observe.metrics import AgentMetrics
from router.settings.agent import AgentSettings
from router.settings.base import BadSettings
from router.settings.commands import load
from router.wire import AgentState
from solver.cost.profiles import PROFILES
from tests.faulty_server import STREAM_HEAD, Call, FaultyServer, chunk
from tests.router.gateway.fleet import state
from tests.router.http.test_apis import messages_stream, responses_stream


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


STREAM = b"".join(
    [
        b": a comment\n\n",
        event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}]),
        event(choices=[{"index": 0, "delta": {"content": " one"}, "finish_reason": None}]),
        event(choices=[{"index": 1, "text": " two", "token_ids": [5, 6]}], usage=None),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        event(choices=[{"index": 1, "text": " end", "finish_reason": "length"}]),
        b"data: {broken\r\n\r\ndata: 3\n\n",
        event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 4}),
        b"data: [DONE]\n\n",
    ]
)
HEARD = [
    StreamEvent(0, 0, False, None),
    StreamEvent(0, 1, False, None),
    StreamEvent(1, 2, False, None),
    StreamEvent(0, 0, True, None),
    StreamEvent(1, 1, True, None),
    StreamEvent(-1, 0, False, Usage(7, 4)),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_progress_is_read_however_the_bytes_are_cut(cuts: list[int]) -> None:
    parser, heard = StreamParser(), list[StreamEvent]()
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        heard += parser.feed(STREAM[start:end])
    assert heard == HEARD
    assert parser.done
    assert parser.usage == Usage(7, 4)


def test_continuous_usage_is_read_with_its_tokens() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    heard = StreamParser().feed(event(choices=[{"index": 0, "text": "a b"}], usage=usage))
    assert heard == [StreamEvent(0, 1, False, Usage(7, 2))]


def failures(check: HealthCheck, *, idle: bool = False) -> int:
    """How many probes without an answer it takes."""
    for count in range(1, 100):
        if check.failed(bytes_seen=False, idle=idle and count == 1):
            return count
    raise AssertionError("never down")


def answers_quickly() -> HealthCheck:
    check = HealthCheck()
    for _ in range(PROVEN):
        check.answered(0.01, working=True)
    return check


def test_a_silent_server_is_down_soon_if_it_answers_at_work_or_has_none() -> None:
    assert failures(answers_quickly()) == QUICK_THRESHOLD
    assert failures(HealthCheck(), idle=True) == QUICK_THRESHOLD


def test_a_silent_server_that_may_be_computing_is_waited_for() -> None:
    idle = HealthCheck()
    for _ in range(100):
        idle.answered(0.01, working=False)  # tells nothing of what it does at work
    assert failures(idle) == SLOW_THRESHOLD
    late, back, deaf = answers_quickly(), answers_quickly(), answers_quickly()
    late.answered(2 * QUICK_S, working=True)
    back.failed(bytes_seen=False, idle=False)
    back.answered(0.01, working=True)
    deaf.failed(bytes_seen=True, idle=False)
    for check in (late, back, deaf):
        assert failures(check) == SLOW_THRESHOLD


def test_a_server_that_sends_tokens_is_alive() -> None:
    check = answers_quickly()
    for _ in range(100):
        assert not check.failed(bytes_seen=True, idle=False)


async def endless(call: Call) -> None:
    await call.send(STREAM_HEAD)
    while True:
        await call.send(chunk(b" " * 65_536))


def test_pages_without_end_are_not_read_to_their_end() -> None:
    async def fetch(url: str, path: str) -> tuple[int, bytes]:
        connections = Connections()
        connections.open()
        try:
            settings = AgentSettings(engine="openai", upstream=url)  # type: ignore[call-arg]
            return await Upstream(settings, connections).fetch(path)
        finally:
            await connections.close()

    with FaultyServer(others=endless) as server:
        assert asyncio.run(fetch(server.url, "/v1/models"))[0] == 200
        with pytest.raises(UpstreamUnusable, match="its /metrics is more than"):
            asyncio.run(fetch(server.url, "/metrics"))


def make(body: object, hint: float | None = None) -> tuple[list[int], list[float], list[int]]:
    request = None if body is None else outline(json.dumps(body).encode(), COMPLETIONS)
    ask = RequestSizer().size(request, hint=hint, position=DEFAULT_POSITION, now=0.0, most=2048)
    parts = ask.sequences
    return (
        [one.prompt_tokens for one in parts],
        [one.expected_tokens for one in parts],
        [one.max_tokens for one in parts],
    )


def test_requests_are_counted_by_prompts_and_choices() -> None:
    two = {"model": "m", "prompt": [[1, 2, 3], [4, 5]], "n": 2, "max_tokens": 9}
    assert make(two) == ([3, 3, 2, 2], [9.0] * 4, [9] * 4)
    assert make({"model": "m", "prompt": [1] * 40, "max_tokens": 500}, 80.0) == (
        [40],
        [80.0],
        [500],
    )
    assert make({"model": "m", "prompt": [1] * 40, "max_tokens": 9999})[2] == [2008]


def test_what_cannot_be_read_is_the_servers_to_refuse() -> None:
    assert make(None) == ([1], [1.0], [1])


def test_an_answer_without_a_limit_is_given_a_guess() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = outline(body, CHAT)
    ask = RequestSizer().size(request, hint=None, position=DEFAULT_POSITION, now=0.0, most=2048)
    assert ask.sequences[0].expected_tokens == ANSWER_TOKENS
    assert ask.sequences[0].max_tokens == 2047


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/completions"])
def test_an_upstream_that_says_too_much_is_named(path: str) -> None:
    told = ["--engine", "openai", "--upstream", f"http://127.0.0.1:1{path}"]
    settings = load(AgentSettings, told)
    with pytest.raises(BadSettings, match=r"upstream: .*/v1"):
        create_app(settings)


def test_a_sidecar_starts_from_the_cost_model_of_a_file(tmp_path: Path) -> None:
    profile = tmp_path / "mine.json"
    cost = {**PROFILES["opt-66b-a100-tp4"].cost.to_ms(), "alpha_p_ms": 7.5}
    profile.write_text(json.dumps({"cost_ms": cost}))
    told = ["--engine", "openai", "--upstream", "http://127.0.0.1:1", "--cost", str(profile)]
    assert open_releaser(load(AgentSettings, told)).cost.to_ms() == pytest.approx(cost)


@pytest.mark.parametrize("stream", [messages_stream, responses_stream])
@given(st.integers(1, 9), st.lists(st.integers(1, 200), max_size=20))
def test_streams_of_named_events_are_followed_however_they_are_cut(
    stream: Callable[[int], list[bytes]], tokens: int, cuts: list[int]
) -> None:
    text, parser, found = b"".join(stream(tokens)), NamedEvents(), list[StreamEvent]()
    for cut in cuts:
        found += parser.feed(text[:cut])
        text = text[cut:]
    found += parser.feed(text)
    assert parser.done
    assert found[-1] == StreamEvent(0, 0, True, Usage(9, tokens, 4))
    assert found[:-1] == [StreamEvent(0, 1, False, None)] * tokens


def test_as_many_names_are_told_as_a_state_has_room_for() -> None:
    settings = AgentSettings(engine="openai", upstream="http://a")  # type: ignore[call-arg]
    upstream = Upstream(settings, Connections())
    engine = Engine(settings, upstream, Gate(open_releaser(settings), AgentMetrics()))
    names = ["base", "bad\nname", *(f"adapter-{k}-{'é' * 40}" for k in range(300))]
    upstream.models, upstream.model = {name: {"id": name} for name in names}, "base"
    told = engine.more_models
    assert told == tuple(names[2 : 2 + len(told)])
    assert 50 < len(told) < 300
    made = replace(state("a"), more_models=told)
    assert AgentState.decode(made.encode()) == made
