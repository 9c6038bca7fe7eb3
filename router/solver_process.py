"""The slow half of planning in a process of its own, so that no solve ever stalls an event loop.

What is searched for is given (`Search`): packings, or joint plans of windows. One child is spawned
when there is first something for it to do, and kept warm: loading Pyomo and HiGHS takes half a
second, and two solves in threads of one process would hang. It tells of every better plan as it
finds it, so whoever asks has the best so far at its deadline, whatever the child is doing then. If
the child is late, busy, dead or wrong, nobody waits for it; a dead or stuck one is replaced and
counted.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Generic, TypeAlias, TypeVar

from solver.errors import InfeasibleProblem
from solver.packing.problem import SecondsLeft

log = logging.getLogger(__name__)

Q = TypeVar("Q")
P = TypeVar("P")
Answer: TypeAlias = P | Exception | None  # None: that was all

# A solve that has overrun its limit by this much will not come back.
STUCK_S = 30.0
END_S = 5.0  # for a child to leave by itself
PAUSE_S = 0.2  # before a new one starts, lest one that cannot start keeps a core busy
AGAIN_S = 30.0  # after which one is started again that this machine has had no room for


@dataclass(frozen=True, slots=True)
class Search(Generic[Q, P]):
    """How questions become plans; functions of modules, as the child is told them by name.

    Attributes:
        warm_up: load what the first question should not wait for.
        improvements: better plans than the one that there is, if any, until there is no time left.
        check: raises an error for a plan that is wrong, in the process that asked.
        supersedes: whether the first plan is better, or as good with a better bound.
    """

    warm_up: Callable[[], None]
    improvements: Callable[[Q, P | None, SecondsLeft], Iterator[P]]
    check: Callable[[Q, P], None]
    supersedes: Callable[[P, P], bool]


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started meanwhile never hear of it, not even as they load: it is their parent's.

    A parent that it would interrupt hears of it once they are started: none is left half begun.
    """
    resource_tracker.ensure_running()  # its own start would end this
    heard = list[int]()
    main = threading.current_thread() is threading.main_thread()
    waits = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if waits:  # a mask is not enough: other threads take it, and it interrupts this one
        signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if waits:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if heard:
            raise KeyboardInterrupt


