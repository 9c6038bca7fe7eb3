"""Whether a process is to take nothing new."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

from router.http.errors import NoCapacityError

# What is left to do at the very end gets so long, even if requests have used all the time.
LEAST_S = 1.0
# For who leaves to a successor: who keeps a connection and does not use it for so long meets its
# end, as it may at any time. Common clients' pools keep idle ones no longer.
LEAVE_S = 5.0


def stop_signals() -> list[signal.Signals]:
    """What an orderly stop begins with: a lost terminal, too, unless that is to be ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as nohup has it
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


@dataclass(slots=True)
class Drain:
    """Shared by a process's endpoints; set once, by the signal that stops it.

    Attributes:
        failed: the process ends because it is of no use any more, and says so by its status.
    """

    begun: bool = False
    begun_s: float | None = None
    failed: bool = False

    def begin(self) -> None:
        """From now on, finish what is there and refuse the rest."""
        self.begun, self.begun_s = True, time.monotonic()

    def check(self) -> None:
        """Whether a gateway takes anything new.

        Raises:
            NoCapacityError: if it does not.
        """
        if self.begun:
            raise NoCapacityError("This gateway is shutting down; please try again.", 1.0)

    def fail(self) -> None:
        """Stop this process: whoever supervises it sees that it has failed, and starts another."""
        self.failed = True
        signal.raise_signal(signal.SIGTERM)

    def left_s(self, drain_s: float) -> float:
        """How much of the drain time is left."""
        spent = 0.0 if self.begun_s is None else time.monotonic() - self.begun_s
        return max(LEAST_S, drain_s - spent)
