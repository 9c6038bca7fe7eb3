"""A worker that takes requests and never answers, beside a good one: who waits there, how long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from router.gateway.accounting.accounts import Accounts
from router.gateway.admission.attempts import Attempts
from router.gateway.admission.kept_answers import KeptAnswers
from router.gateway.admission.retries import Tries
from router.gateway.admission.shedding import Shedding
from router.gateway.explanations.request_record import RequestRecord
from router.gateway.fleet import stalls
from router.gateway.fleet.reports import PlainLook
from router.gateway.fleet.stalls import LEAST_PATIENCE_S
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import WATCH_S
from router.gateway.forwarding.exchange import Exchange
from router.gateway.forwarding.forwarder import Forwarder
from router.gateway.planning.recaller import Recaller
from router.gateway.planning.ticket import Ticket
from router.http.apis import COMPLETIONS
from router.http.bodies import BodyMemory, Held
from router.http.connections import Connections
from router.http.errors import Headers, Outcome
from router.http.outline import outline
from router.http.reply import HeadKind
from router.http.worker_reply import Reply
from router.settings.gateway import GatewaySettings
from router.wire import REQUEST_ID
from solver.lengths.distribution import BINS, LengthDistribution
from solver.routing.rolling import lead
from solver.routing.slots import Known, PlainSlots
from tests.router.gateway.fleet import Half, half, ticket
from tests.router.gateway.test_stalls import turns
from tests.waiting import until

SLOTS, REQUESTS, BEGIN_S, END_S = 4, 24, 1000.0, 2000.0
HUNG, GOOD = "http://w0:1", "http://w1:1"
# One answer in a hundred is many times as long as most.
WIDE = LengthDistribution.of(np.ones(BINS))
MODELS = {"llama-65b": {"id": "llama-65b"}}


class Clock:
    """Stands until it is moved on."""

    def __init__(self) -> None:
        self.now = BEGIN_S

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By which silences are told."""
    made = Clock()
    monkeypatch.setattr(stalls, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


@dataclass
class Sender(Forwarder):
    """One worker never answers, the other at once.

    Attributes:
        waiting: since when those wait that are at the first, by their names.
        waited_s: how long those did that have left it.
        most: that ever waited there at once.
    """

    clock: Clock
    waiting: dict[str, float] = field(default_factory=dict)
    waited_s: dict[str, float] = field(default_factory=dict)
    most: int = 0
    gateway: str = "test"

    async def send(
        self,
        url: str,
        headers: Headers,  # noqa: ARG002
        extra: str,
        body: bytes,
        *,
        worker: Worker,  # noqa: ARG002
        fresh: bool = False,  # noqa: ARG002
    ) -> Reply:
        if url.startswith(HUNG):
            name = extra.partition(f"{REQUEST_ID.decode()}: ")[2].partition("\r\n")[0]
            self.waiting[name] = self.clock.now
            self.most = max(self.most, len(self.waiting))
            try:
                await asyncio.Event().wait()
            finally:
                self.waited_s[name] = self.clock.now - self.waiting.pop(name)
        stream = json.loads(body)["stream"]
        kind = b"text/event-stream" if stream else b"application/json"
        reply = Reply(cast(Any, None), HeadKind(200, [(b"content-type", kind)]))
        event = b'{"choices":[{"index":0,"text":" w","finish_reason":"length"}]}'
        reply.take(b"data: " + event + b"\n\ndata: [DONE]\n\n" if stream else event)
        reply.end()
        return reply


async def discard(_: Any) -> None:  # noqa: ANN401
    pass


def unexpected(*_: object) -> Any:  # noqa: ANN401
    raise AssertionError


def exchange(one: Ticket) -> Exchange:
    body = {"model": "llama-65b", "prompt": "a", "stream": one.streamed}
    record = RequestRecord(one.request_id, "llama-65b", one.streamed, 0.0)
    held = Held(BodyMemory(1, unexpected))
    made = Exchange(discard, unexpected, record, "/v1/completions", [], held)
    made.body = json.dumps(body).encode()
    made.request = outline(made.body, COMPLETIONS)
    return made


def attempts(made: Half, sender: Sender) -> Attempts:
    settings, workers = GatewaySettings(worker=f"{HUNG},{GOOD}"), made.workers  # type: ignore[arg-type,call-arg]
    shedding = Shedding(settings, workers, made.dispatcher, Recaller(workers, Connections()))
    accounts = Accounts(made.metrics, 0)
    kept, health = KeptAnswers(workers, 0, None), workers.conditions
    return Attempts(
        settings, health, made.dispatcher, shedding, sender, accounts, kept, made.metrics
    )


def become_plain(made: Half) -> Iterator[Worker]:
    for worker in made.workers:
        worker.plain_slots = PlainSlots(SLOTS, known=Known.SET)
        worker.update_plain(PlainLook(MODELS), 0.0)
        yield worker


def most_s(one: Exchange) -> float:
    """Three times what is predicted until something comes for it."""
    choice = one.record.choice
    assert choice is not None
    predicted_s = choice.first_token_s(1.0) if one.record.stream else choice.finish_s
    return max(LEAST_PATIENCE_S, 3.0 * predicted_s)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_its_slots_worth_waits_there_at_most_and_nobody_longer_than_thrice_what_was_predicted(
    clock: Clock, streamed: bool, known: bool
) -> None:
    """Also if it has answered before."""
    asyncio.run(ask(clock, streamed, known))


async def ask(clock: Clock, streamed: bool, known: bool) -> None:
    async with half(2, plan_deadline_s=0) as made:
        bad, _ = become_plain(made)
        if known:
            bad.stall_guard.heard_s = clock.now
        made.dispatcher.reconsider()
        sender = Sender(clock)
        running, asked = attempts(made, sender), dict[str, Exchange]()
        tasks = list[asyncio.Task[Outcome]]()
        for k in range(REQUESTS):
            one = ticket(str(k))
            one.streamed, one.job = streamed, replace(one.job, lengths=WIDE)
            asked[one.request_id] = exchange(one)
            tasks.append(asyncio.create_task(running.run(asked[one.request_id], one, Tries())))
        await until(lambda: sum(task.done() for task in tasks) + len(sender.waiting) == REQUESTS)
        assert 0 < len(sender.waiting) <= SLOTS + lead(SLOTS, 1)
        may_wait_s = {name: most_s(asked[name]) for name in sender.waiting}
        while sender.waiting:
            clock.now += WATCH_S
            made.workers.conditions.watch(bad, clock.now)
            await turns()
            assert clock.now < END_S, "they wait for ever"
        assert [await task for task in tasks] == [Outcome.COMPLETED] * REQUESTS
        assert bad.health.standing == "suspect"
        assert sender.most <= SLOTS + lead(SLOTS, 1)
        assert sender.waited_s.keys() == may_wait_s.keys()
        for name, waited_s in sender.waited_s.items():
            assert waited_s <= may_wait_s[name] + 1.01 * WATCH_S