def _child(pipe: Connection, search: Search[Q, P]) -> None:
    """Answer what comes through `pipe` until the parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # who stops all at once means us, too
    search.warm_up()
    try:
        pipe.send(None)
        while (question := pipe.recv()) is not None:
            asked, incumbent, deadline = question
            _answer(pipe, search, asked, incumbent, deadline)
    except (EOFError, BrokenPipeError):
        return


def _answer(
    pipe: Connection, search: Search[Q, P], question: Q, incumbent: P | None, deadline: float
) -> None:
    def left_s() -> float:
        return max(0.0, deadline - time.monotonic())

    try:
        for plan in search.improvements(question, incumbent, left_s):
            pipe.send(plan)
    except BrokenPipeError:
        raise
    except Exception as error:  # whoever asked has a plan; it only wants to know
        pipe.send(error)
    else:
        pipe.send(None)


class SolverProcess(Generic[Q, P]):
    """See the module. `replaced` is called whenever a new child takes the place of another."""

    def __init__(self, search: Search[Q, P], replaced: Callable[[], None] = lambda: None) -> None:
        self._search, self._replaced = search, replaced
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked_s = 0.0
        self._should_run: bool | None = None  # None: nobody has asked for it yet
        self._sending = False  # a question is on its way, and the pipe may be full

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the child, inside a running event loop; it is not ready until it has loaded.

        Raises:
            OSError: if this machine lets nobody start.
        """
        self._should_run = True
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_child, args=(theirs, self._search), name="makespan-solver", daemon=True
        )
        try:
            with deaf_to_ctrl_c():
                process.start()
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._pipe, self._process = ours, process
        self._asked_s = time.monotonic()
        loop = asyncio.get_running_loop()
        self._asking = loop.create_task(asyncio.to_thread(_await_ready, self._pipe))
        loop.add_reader(self._process.sentinel, self._restart, "dead")

    def stop(self) -> None:
        """End the child: by asking it to leave, or by force if it does not, or has work to do."""
        self._should_run = False
        busy = self._asking is not None and not self._asking.done()
        if self._pipe is not None and not self._sending:
            with suppress(OSError):
                self._pipe.send(None)
        self._end(0.0 if busy else END_S)

    def _end(self, timeout_s: float) -> int | None:
        """The child is gone, and what it held is closed; its exit code."""
        if self._process is None or self._pipe is None:
            return None
        process, pipe, asking = self._process, self._pipe, self._asking
        asyncio.get_running_loop().remove_reader(process.sentinel)
        process.join(0.0 if self._sending else timeout_s)
        process.kill()  # a thread that still waits at the pipe wakes up with its end
        process.join()
        code = process.exitcode
        process.close()
        if asking is None or asking.done():
            pipe.close()
        else:  # errors hold it, in circles that no one collects for long
            asking.add_done_callback(lambda _: pipe.close())
        self._process = self._pipe = None
        self._sending = False
        return code

    def ready(self) -> bool:
        """Whether the child could begin something now; starts it, and brings a stuck one back."""
        if self._should_run is None:
            self._start_again()
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
        self,
        question: Q,
        incumbent: P | None,
        deadline: float,
        found: Callable[[P], None] = lambda _: None,
    ) -> P | None:
        """The best plan by `deadline` on the monotonic clock, checked; `ready` must be true.

        `found` is told of each that is better, as it comes.

        Raises:
            InfeasibleProblem: if it was proven in time that there is no plan.
        """
        assert self._pipe is not None
        best, loop, answered = incumbent, asyncio.get_running_loop(), asyncio.Event()
        answers: list[Answer[P]] = []

        def on_answer(answer: Answer[P]) -> None:
            answers.append(answer)
            answered.set()

        def pass_on(answer: Answer[P]) -> None:
            loop.call_soon_threadsafe(on_answer, answer)

        def sent() -> None:
            self._sending = False

        asked = question, incumbent, deadline
        self._asked_s, self._sending = time.monotonic(), True
        self._asking = asyncio.create_task(
            asyncio.to_thread(_exchange, self._pipe, asked, pass_on, sent)
        )
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(answered.wait(), left_s)
            except TimeoutError:
                break
            answered.clear()
            while answers:
                answer = answers.pop(0)
                if _is_last(answer):
                    await self._asking  # it returns at once, and the child is free again
                if answer is None:
                    return best
                better = self._better(question, best, answer)
                if better is not None and better is not best:
                    best = better
                    found(better)
        return best

    def _better(self, question: Q, best: P | None, answer: P | Exception) -> P | None:
        """What the child says, if it is good and better."""
        try:
            if isinstance(answer, Exception):
                raise answer
            self._search.check(question, answer)
        except InfeasibleProblem:
            raise
        except (EOFError, OSError):
            log.warning("the solver's process has died; the plan found before is used")
        except Exception:
            log.exception("the solver failed; the plan found before is used")
        else:
            if best is None or self._search.supersedes(answer, best):
                return answer
        return best

    def _restart(self, why: str) -> None:
        self._replaced()
        code = self._end(0.5 if why == "dead" else 0.0)  # it is about to be gone
        level = logging.INFO if code in (0, -signal.SIGTERM) else logging.WARNING
        log.log(level, "starting the solver's process again", extra={"why": why})
        asyncio.get_running_loop().call_later(PAUSE_S, self._start_again)

    def _start_again(self) -> None:
        if self._should_run is False or self._process is not None:
            return
        try:
            self.start()
        except OSError as error:  # no files, memory or processes are left
            log.warning("the solver's process cannot start", extra={"why": str(error)})
            asyncio.get_running_loop().call_later(AGAIN_S, self._start_again)


def _is_last(answer: object) -> bool:
    """Whether the child is free again: that was all, or it has failed."""
    return answer is None or isinstance(answer, Exception)


def _await_ready(pipe: Connection) -> None:
    """Until the child says that it has loaded, or is gone."""
    with suppress(EOFError, OSError):
        pipe.recv()


def _exchange(
    pipe: Connection,
    asked: tuple[Q, P | None, float],
    pass_on: Callable[[Answer[P]], None],
    sent: Callable[[], None],
) -> None:
    """Ask, and pass on what comes back until that was all."""
    try:
        pipe.send(asked)
        sent()
        while True:
            answer: Answer[P] = pipe.recv()
            pass_on(answer)
            if _is_last(answer):
                break
    except (EOFError, OSError) as error:
        pass_on(error)
        pass_on(None)
        return
    if answer is not None:
        pass_on(None)
