"""What a worker has done for a request that leaves it: for whom shares and bills are counted.

Rules:
- of an answer that has come in full, its tokens; of a stream that breaks off, those that have come;
- of an answer that does not stream, and whose client leaves, those that should have been made since
  it was sent, by the worker's cost model;
- never more than was asked for, and nothing of an answer that a worker has failed to give.
"""

from __future__ import annotations

import time

from router.gateway.accounting.accounts import Accounts
from router.gateway.fleet.worker import Worker
from router.gateway.forwarding.exchange import Exchange
from router.gateway.planning.dispatcher import NOTHING, Dispatcher, Spent
from router.gateway.planning.ticket import Ticket
from solver.routing.charges import slot_seconds


class Billing:
    """Counts only where there are tenants."""

    def __init__(self, dispatcher: Dispatcher, accounts: Accounts) -> None:
        self._dispatcher, self._accounts = dispatcher, accounts

    def bill(self, exchange: Exchange, ticket: Ticket, worker: Worker) -> Spent:
        """What the worker that it leaves has done for it."""
        if not self._dispatcher.has_tenants:
            return NOTHING
        record, made = exchange.record, _made(exchange, ticket, worker)
        if not made:
            return NOTHING
        cached, prompt = record.cached_tokens, ticket.job.prompt_tokens
        uncached = ticket.uncached if cached is None else max(0.0, prompt - cached)
        if record.tenant:
            n = ticket.job.sequences
            slot_s = slot_seconds(worker.cost, worker.slots, uncached, float(made), n)
            self._accounts.served(record, slot_s)
        return uncached, float(made)


def note_unseen(exchange: Exchange, ticket: Ticket, worker: Worker) -> None:
    """Its client leaves; of an answer that does not stream nothing has been seen."""
    if ticket.streamed or exchange.sent is None:
        return
    elapsed_s = time.monotonic() - exchange.sent
    made = worker.load.made_unseen(ticket, worker.cost, worker.slots, elapsed_s)
    exchange.unseen = min(made, exchange.most.completion_tokens)


def _made(exchange: Exchange, ticket: Ticket, worker: Worker) -> int | None:
    if exchange.record.output_tokens is not None:
        return exchange.record.output_tokens
    if not ticket.streamed:
        return exchange.unseen
    return min(worker.load.made(ticket), exchange.most.completion_tokens)


def used(exchange: Exchange) -> float | None:
    """Tokens that a request has used, for its key; None if it broke off and nobody can tell."""
    record, usage = exchange.record, exchange.usage
    if usage is not None:
        return usage.prompt_tokens + (record.output_tokens or 0)
    if not exchange.unseen and (exchange.first_byte is None or record.status != 200):
        return 0.0
    output = exchange.made() if record.output_tokens is None else record.output_tokens
    return None if output is None else float(record.prompt_tokens + output)
