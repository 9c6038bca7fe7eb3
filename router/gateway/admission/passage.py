"""A request's way without a task of its own: from its client's connection to a worker's, and back.

Rules:
- whatever comes for it calls its next step: a place, the beginning of its answer, the end of that,
  its client, who reads again. A step does what a task would, by the same functions;
- what is unusual goes on in a task, which is told how far it has come (`Begun`): no connection is
  idle, a worker has failed or answers what goes elsewhere, it has fallen silent;
- a defect in a step is the request's, as in a task, and never of who calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from router.gateway.admission.attempts import Attempts, Begun
from router.gateway.admission.billing import note_unseen
from router.gateway.admission.retries import Tries
from router.gateway.fleet.stalls import Watched, WorkerStalled
from router.gateway.fleet.worker import Worker
from router.gateway.forwarding.exchange import Exchange
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.ticket import Placement, Ticket
from router.http.asgi import Direct
from router.http.errors import Outcome
from router.http.worker_connection import Connection
from router.http.worker_reply import Reply
from router.observe.logs import reset_about, set_about


class Whole(Protocol):
    """Who has begun the request, and ends it."""

    def end(self, exchange: Exchange, outcome: Outcome) -> None:
        """It has ended so."""
        ...

    async def conclude(self, exchange: Exchange, work: Awaitable[Outcome]) -> None:
        """Do the work, whose result or error is how it ends, and end it."""
        ...

    def answer(
        self, exchange: Exchange, ticket: Ticket, tries: Tries, begun: Begun | None
    ) -> Coroutine[Any, Any, Outcome]:
        """Place and forward it, or go on with what has begun."""
        ...


async def raised(error: BaseException) -> Outcome:
    """An error, where a task is to meet it."""
    try:
        raise error
    finally:
        del error  # its frames would hold it: a circle is garbage


class Passage:
    """One request on its way; see the module."""

    _over, _occupancy = False, 0.0
    _outcome: Outcome | None = None
    _worker: Worker | None = None
    _connection: Connection | None = None
    _watched: Watched | None = None
    _reply: Reply | None = None

    def __init__(
        self,
        whole: Whole,
        attempts: Attempts,
        dispatcher: Dispatcher,
        exchange: Exchange,
        ticket: Ticket,
        tries: Tries,
        out: Direct,
    ) -> None:
        self._whole, self._attempts, self._dispatcher = whole, attempts, dispatcher
        self._exchange, self._ticket, self._tries = exchange, ticket, tries
        self._out, self._about = out, (exchange.record.id, exchange.record.trace_id)

    def begin(self) -> None:
        """Ask for a place, where log lines are about the request already.

        Raises:
            UnplannableError: if its size is none.
        """
        self._out.watch(self._left, self._stopped)
        placement = None if self._over else self._dispatcher.ask(self._ticket, self)
        if placement is not None:
            try:
                self._send(placement)
            except Exception as error:
                self._hand_over(error)

    def _do(self, step: Callable[..., None], *about: object) -> None:
        before = set_about(self._about)
        try:
            step(*about)
        except Exception as error:
            self._hand_over(error)
        finally:
            reset_about(before)

    def done(self) -> bool:
        """Part of `Waiter`: it is told once."""
        return False

    def set_result(self, placement: Placement) -> None:
        """Part of `Waiter`: it has a place."""
        self._dispatcher.heard(self._ticket, began=True)
        self._do(self._send, placement)

    def set_exception(self, error: Exception) -> None:
        """Part of `Waiter`: it gets none."""
        self._dispatcher.heard(self._ticket, began=False)
        self._hand_over(error)

    def _send(self, placement: Placement) -> None:
        exchange, ticket = self._exchange, self._ticket
        self._worker = worker = self._attempts.sent(exchange, ticket, placement)
        self._connection = self._attempts.send_at_once(exchange, ticket, worker, self)
        if self._connection is None:
            self._hand_over(None)
            return
        self._watched = self._attempts.watch(exchange, ticket, worker, self._tries)
        self._watched.begin(self._silent)

    def answered(self, reply: Reply) -> None:
        """Part of `Reader`: its answer begins."""
        self._reply = reply
        self._do(self._open, reply)

    def failed(self, error: Exception) -> None:
        """Part of `Reader`: none begins; one that was closed while idle says nothing of anybody."""
        assert self._connection is not None
        assert self._worker is not None
        again = self._connection.closed_unheard
        self._hand_over(None if again else self._attempts.failure(self._worker, error))

    def _open(self, reply: Reply) -> None:
        assert self._worker is not None
        assert self._watched is not None
        feed, self._occupancy = self._attempts.answers.open(
            self._exchange, self._ticket, self._worker, self._tries, reply, self._watched.heard
        )
        reply.attach(feed, self._out, self._changed)

    def _changed(self) -> None:
        """Its answer has ended, or its client does not keep up, or does so again."""
        self._do(self._go_on)

    def _go_on(self) -> None:
        reply = self._reply
        assert reply is not None
        if reply.ended:
            self._close(reply)
        elif self._out.paused:
            self._out.when_drained(self._changed)
        else:
            reply.resume()

    def _close(self, reply: Reply) -> None:
        assert self._worker is not None
        exchange, ticket, worker = self._exchange, self._ticket, self._worker
        reply.check()
        outcome = self._attempts.answers.close(
            exchange, ticket, worker, self._tries, reply, self._occupancy
        )
        self._let_go()
        self._attempts.release(exchange, ticket, worker)
        self._worker = None
        self._outcome = outcome
        if self._out.paused:
            self._out.when_drained(self._drained)
        else:
            self._end(outcome)

    def _drained(self) -> None:
        """Its client has read enough of its answer, all of which has come."""
        self._do(self._end, self._outcome)

    def _end(self, outcome: Outcome) -> None:
        self._over = True
        self._out.finish()
        self._whole.end(self._exchange, outcome)

    def _left(self) -> None:
        """Its client has."""
        self._do(self._leave)

    def _leave(self) -> None:
        self._withdraw()
        self._end(Outcome.CANCELLED)

    def _stopped(self) -> None:
        """The time to drain is over."""
        if self._outcome is not None:
            self._drained()
            return
        self._withdraw()
        self._go_over(raised(asyncio.CancelledError()))

    def _withdraw(self) -> None:
        """From whoever has it, or is to."""
        worker, self._worker = self._worker, None
        if worker is not None:
            note_unseen(self._exchange, self._ticket, worker)
            self._let_go()
            self._attempts.release(self._exchange, self._ticket, worker)
        elif self._ticket.placed is self:
            self._dispatcher.withdraw(self._ticket)
            self._dispatcher.heard(self._ticket, began=False)

    def _silent(self) -> None:
        """It is given up, as its worker sends nothing."""
        self._hand_over(WorkerStalled())

    def _let_go(self) -> None:
        """Of its worker: what has not ended ends."""
        reply, self._reply = self._reply, None
        watched, self._watched = self._watched, None
        connection, self._connection = self._connection, None
        if watched is not None:
            watched.end()
        if reply is not None:
            reply.detach()
            reply.close()
        elif connection is not None:
            connection.leave(self)

    def _hand_over(self, error: Exception | None) -> None:
        """A task goes on with it, from this error or from where it is."""
        worker, self._worker = self._worker, None
        self._let_go()
        if self._over or worker is None:
            self._go_over(raised(RuntimeError("nothing to go on with") if error is None else error))
            return
        begun = Begun(worker, self._tries, error, fresh=error is None and worker.rank is None)
        self._go_over(self._whole.answer(self._exchange, self._ticket, self._tries, begun))

    def _go_over(self, work: Coroutine[Any, Any, Outcome]) -> None:
        over, self._over = self._over, True
        self._out.run(work if over else self._whole.conclude(self._exchange, work))
