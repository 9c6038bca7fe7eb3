"""What is not planned: to a worker that serves its model, least loaded, and back as it is.

Rules:
- which paths these are, says `router.http.relayed`; nothing else ever reaches a worker from here;
- as long as its client has no byte, a request that a worker fails, or cannot take, goes to another
  one, `retries` times; then what the last one said is the answer, an unknown path's 404 as well;
- that a worker cannot be reached counts against its health; what it answers does not: it may only
  lack the path;
- an answer that a worker keeps (``/v1/responses/ID``) is asked of that worker alone, and what goes
  on from one is asked there;
- what is made waits for its tenant's turn, and takes of its share (`relayed_work`);
- what is made counts for its key: a request as it comes, with the tokens that its body may be,
  of one input at most; once its answer has told them, its tokens. Whose answer tells none pays for
  none, but who leaves before it comes pays for what was thought.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.keys import GRANT, Grant
from router.gateway.admission.headers import request_id, session_of, tenant_of
from router.gateway.admission.kept_answers import KeptAnswers
from router.gateway.admission.relayed_model import Named, read_model
from router.gateway.admission.relayed_work import RelayedWork, Work
from router.gateway.explanations.request_record import RequestRecord
from router.gateway.fleet.model_names import ModelNames
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.forwarding.forwarder import Forwarder
from router.gateway.forwarding.passing import Passing
from router.gateway.forwarding.verdict import Verdict, redirects, verdict
from router.gateway.planning.dispatcher import Dispatcher
from router.http.asgi import (
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Scope,
    Send,
    header,
    read_body,
)
from router.http.bodies import BodyMemory, BodyReader, Held, check_type
from router.http.browsers import is_own
from router.http.drain import Drain
from router.http.encodings import HEADER as CONTENT_ENCODING
from router.http.encodings import encoding_of
from router.http.errors import (
    Cramped,
    Headers,
    NoCapacityError,
    NoMemoryError,
    Outcome,
    RouterError,
    WorkerFailed,
    WorkerUnreachable,
    outcome_of_status,
)
from router.http.relayed import family_of, response_id
from router.observe.logs import bind_request
from router.settings.gateway import GatewayTuning

log = logging.getLogger(__name__)

Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]


class Relay:
    """An ASGI application; what is not relayed goes to `unknown`."""

    def __init__(
        self,
        tuning: GatewayTuning,
        workers: Workers,
        dispatcher: Dispatcher,
        forwarder: Forwarder,
        accounts: Accounts,
        kept: KeptAnswers,
        names: ModelNames,
        bodies: BodyReader,
        memory: BodyMemory,
        drain: Drain,
        unknown: Endpoint,
    ) -> None:
        self._tuning, self._workers, self._dispatcher = tuning, workers, dispatcher
        self._forwarder, self._accounts, self._kept = forwarder, accounts, kept
        self._bodies, self._memory, self._drain = bodies, memory, drain
        self._unknown, self._names = unknown, names
        self._work = RelayedWork(workers, dispatcher.shares, accounts.spend)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        family = None
        if scope["type"] == "http":
            family = family_of(scope["method"], scope["path"], self._tuning.relay)
        if family is None:
            await self._unknown(scope, receive, send)
            return
        passing = Passing(scope, send, request_id(scope))
        bind_request(passing.name, None)
        outcome, held = Outcome.FAILED, Held(self._memory)
        record = RequestRecord(passing.name, "", stream=False, received_s=time.time())
        try:
            outcome = await self._serve(scope, receive, passing, held, record)
        except ClientDisconnected:
            outcome = Outcome.CANCELLED
        except RouterError as error:
            outcome = error.outcome
            await passing.send_error(error)
        except MemoryError:
            outcome = NoMemoryError.outcome
            await passing.send_error(NoMemoryError())
        except asyncio.CancelledError:  # the time to drain is over
            await passing.send_error(NoCapacityError("The gateway is shutting down.", 1.0))
        finally:
            held.let_go()
            usage = passing.usage() if _makes(scope) else None
            passing.settle(usage, left=outcome is Outcome.CANCELLED and record.worker is not None)
            self._accounts.end_relayed(record, outcome, family, usage)
            log.debug("relayed", extra={"family": family, "outcome": outcome.value})

    async def _serve(
        self, scope: Scope, receive: Receive, passing: Passing, held: Held, record: RequestRecord
    ) -> Outcome:
        grant: Grant | None = scope.get(GRANT)
        if grant is not None:
            grant.check_path(scope["method"], scope["path"], self._tuning.relay)
        tenant = record.tenant = held.tenant = tenant_of(scope)
        self._check_room(tenant)
        if scope["method"] != "GET" and not is_own(scope, self._tuning.allowed_origins):
            check_type(scope)
        body = await read_body(scope, receive, self._tuning.max_body_bytes, held.take)
        self._check_room(tenant)
        headers: Headers = scope["headers"]
        encoding = encoding_of(header(scope, CONTENT_ENCODING))
        if encoding:
            body = await self._bodies.decode(body, encoding, held)
            headers = [pair for pair in headers if pair[0] != CONTENT_ENCODING]
        only = None
        allowed = None if grant is None else grant.key.models
        named = await read_model(scope, body, self._bodies, limited=allowed is not None)
        name = response_id(scope["method"], scope["path"])
        if name is not None or named.previous:
            whose = None if grant is None else tenant
            param = "previous_response_id" if name is None else None
            only, _ = await self._kept.find(name or named.previous, whose, param)
        model, body = await self._resolved(named, scope, body, passing.name, only, allowed)
        passing.model = model if self._names.alias(named.model) else ""
        if grant is not None:
            passing.more = grant.headers
            if scope["method"] == "POST":
                self._check(grant, model, named.model, kept=name is not None)
                grant.check_claims(named.claims, self._tuning.relay)
        record.model = model
        context = self._workers.context(model)[0] if model else None
        making = grant if scope["method"] == "POST" else None
        passing.expect(len(body), context, making, json=named.json)
        work = Work(tenant, model, only, passing.expected_tokens)
        outcome = Outcome.CANCELLED
        try:
            with DisconnectWatch(receive, passing.send):
                outcome = await self._run(scope, headers, body, work, passing, record)
                await passing.out.drain()
        except RouterError as error:
            outcome = error.outcome
            raise
        finally:
            served = outcome in (Outcome.COMPLETED, Outcome.CANCELLED)
            self._work.end(work, passing.usage(), served=served)
        if name is not None and scope["method"] == "DELETE" and outcome is Outcome.COMPLETED:
            self._kept.forget(name)
        return outcome

    def _check(self, grant: Grant, model: str, asked: str, *, kept: bool) -> None:
        """Whether a key may use it; one that is not named may be any, unless it is `kept` already.

        Raises:
            ForbiddenError: if not.
        """
        if model:
            grant.check_model(*self._names.names_of(model, asked))
        elif not kept:
            for name in self._workers.models():
                grant.check_model(name)

    def _check_room(self, tenant: str) -> None:
        self._drain.check()
        self._dispatcher.room.check_requests(self._accounts.here, tenant)

    async def _resolved(
        self,
        named: Named,
        scope: Scope,
        body: bytes,
        name: str,
        only: Worker | None,
        allowed: Collection[str] | None,
    ) -> tuple[str, bytes]:
        """The model that it means, and the body with it; empty: any worker.

        Raises:
            RequestError: if it makes something, and it is not told by which of several.
        """
        if self._names.is_plain(named.model) or not (named.model or _makes(scope)):
            return named.model, body
        among = None if only is None else only.models
        session = session_of(scope) or name
        model, says = self._names.resolve(named.model, session, among, allowed)
        return model, await named.become(model, body, self._bodies) if says else body

    async def _run(
        self,
        scope: Scope,
        headers: Headers,
        body: bytes,
        work: Work,
        passing: Passing,
        record: RequestRecord,
    ) -> Outcome:
        self._accounts.here.add(record.tenant, 1)
        try:
            worker = await self._work.place(work, waits=_makes(scope))
            if worker is None:
                raise self._nobody(work.model)
            tried = [worker]
            while True:
                record.worker = worker.name
                last = len(tried) > self._tuning.retries or self._work.another(work, tried) is None
                try:
                    return await self._attempt(scope, headers, body, worker, passing, last=last)
                except WorkerUnreachable as error:
                    other = self._work.another(work, tried)
                    if last or other is None:
                        if isinstance(error, Cramped):
                            raise self._nobody(work.model) from error
                        raise
                finally:
                    self._work.left(worker)
                worker = other
                tried.append(worker)
                self._work.begin(worker)
        finally:
            self._accounts.here.add(record.tenant, -1)

    def _nobody(self, model: str) -> RouterError:
        what = f"No worker that serves '{model}' is up." if model else "No worker is up."
        return NoCapacityError(what, self._workers.back_s(time.monotonic()))

    async def _attempt(
        self,
        scope: Scope,
        headers: Headers,
        body: bytes,
        worker: Worker,
        passing: Passing,
        *,
        last: bool,
    ) -> Outcome:
        """At one worker; `last`: nobody else will be asked.

        Raises:
            WorkerUnreachable: if it has not answered.
            WorkerFailed: if its answer broke off.
        """
        url = worker.url + passing.target
        try:
            reply = await self._forwarder.relay(
                scope["method"], url, headers, passing.name, body, worker
            )
        except WorkerUnreachable as error:
            self._workers.conditions.unreached(worker, error, trial=False)
            raise
        try:
            if redirects(reply.status):
                raise WorkerFailed(f"The worker answered {reply.status}, a redirect.")
            if verdict(reply.status) is not Verdict.ANSWER and not last:
                raise WorkerUnreachable(f"The worker answered {reply.status}.")
            await passing.relay(reply, worker.name)
        except WorkerFailed as error:
            if passing.begun or last:
                raise
            raise WorkerUnreachable(str(error)) from error
        finally:
            reply.close()
        return outcome_of_status(reply.status)


def _makes(scope: Scope) -> bool:
    """Whether it asks for something to be made, and not for what there is."""
    return scope["method"] == "POST" and response_id("POST", scope["path"]) is None
