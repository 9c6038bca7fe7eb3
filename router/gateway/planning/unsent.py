"""How much work waits at the gateway, in sums that cost nothing however much it is."""

from __future__ import annotations

from collections.abc import Sequence

from router.gateway.fleet.worker import Worker
from router.gateway.planning.ticket import Ticket
from solver.routing.fair import Weight, alike
from solver.routing.portions import Portions
from solver.routing.speed import FleetSpeed
from solver.routing.sums import Backlog


class Unsent:
    """Counts requests, prompt tokens and expected output tokens.

    Attributes:
        tokens: of all that wait, as `max_unsent_tokens` counts them, by tenant.
    """

    def __init__(self, weight: Weight = alike) -> None:
        # As large as each was when it came, whatever is predicted of it later: prompt tokens,
        # expected output tokens, and all that is reserved for its tenant.
        self._sizes: dict[Ticket, tuple[int, float, int]] = {}
        self.tokens = Portions(weight)
        self._prompt_tokens, self._output_tokens = 0, 0.0

    @property
    def requests(self) -> int:
        """How many wait."""
        return len(self._sizes)

    @property
    def tickets(self) -> list[Ticket]:
        """Those that wait."""
        return list(self._sizes)

    def add(self, ticket: Ticket) -> None:
        """One more waits."""
        job = ticket.job
        prompt, output, reserved = job.prompt_tokens, job.expected_tokens, int(job.reserved_tokens)
        self._sizes[ticket] = prompt, output, reserved
        self._prompt_tokens += prompt
        self._output_tokens += output
        self.tokens.add(job.tenant, reserved)

    def remove(self, ticket: Ticket) -> None:
        """It waits no longer."""
        prompt, output, reserved = self._sizes.pop(ticket)
        self.tokens.add(ticket.job.tenant, -reserved)
        self._prompt_tokens -= prompt
        self._output_tokens -= output
        if not self._sizes:
            self._output_tokens = 0.0  # rounding must not add up

    @property
    def backlog(self) -> Backlog:
        """All of it."""
        return Backlog(self.requests, self._prompt_tokens, max(0.0, self._output_tokens))

    def seconds(self, workers: Sequence[Worker]) -> float:
        """Until `workers`, with nothing else to do, would have done it all."""
        speed = FleetSpeed.of((worker.cost, worker.slots) for worker in workers)
        return speed.seconds(self.requests, self._prompt_tokens, max(0.0, self._output_tokens))
