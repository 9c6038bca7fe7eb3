"""How much work waits at the gateway, in sums that cost nothing however much it is."""

from __future__ import annotations

from collections.abc import Sequence

from router.gateway.fleet.worker import Worker
from router.gateway.planning.ticket import Ticket
from solver.routing.fair import Weight, alike
from solver.routing.portions import Portions
from solver.routing.problem import Job
from solver.routing.speed import FleetSpeed
from solver.routing.sums import Backlog


class Unsent:
    """Counts requests, prompt tokens and expected output tokens.

    Attributes:
        tokens: of all that wait, as `max_unsent_tokens` counts them, by tenant.
    """

    def __init__(self, weight: Weight = alike) -> None:
        # As large as each was when it came, whatever is predicted of it later.
        self._jobs: dict[Ticket, Job] = {}
        self.tokens = Portions(weight)
        self._prompt_tokens, self._output_tokens = 0, 0.0

    @property
    def requests(self) -> int:
        """How many wait."""
        return len(self._jobs)

    @property
    def tickets(self) -> list[Ticket]:
        """Those that wait."""
        return list(self._jobs)

    def add(self, ticket: Ticket) -> None:
        """One more waits."""
        job = self._jobs[ticket] = ticket.job
        self._prompt_tokens += job.prompt_tokens
        self._output_tokens += job.expected_tokens
        self.tokens.add(job.tenant, int(job.reserved_tokens))

    def remove(self, ticket: Ticket) -> None:
        """It waits no longer."""
        job = self._jobs.pop(ticket)
        self.tokens.add(job.tenant, -int(job.reserved_tokens))
        self._prompt_tokens -= job.prompt_tokens
        self._output_tokens -= job.expected_tokens
        if not self._jobs:
            self._output_tokens = 0.0  # rounding must not add up

    @property
    def backlog(self) -> Backlog:
        """All of it."""
        return Backlog(self.requests, self._prompt_tokens, max(0.0, self._output_tokens))

    def seconds(self, workers: Sequence[Worker]) -> float:
        """Until `workers`, with nothing else to do, would have done it all."""
        speed = FleetSpeed.of((worker.cost, worker.slots) for worker in workers)
        return speed.seconds(self.requests, self._prompt_tokens, max(0.0, self._output_tokens))
