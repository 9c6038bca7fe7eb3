"""The slow half of planning in a process of its own, so that no solve ever stalls an event loop.

One child is spawned and kept warm: loading Pyomo and HiGHS takes half a second, and two solves in
threads of one process would hang. It tells of every better plan as it finds it, so whoever asks has
the best so far at its deadline, whatever the child is doing then. If the child is late, busy, dead
or wrong, nobody waits for it; a dead or stuck one is replaced and counted.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from solver.errors import InfeasibleProblem
from solver.packing.check import check
from solver.packing.pipeline import improvements, is_better
from solver.packing.plan import Plan
from solver.packing.problem import Problem

log = logging.getLogger(__name__)

Answer = Plan | Exception | None  # None: that was all
Question = tuple[Problem, Plan | None, float]

# A solve that has overrun its limit by this much will not come back.
STUCK_S = 30.0
END_S = 5.0  # for a child to leave by itself
PAUSE_S = 0.2  # before a new one starts, lest one that cannot start keeps a core busy
WARM_UP = Problem.of([[1.0, 2.0], [2.0, 1.0]])


def _child(pipe: Connection) -> None:
    """Answer what comes through `pipe` until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # who stops all at once means us, too
    for _ in improvements(WARM_UP, None):  # load Pyomo and HiGHS
        pass
    try:
        pipe.send(None)
        while (question := pipe.recv()) is not None:
            problem, incumbent, deadline = question
            _answer(pipe, problem, incumbent, deadline)
    except (EOFError, BrokenPipeError):
        return


def _answer(pipe: Connection, problem: Problem, incumbent: Plan | None, deadline: float) -> None:
    try:
        for plan in improvements(problem, incumbent, lambda: max(0.0, deadline - time.monotonic())):
            pipe.send(plan)
    except BrokenPipeError:
        raise
    except Exception as error:  # whoever asked has a plan; it only wants to know
        pipe.send(error)
    else:
        pipe.send(None)


class SolverProcess:
    """See the module. `replaced` is called whenever a new child takes the place of another."""

    def __init__(self, replaced: Callable[[], None] = lambda: None) -> None:
        self._replaced = replaced
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked_s = 0.0
        self._should_run = False
        self._sending = False  # a question is on its way, and the pipe may be full

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the child, inside a running event loop; it is not ready until it has loaded."""
        self._should_run = True
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_child, args=(theirs,), name="makespan-solver", daemon=True
        )
        self._process.start()
        theirs.close()
        self._asked_s = time.monotonic()
        loop = asyncio.get_running_loop()
        self._asking = loop.create_task(asyncio.to_thread(_await_ready, self._pipe))
        loop.add_reader(self._process.sentinel, self._restart, "dead")

    def stop(self) -> None:
        """End the child: by asking it to leave, or by force if it does not."""
        self._should_run = False
        if self._pipe is not None and not self._sending:
            with suppress(OSError):
                self._pipe.send(None)
        self._end(END_S)

    def _end(self, timeout_s: float) -> None:
        if self._process is None:
            return
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join(0.0 if self._sending else timeout_s)
        self._process.kill()  # a thread that still waits at the pipe wakes up with its end
        self._process.join()
        self._process = self._pipe = None
        self._sending = False

    def ready(self) -> bool:
        """Whether the child could start on something now; brings a stuck one back."""
        if self._process is None:
            return False
        if self._asking is not None and not self._asking.done():
            if time.monotonic() - self._asked_s > STUCK_S:
                self._restart("stuck")
            return False
        return self._process.is_alive()

    async def warm(self) -> None:
        """Wait until the child has loaded what it needs, or has given up what it was asked."""
        assert self._asking is not None
        await self._asking

    async def improve(
        self, problem: Problem, incumbent: Plan | None, deadline: float
    ) -> Plan | None:
        """The best plan by `deadline` on the monotonic clock, checked; `ready` must be true.

        Raises:
            InfeasibleProblem: if it was proven in time that there is no plan.
        """
        assert self._pipe is not None
        best, loop, answered = incumbent, asyncio.get_running_loop(), asyncio.Event()
        answers: list[Answer] = []

        def on_answer(answer: Answer) -> None:
            answers.append(answer)
            answered.set()

        def pass_on(answer: Answer) -> None:
            loop.call_soon_threadsafe(on_answer, answer)

        def sent() -> None:
            self._sending = False

        question = (problem, incumbent, deadline)
        self._asked_s, self._sending = time.monotonic(), True
        self._asking = asyncio.create_task(
            asyncio.to_thread(_exchange, self._pipe, question, pass_on, sent)
        )
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(answered.wait(), left_s)
            except TimeoutError:
                break
            answered.clear()
            while answers:
                answer = answers.pop(0)
                if not isinstance(answer, Plan):
                    await self._asking  # it returns at once, and the child is free again
                if answer is None:
                    return best
                best = self._better(problem, best, answer)
        return best

    def _better(self, problem: Problem, best: Plan | None, answer: Plan | Exception) -> Plan | None:
        """What the child says, if it is good and better: an earlier finish, or a higher bound."""
        try:
            if isinstance(answer, Exception):
                raise answer
            check(problem, answer)
        except InfeasibleProblem:
            raise
        except (EOFError, OSError):
            log.warning("the solver's process has died; the plan found before is used")
        except Exception:
            log.exception("the solver failed; the plan found before is used")
        else:
            if (
                best is None
                or is_better(answer, best)
                or answer.finish_bound_s > best.finish_bound_s
            ):
                return answer
        return best

    def _restart(self, why: str) -> None:
        process = self._process
        self._replaced()
        self._end(0.5 if why == "dead" else 0.0)  # it is about to be gone
        stopped = process is not None and process.exitcode in (0, -signal.SIGTERM)
        level = logging.INFO if stopped else logging.WARNING
        log.log(level, "starting the solver's process again", extra={"why": why})
        asyncio.get_running_loop().call_later(PAUSE_S, self._start_again)

    def _start_again(self) -> None:
        if self._should_run and self._process is None:
            self.start()


def _await_ready(pipe: Connection) -> None:
    """Until the child says that it has loaded, or is gone."""
    with suppress(EOFError, OSError):
        pipe.recv()


def _exchange(
    pipe: Connection,
    question: Question,
    pass_on: Callable[[Answer], None],
    sent: Callable[[], None],
) -> None:
    """Ask, and pass on what comes back until that was all."""
    try:
        pipe.send(question)
        sent()
        while True:
            answer: Answer = pipe.recv()
            pass_on(answer)
            if not isinstance(answer, Plan):
                break
    except (EOFError, OSError) as error:
        pass_on(error)
        pass_on(None)
        return
    if answer is not None:
        pass_on(None)
