"""Targets reach the sequences that policies decide over, inside an engine and before one."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf

import pytest

from router.agent.engines.emulated.engine import EmulatedEngine
from router.agent.loop import EngineLoop, EngineRequest
from router.agent.queue_position import QueuePosition, read_queue_position
from router.agent.sidecar.sizing import RequestSizer
from router.http.apis import COMPLETIONS
from router.http.asgi import Scope
from router.http.outline import outline
from router.observe.metrics import AgentMetrics
from router.wire import PACE, TURN
from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from solver.batching.queue import SortedQueue
from solver.batching.sequence import Sequence
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.profiles import PROFILES
from solver.routing.fair import Turn

COST = PROFILES["llama-65b-ascend"].cost
NOW = 100.0
BODY = json.dumps({"model": "m", "prompt": "a", "max_tokens": 8}).encode()


def an_engine() -> tuple[EngineLoop, Batcher]:
    waiting = SortedQueue(lambda sequence: sequence.arrival_s)
    batcher = Batcher(4, inf, COST, POLICIES["adaptive"](), NOW, waiting=waiting)
    return EngineLoop(batcher, EmulatedEngine(COST, {}, 0), AgentMetrics()), batcher


def inside(position: QueuePosition) -> Sequence:
    """As the loop of an engine in this process queues it."""
    loop, batcher = an_engine()
    answers = loop.engine.answers(outline(BODY, COMPLETIONS), {}, lambda _: 8)
    loop.submit(EngineRequest(answers, 1), None, NOW, position)
    (sequence,) = batcher._queue.head([0], batcher.progress.remaining)
    return sequence


def before(position: QueuePosition) -> Sequence:
    """As a sidecar holds it."""
    request = outline(BODY, COMPLETIONS)
    held = RequestSizer().size(request, hint=None, position=position, now=NOW, most=2048)
    return held.sequences[0]


@pytest.mark.parametrize("queue", [inside, before])
@pytest.mark.parametrize(
    ("headers", "targets"),
    [
        ({}, NO_TARGETS),
        ({"x-makespan-tpot-ms": "50"}, Targets(tpot_s=0.05)),
        ({"x-makespan-ttft-ms": "1500", "x-makespan-waited-ms": "500"}, Targets(ttft_s=2.0)),
        ({"x-slo-ttft-ms": "1500", "x-slo-tpot-ms": "50"}, Targets(1.5, 0.05)),
    ],
)
def test_targets_count_from_when_the_request_came_to_its_gateway(
    queue: Callable[[QueuePosition], Sequence], headers: dict[str, str], targets: Targets
) -> None:
    scope: Scope = {"headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    sequence = queue(read_queue_position(scope))
    assert sequence.targets == targets
    waited_s = float(headers.get("x-makespan-waited-ms", 0)) / 1000
    assert sequence.arrival_s == NOW - waited_s


@pytest.mark.parametrize("kind", [{"n": 5}, {"prompt": ["a"] * 5}, {"prompt": ["a", "b"], "n": 2}])
@pytest.mark.parametrize("ahead_s", [0.0, 600.0])
def test_answers_of_one_request_have_their_turns_one_after_the_other(
    kind: dict[str, object], ahead_s: float
) -> None:
    headers = [(TURN, b"%g" % ahead_s), (PACE, b"1.5")]
    loop, batcher = an_engine()
    body = json.dumps({"model": "m", "prompt": "a", "max_tokens": 8} | kind).encode()
    answers = loop.engine.answers(outline(body, COMPLETIONS), {}, lambda _: 8)
    position = read_queue_position({"headers": headers})
    loop.submit(EngineRequest(answers, 1), None, NOW, position)
    queued = batcher._queue.head(list(range(9)), batcher.progress.remaining)
    turns = [NOW - ahead_s, *(NOW + 1.5 * k for k in range(1, len(answers)))]
    assert [one.turn_s for one in queued] == turns
    other = QueuePosition(ahead_s=0.0)
    loop.submit(EngineRequest(answers[:1], 1), None, NOW + 2.0, other)
    (_, _, next_one, *_) = batcher._queue.head(list(range(9)), batcher.progress.remaining)
    assert next_one.turn_s == NOW + 2.0, "whoever comes is before those whose turn comes later"


@pytest.mark.parametrize("queue", [inside, before])
@pytest.mark.parametrize(
    ("told", "ahead_s"), [(None, None), ("0", 0.0), ("600", 600.0), ("nonsense", None)]
)
def test_a_turn_is_kept_to_as_it_was_told(
    queue: Callable[[QueuePosition], Sequence], told: str | None, ahead_s: float | None
) -> None:
    headers = [] if told is None else [(TURN, told.encode())]
    sequence = queue(read_queue_position({"headers": headers}))
    assert (sequence.turn_s, sequence.hurry_s) == Turn.of(ahead_s, NOW)
