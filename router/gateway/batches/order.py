"""The order in which lines that wait go.

The seam to planning: a runner tells an `Order` what waits and what has ended, and asks it for as
many lines as there is room for. It runs in one event loop and must not wait; a gateway's processes
have one each. What one gives may have been claimed by another process: then it is lost here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from router.gateway.batches.lines import Waiting


class Order(Protocol):
    """See the module."""

    def add(self, lines: Sequence[Waiting]) -> None:
        """These wait: of a batch that has begun, or given back."""
        ...

    def take(self, room: int) -> list[Waiting]:
        """The next lines, at most `room`; they wait no longer."""
        ...

    def ended(self, line: Waiting, input_tokens: int, output_tokens: int) -> None:
        """It has been answered, as long as that; 0: nobody has said."""
        ...

    def worker(self, line: Waiting) -> Any:  # noqa: ANN401 - whoever the order knows
        """To whom it should go, of those that take requests; None: whoever is best then."""
        ...

    def lost(self, line: Waiting) -> None:
        """It does not run here any more, or never did: another process has it."""
        ...

    def drop(self, batch: str) -> None:
        """The batch's lines are not to be run any more."""
        ...

    def waiting(self, batch: str) -> int:
        """Lines of a batch that it knows to wait."""
        ...

    def outlook(self, batch: str) -> dict[str, Any]:
        """What it tells of a batch's finish, for ``makespan`` in the batch; empty: nothing."""
        ...

    def close(self) -> None:
        """Nothing is asked of it any more."""
        ...


class InOrder:
    """The batch that ends first first, in its file's order; lines that begin alike together."""

    def __init__(self) -> None:
        # By batch its groups of lines; those that begin like nobody else are alone in one.
        self._groups: dict[str, dict[int, deque[Waiting]]] = {}
        self._ends: dict[str, float] = {}

    def add(self, lines: Sequence[Waiting]) -> None:
        """Part of `Order`."""
        for line in lines:
            self._ends[line.batch] = line.expires_s
            groups = self._groups.setdefault(line.batch, {})
            groups.setdefault(line.prefix or -line.number, deque()).append(line)

    def take(self, room: int) -> list[Waiting]:
        """Part of `Order`."""
        taken: list[Waiting] = []
        for batch in sorted(self._ends, key=self._ends.__getitem__):
            groups = self._groups[batch]
            while groups and len(taken) < room:
                name, group = next(iter(groups.items()))
                while group and len(taken) < room:
                    taken.append(group.popleft())
                if not group:
                    del groups[name]
            if not groups:
                self.drop(batch)
        return taken

    def ended(self, line: Waiting, input_tokens: int, output_tokens: int) -> None:
        """Part of `Order`; this one learns nothing."""

    def worker(self, line: Waiting) -> None:
        """Part of `Order`; this one knows no workers."""

    def lost(self, line: Waiting) -> None:
        """Part of `Order`; this one has forgotten it."""

    def drop(self, batch: str) -> None:
        """Part of `Order`."""
        self._groups.pop(batch, None)
        self._ends.pop(batch, None)

    def waiting(self, batch: str) -> int:
        """Part of `Order`."""
        return sum(map(len, self._groups.get(batch, {}).values()))

    def outlook(self, batch: str) -> dict[str, Any]:  # noqa: ARG002
        """Part of `Order`; this one plans nothing."""
        return {}

    def close(self) -> None:
        """Part of `Order`; this one has nothing to end."""
