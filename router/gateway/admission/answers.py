"""An answer that has begun: whether it is the request's, what takes it, and what it shows.

Rules:
- what its status says of the worker, and of what becomes of the request, is
  `router.gateway.forwarding.verdict`'s; workers' healths hear of it;
- it serves well only from the first byte of its body on;
- what has come in full is learnt from: lengths, tokens, the speed of who is only assumed to be so
  fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.slo import Felt
from router.gateway.admission.kept_answers import KeptAnswers
from router.gateway.admission.retries import Retries, Tries
from router.gateway.admission.shedding import Shedding
from router.gateway.fleet.conditions import Conditions
from router.gateway.fleet.worker import Worker
from router.gateway.forwarding.exchange import Exchange
from router.gateway.forwarding.forwarder import Forwarder
from router.gateway.forwarding.verdict import Verdict, redirects, verdict, wait_s
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.ticket import Ticket
from router.http.errors import (
    Outcome,
    RecalledError,
    WorkerBusy,
    WorkerFailed,
    WorkerUnreachable,
    outcome_of_status,
)
from router.http.secret import CHALLENGE, is_challenge
from router.http.usage import Usage
from router.http.worker_reply import Reply
from router.wire import FULL, RECALLED
from solver.cost.model import span_s

# Gaps between a stream's tokens that tell how fast its worker makes them; a time that has a prefill
# and perhaps a queue in it tells less.
LEAST_GAPS, WHOLE_WEIGHT = 8, 0.5


class GoOn(Exception):
    """This worker has not answered the request, which is to go on; `error` says why."""

    def __init__(self, error: WorkerUnreachable) -> None:
        super().__init__(str(error))
        self.error = error


class Answers:
    """See the module."""

    def __init__(
        self,
        retries: Retries,
        conditions: Conditions,
        dispatcher: Dispatcher,
        shedding: Shedding,
        forwarder: Forwarder,
        accounts: Accounts,
        kept: KeptAnswers,
    ) -> None:
        self._retries, self._conditions, self._dispatcher = retries, conditions, dispatcher
        self._shedding, self._forwarder = shedding, forwarder
        self._accounts, self._kept = accounts, kept

    def open(
        self,
        exchange: Exchange,
        ticket: Ticket,
        worker: Worker,
        tries: Tries,
        reply: Reply,
        on_progress: Callable[[], None],
    ) -> tuple[Callable[[bytes], None], float]:
        """An answer has begun: what takes it as it comes, and how occupied its worker is.

        Raises:
            RecalledError, GoOn: if this is not to be the request's answer.
            WorkerFailed: if it cannot be read.
        """
        good = self._judge(reply, ticket, worker, tries)
        streams, begun = reply.is_stream, reply.status != 200

        def progress(events: int) -> None:
            nonlocal good, begun
            on_progress()
            if events:
                worker.load.progress(ticket, events)
            if not begun and (events or not streams):
                begun = True
                self._dispatcher.begun(ticket, worker, streams=streams)
            if good:
                good, tries.served = False, True
                self._conditions.served(worker, trial=ticket.trial)

        noted = self._kept.noting(exchange, worker, progress) if exchange.api.kept else progress
        return exchange.open(reply, worker.name, noted), worker.load.occupancy(worker.slots, 0)

    def failed(self, ticket: Ticket, worker: Worker, tries: Tries, why: str) -> None:
        """A worker has failed one that it may have begun to answer."""
        self._conditions.failed(worker, why, trial=ticket.trial, begun=tries.served)

    def close(
        self,
        exchange: Exchange,
        ticket: Ticket,
        worker: Worker,
        tries: Tries,
        reply: Reply,
        occupancy: float,
    ) -> Outcome:
        """All of it has come, from a worker that was so occupied as it began.

        Raises:
            WorkerFailed: if that is no answer.
        """
        usage = exchange.close(reply, worker.name)
        if exchange.wrong:
            self.failed(ticket, worker, tries, exchange.wrong)
        if exchange.failed:
            return Outcome.FAILED
        if reply.status == 200 and not exchange.wrong:
            self._answered(exchange, ticket, worker, usage, occupancy)
        elif 400 <= reply.status < 500:
            self._dispatcher.ended(ticket, worker, None)
        return outcome_of_status(reply.status)

    def _answered(
        self,
        exchange: Exchange,
        ticket: Ticket,
        worker: Worker,
        usage: Usage | None,
        occupancy: float,
    ) -> None:
        """The worker, which was taken to that `occupancy` then, has answered it in full."""
        assert exchange.request is not None
        record = exchange.record
        self._accounts.learn(exchange.request, record, usage)
        if usage is not None and usage.tokens:
            if ticket.session:
                self._dispatcher.answered(ticket, worker, usage.tokens)
            if exchange.answer_id is not None:
                self._kept.remember(exchange.answer_id, worker, record.tenant, usage.tokens)
        self._learn(worker, exchange, ticket, occupancy)
        if record.output_tokens is not None:
            self._dispatcher.ended(ticket, worker, record.output_tokens / record.choices)
        if self._shedding.on:
            felt = Felt.of(exchange.timing(), record.output_tokens, record.choices)
            self._shedding.saw(worker, felt)

    def _judge(self, reply: Reply, ticket: Ticket, worker: Worker, tries: Tries) -> bool:
        """Whether its status says that the worker serves; it is the request's answer anyway.

        Raises:
            RecalledError, GoOn: if this is not to be the request's answer.
            WorkerFailed: if it cannot be read.
        """
        if reply.is_compressed:
            raise WorkerFailed("Its answer is compressed, which nobody has asked for.")
        status = reply.status
        if redirects(status):
            to = (reply.header(b"location") or b"").decode("latin-1")
            reason = f"it redirects a request to {to[:200]}: name that server instead"
            raise WorkerFailed(f"The worker answered {status}, a redirect.", reason)
        kind = verdict(status, has_deadline=ticket.due_s != inf, planned=True)
        if status == 401 and self._knows_not_us(reply, worker):
            kind = Verdict.FAILED
        if kind is Verdict.ANSWER:
            return True
        if status == 503 and ticket.recall_pending and reply.has(RECALLED):
            raise RecalledError
        if status == 503 and reply.has(FULL):
            worker.filled()
            raise GoOn(WorkerBusy("The worker's slots are taken by other gateways.", "full"))
        if kind is Verdict.FAILED:
            why = f"it answered a request with {status}"
            self._conditions.failed(worker, why, trial=ticket.trial)
            if self._retries.after_failure(ticket, worker, tries):
                raise GoOn(WorkerUnreachable(f"The worker answered {status}.", f"status_{status}"))
            return False
        for_s = wait_s(reply.header(b"retry-after"), kind)
        said = "is full or not ready" if kind is Verdict.FULL else "limits its requests"
        self._conditions.busy(worker, f"it {said}: {status}", for_s, trial=ticket.trial)
        alone = kind is Verdict.FULL
        if self._retries.while_full(ticket, worker, tries, for_s or 0.0, alone=alone):
            raise GoOn(WorkerBusy(f"The worker {said}.", "busy"))
        reply.retry_after(self._dispatcher.room.retry_after_s(ticket))
        return False

    def _knows_not_us(self, reply: Reply, worker: Worker) -> bool:
        """Whether it is the gateway that a worker answers so, and not the client."""
        challenged = is_challenge(reply.status, reply.header(CHALLENGE[0]))
        return challenged or self._forwarder.has_key(worker)

    def _learn(self, worker: Worker, exchange: Exchange, ticket: Ticket, occupancy: float) -> None:
        """Correct the scale of a worker whose cost model is only assumed.

        By the gaps between a stream's tokens, in which there is no queue; else by the whole time,
        unless that may have one in it. `occupancy` is that of its begin.
        """
        record = exchange.record
        if worker.state is not None or not record.output_tokens or exchange.sent is None:
            return
        occupancy = (occupancy + worker.load.occupancy(worker.slots, 0)) / 2.0
        prompt, output = float(record.prompt_tokens), record.output_tokens / record.choices
        now, cost = time.monotonic(), worker.base_cost
        if exchange.first_token is not None and output >= LEAST_GAPS:
            round_s = span_s(cost, prompt, output, occupancy) - cost.prefill_s(prompt)
            worker.speed.rounds.observe(round_s * (1 - 1 / output), now - exchange.first_token)
        elif not worker.has_queue_for(ticket):
            predicted_s = span_s(cost, prompt, output, occupancy)
            worker.speed.rounds.observe(predicted_s, now - exchange.sent, WHOLE_WEIGHT)
