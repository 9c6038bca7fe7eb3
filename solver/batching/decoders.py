"""Those who decode in one engine, of whom bulk work can be paused.

An engine of ours has them in a `solver.batching.slot_table`, one with its own slots and memory in a
`solver.batching.outside.follow`.
"""

from __future__ import annotations

from solver.batching.progress import Progress
from solver.batching.sequence import Sequence


class Decoders:
    """See the module.

    Attributes:
        slots: sequences that the engine runs at once.
        progress: where those decoding stand, and what has ended.
        decoding: who makes a token each round; `bulk`: of these, bulk work, the youngest last.
        paused: bulk work that could decode and stands still; the youngest first.
        kv_decoding: cached tokens of those decoding.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.progress = Progress(slots)
        self.decoding: dict[str, Sequence] = {}
        self.bulk: dict[str, Sequence] = {}
        self.paused: dict[str, Sequence] = {}
        self.kv_decoding = 0

    def pause(self) -> None:
        """The youngest bulk work that decodes stands still from now on, with slot and memory."""
        sequence = next(reversed(self.bulk.values()))
        self._stop(sequence, ended=False)
        self.paused[sequence.id] = sequence

    def resume(self) -> None:
        """The oldest of those paused decodes on."""
        _, sequence = self.paused.popitem()
        self._start(sequence)

    def _start(self, sequence: Sequence) -> None:
        self.progress.join(sequence)
        self.decoding[sequence.id] = sequence
        if sequence.is_bulk:
            self.bulk[sequence.id] = sequence
        self.kv_decoding += sequence.context

    def _stop(self, sequence: Sequence, *, ended: bool) -> None:
        """It decodes no longer; `ended`: it has made its last token, or that is on its way."""
        self.progress.leave(sequence, ended=ended)
        del self.decoding[sequence.id]
        self.bulk.pop(sequence.id, None)
        self.kv_decoding -= sequence.context
