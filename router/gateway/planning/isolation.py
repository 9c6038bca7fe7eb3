"""Finds what a plan cannot be made of, so that one request or worker never stands in for all.

A plan is made of many requests and workers at once. Should one of them have figures that break the
arithmetic, it is found by trying each alone: the request is refused, the worker taken for down, and
everybody else is planned without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from router.gateway.fleet.worker import Worker
from router.gateway.planning.ticket import Ticket
from router.http.errors import RequestError
from solver.arrays import LARGEST
from solver.errors import ProblemError
from solver.routing.columns import Load, Requests, table, water_level_s
from solver.routing.order import place_in_order
from solver.routing.problem import Job, WorkerView
from solver.routing.rolling import Selection


class UnplannableError(RequestError):
    """No plan can be made of it; `why` is what the planner said."""

    def __init__(self, why: Exception) -> None:
        said = str(why) or type(why).__name__
        super().__init__(f"The request cannot be planned: {said}", code="unplannable")


def check_size(job: Job) -> None:
    """Sums over all that waits would keep what is no number.

    Raises:
        UnplannableError: if it is none, or beyond what any plan is made of.
    """
    prompt, output = job.prompt_tokens, job.expected_tokens
    if not (prompt >= 0 and 0 <= prompt + output <= LARGEST):
        raise UnplannableError(ProblemError(f"{prompt + output:g} tokens are no size"))


def each_alone(selection: Selection[Ticket, Worker]) -> Iterator[Selection[Ticket, Worker]]:
    """The same requests, one at a time."""
    for i, request in enumerate(selection.requests):
        yield replace(selection, requests=[request], asked=selection.asked.only(i))


def broken_workers(workers: Iterable[Worker], now: float) -> Iterator[tuple[Worker, Exception]]:
    """Those whose own figures no plan can be made with, and why."""
    for worker in workers:
        try:
            _look_at([worker.view(now)])
        except Exception as error:
            yield worker, error


def broken_tickets(
    tickets: Iterable[Ticket], workers: Sequence[Worker]
) -> Iterator[tuple[Ticket, Exception]]:
    """Those whose own figures cannot be put in order or into a table, and why."""
    for ticket in tickets:
        try:
            ticket.predict_again()
            Requests.of([ticket.job], [0.0], 1)
            if workers:
                place_in_order(ticket, workers[0].cost.beta_p_s, workers[0].round_s)
        except Exception as error:
            yield ticket, error


def _look_at(views: list[WorkerView]) -> None:
    Load.of(views, np.zeros((2, 1)), water_level_s(1, 1.0, 1.0, table(views)))
