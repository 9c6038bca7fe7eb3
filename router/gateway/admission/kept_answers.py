"""Which worker keeps which answer of ``/v1/responses``: who goes on from one must go there.

What is known is that of this process, up to a number of answers, of which each tenant has its
portion (`solver.routing.portions`): who makes many forgets its own. Of several processes the others
are asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from urllib.parse import quote

import orjson

from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.forwarding.exchange import Exchange
from router.gateway.siblings.ask import KEPT, Siblings
from router.http.errors import RequestError
from solver.routing.fair import Weight, alike
from solver.routing.portions import Portions


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer's worker, by its place, its tenant, and its tokens with those of its prompt.

    Its server has the answer, and its rank the prompt's cache.
    """

    place: str
    tenant: str
    tokens: int = 0

    @classmethod
    def read(cls, page: bytes) -> Kept:
        """As another process tells of it, which may be of a version that tells more."""
        told = orjson.loads(page)
        return cls(**{one.name: told[one.name] for one in fields(cls) if one.name in told})


class KeptAnswers:
    """See the module."""

    def __init__(
        self,
        workers: Workers,
        most: int,
        siblings: Siblings | None,
        weight: Weight = alike,
    ) -> None:
        self._workers, self._most, self._siblings = workers, max(1, most), siblings
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._names: dict[str, OrderedDict[str, None]] = {}  # of each tenant, the oldest first
        self._portions = Portions(weight)

    def remember(self, name: str, worker: Worker, tenant: str, tokens: int = 0) -> None:
        """The worker has begun, or ended, the answer of that name.

        Engines let clients name answers: what is one tenant's never becomes another's.
        """
        before = self._kept.get(name)
        if before is not None and before.tenant != tenant:
            return
        self.forget(name)
        if tenant in self._names and not self._portions.may_have(tenant, 1, self._most):
            self.forget(next(iter(self._names[tenant])))
        if len(self._kept) >= self._most:
            self.forget(next(iter(self._kept)))
        self._kept[name] = Kept(worker.place, tenant, tokens)
        self._names.setdefault(tenant, OrderedDict())[name] = None
        self._portions.add(tenant, 1)

    def noting(
        self, exchange: Exchange, worker: Worker, progress: Callable[[int], None]
    ) -> Callable[[int], None]:
        """`progress`, and from an answer's first bytes on its name: it may be asked for at once."""
        noted = False

        def note(events: int) -> None:
            nonlocal noted
            progress(events)
            if not noted and exchange.answer_id is not None:
                self.remember(exchange.answer_id, worker, exchange.record.tenant)
                noted = True

        return note

    def forget(self, name: str) -> None:
        """It has been deleted; unknown ones are ignored."""
        kept = self._kept.pop(name, None)
        if kept is None:
            return
        self._portions.add(kept.tenant, -1)
        own = self._names[kept.tenant]
        del own[name]
        if not own:
            del self._names[kept.tenant]

    def page(self, name: str) -> bytes | None:
        """What this process tells the others of it."""
        kept = self._kept.get(name)
        return None if kept is None else orjson.dumps(asdict(kept))

    async def find(
        self, name: str, tenant: str | None = None, param: str | None = None
    ) -> tuple[Worker, int]:
        """The worker that has it, and its tokens; the only worker that there is may have any.

        `tenant`: whose it must be, where that is certain.

        Raises:
            RequestError: 404 if nobody is known to have it; `param` is to blame.
        """
        kept = self._kept.get(name)
        if kept is None or tenant not in (None, kept.tenant):
            kept = await self._ask(name, tenant) or kept
        if kept is not None and tenant in (None, kept.tenant):
            there = [one for one in self._workers if one.url == kept.place.partition("#")[0]]
            for worker in sorted(there, key=lambda one: one.place != kept.place):
                return worker, kept.tokens
        everyone = list(self._workers)
        if len(everyone) == 1 and kept is None and tenant is None:
            return everyone[0], 0
        raise RequestError(
            f"The response '{name}' is not known: it was never made here, or has been forgotten "
            "since, or its worker has left.",
            param=param,
            code="previous_response_not_found" if param else "response_not_found",
            status=404,
        )

    async def _ask(self, name: str, tenant: str | None) -> Kept | None:
        if self._siblings is None:
            return None
        told = (await self._siblings.ask(KEPT + quote(name, safe=""))).values()
        found = [Kept.read(one) for one in told]
        return next((one for one in found if tenant in (None, one.tenant)), None)
