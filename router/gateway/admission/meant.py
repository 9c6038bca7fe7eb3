"""Whom a request means: the model behind the name that it gives, who has what it goes on from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from router.gateway.accounting.keys import GRANT, Grant
from router.gateway.admission.headers import session_of
from router.gateway.admission.kept_answers import KeptAnswers
from router.gateway.fleet.model_names import ModelNames
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.forwarding.exchange import Exchange
from router.http.asgi import Scope
from router.http.bodies import BodyReader
from solver.cost.estimators import BYTES_PER_TOKEN


class Meant:
    """Finds that out, and puts it into requests."""

    def __init__(
        self, workers: Workers, kept: KeptAnswers, names: ModelNames, bodies: BodyReader
    ) -> None:
        self._workers, self._kept, self._names, self._bodies = workers, kept, names, bodies

    async def find(self, exchange: Exchange, scope: Scope) -> tuple[Worker | None, int]:
        """The one worker that may serve it, if it goes on from an answer, and tokens of that.

        Raises:
            RequestError: if nobody has that, or it is not told which model is meant.
        """
        assert exchange.request is not None
        grant: Grant | None = scope.get(GRANT)
        only, carried = None, 0
        if exchange.request.previous:
            only, carried = await self._go_on(exchange, grant)
        if not self._names.is_plain(exchange.request.model):
            await self._name(exchange, scope, only, None if grant is None else grant.key.models)
        return only, carried

    async def _name(
        self,
        exchange: Exchange,
        scope: Scope,
        only: Worker | None,
        allowed: Collection[str] | None,
    ) -> None:
        """It names none, or by another name: its worker gets the name that it knows.

        Raises:
            RequestError: if it is not told which is meant.
        """
        request, record = exchange.request, exchange.record
        assert request is not None
        session = session_of(scope) or request.session or record.id
        among = None if only is None else only.models
        model, says = self._names.resolve(request.model, session, among, allowed)
        if says:
            record.alias = self._names.alias(request.model)
            named = bool(request.model)
            exchange.body = await self._bodies.with_model(exchange.body, model, named=named)
        exchange.request = replace(request, model=model)

    async def _go_on(self, exchange: Exchange, grant: Grant | None) -> tuple[Worker, int]:
        """The worker that has what it goes on from, and tokens of that, its prompt's first ones.

        Raises:
            RequestError: if nobody has it, or it is another tenant's.
        """
        assert exchange.request is not None
        tenant = None if grant is None else grant.key.tenant
        request, param = exchange.request, "previous_response_id"
        if self._names.is_plain(request.model) and self._workers.context(request.model)[1]:
            exchange.record.model = exchange.record.label = request.model
        worker, tokens = await self._kept.find(request.previous, tenant, param)
        (prompt,) = request.prompts
        longer = prompt.more_bytes + int(tokens * BYTES_PER_TOKEN)
        exchange.request = replace(request, prompts=(replace(prompt, more_bytes=longer),))
        return worker, tokens
