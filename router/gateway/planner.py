"""The MILP in a process of its own, so that no solve ever stalls the event loop.

The heuristic's plan stays here while the child works on a better one. If the child is late, busy,
dead or wrong, that plan is used, and no request notices; a dead child is replaced and counted.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from router.metrics import GatewayMetrics
from solver.check import check
from solver.plan import better, first_plan_or_queue, improved, milp_pays
from solver.types import Plan, Problem

log = logging.getLogger(__name__)

# What the answer's way back may take beyond the solver's own limit, seconds.
RETURN_S = 0.005
# A solve that has overrun its limit by this much will not come back.
STUCK_S = 30.0
END_S = 5.0  # for an idle child, or one that still loads, to leave by itself
WARM_UP = Problem.of([[1.0, 2.0], [2.0, 1.0]])


def _child(pipe: Connection) -> None:
    """Solve what comes through `pipe` until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    improved(WARM_UP, None)  # load Pyomo and HiGHS
    while True:
        try:
            problem, incumbent, deadline = pipe.recv()
        except EOFError:
            return
        pipe.send(_solve(problem, incumbent, deadline))


def _solve(problem: Problem, incumbent: Plan, deadline: float) -> Plan | Exception | None:
    try:
        return improved(problem, incumbent, lambda: max(0.0, deadline - time.monotonic()))
    except Exception as error:  # the parent has a plan; it only wants to know
        return error


class Planner:
    """Plans windows; see the module's rules."""

    def __init__(self, deadline_s: float, metrics: GatewayMetrics) -> None:
        self._deadline_s, self._metrics = deadline_s, metrics
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._asking: asyncio.Task[Plan | Exception | None] | None = None
        self._asked_s = 0.0

    def start(self) -> None:
        """Start the child; without a deadline to use it in, there is none."""
        first_plan_or_queue(WARM_UP)  # the first request is not to pay for numpy's first calls
        if self._deadline_s == 0:
            return
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_child, args=(theirs,), name="makespan-milp", daemon=True
        )
        self._process.start()
        theirs.close()

    def stop(self) -> None:
        """End the child: by closing the pipe if it waits there, else at once."""
        if self._process is None or self._pipe is None:
            return
        if self._asking is None or self._asking.done():
            self._pipe.close()
            self._process.join(END_S)
        self._process.kill()  # a thread that still waits at the pipe wakes up with its end
        self._process.join()
        self._process = self._pipe = None

    async def plan(self, problem: Problem) -> tuple[Problem, Plan]:
        """The best plan found by the deadline, and the problem that it solves.

        Raises:
            InfeasibleProblem: if a request has no eligible worker.
        """
        problem, first = first_plan_or_queue(problem)
        if not milp_pays(problem, first, self._deadline_s) or not self._ready():
            return problem, first
        second = await self._ask(problem, first)
        return problem, second if second is not None and better(second, first) else first

    def _ready(self) -> bool:
        """Whether the child could start now; brings a dead or stuck one back."""
        if self._asking is None or self._pipe is None:
            return self._pipe is not None
        if not self._asking.done():
            if time.monotonic() - self._asked_s > STUCK_S:
                self._restart("stuck")
            return False
        if isinstance(self._asking.result(), EOFError | OSError):
            self._restart("dead")
        return True

    async def _ask(self, problem: Problem, first: Plan) -> Plan | None:
        assert self._pipe is not None
        self._asked_s = time.monotonic()
        question = (problem, first, self._asked_s + self._deadline_s)
        asking = asyncio.create_task(asyncio.to_thread(_exchange, self._pipe, question))
        self._asking = asking
        done, _ = await asyncio.wait({asking}, timeout=self._deadline_s + RETURN_S)
        answer = asking.result() if done else None
        try:
            if isinstance(answer, Plan):
                check(problem, answer)
                return answer
            if isinstance(answer, Exception):
                raise answer
        except (EOFError, OSError):
            log.warning("the MILP's process has died; the heuristic's plan is used")
        except Exception:
            log.exception("the MILP failed; the heuristic's plan is used")
        return None

    def _restart(self, why: str) -> None:
        log.warning("starting the MILP's process again", extra={"why": why})
        self._metrics.planner_restarts.inc()
        self.stop()
        self._asking = None
        self.start()


def _exchange(pipe: Connection, question: tuple[Problem, Plan, float]) -> Plan | Exception | None:
    try:
        pipe.send(question)
        answer: Plan | Exception | None = pipe.recv()
    except (EOFError, OSError) as error:
        return error
    return answer
