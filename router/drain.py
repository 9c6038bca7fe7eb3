"""Whether a process is to take nothing new."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Drain:
    """Shared by a process's endpoints; set once, by the signal that stops it."""

    begun: bool = False

    def begin(self) -> None:
        """From now on, finish what is there and refuse the rest."""
        self.begun = True
