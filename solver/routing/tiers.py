"""Where an engine has a block, and what that saves.

Rules:
- a block may be in several tiers, and saves what it saves in the best of them;
- one that nothing else was told of is on the GPU; only of the others it is kept where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from enum import IntEnum
from itertools import islice


class Tier(IntEnum):
    """Where an engine has a block, best first."""

    GPU = 0
    CPU = 1
    DISK = 2


# Share of a block's prefill that is saved by having it there: 70B models keep 0.3 MB a token, which
# PCIe moves some ten times as fast as it is computed (25 GB/s), a disk or a network hardly twice.
SAVES = {Tier.GPU: 1.0, Tier.CPU: 0.9, Tier.DISK: 0.5}


class Tiers(dict[int, int]):
    """Blocks that are not on the GPU alone: a bit for each tier that has one."""

    def mark(self, blocks: Iterable[int], tier: Tier, new: AbstractSet[int]) -> None:
        """They are there, too; all but the `new` ones were on the GPU, if nothing else was told."""
        for block in blocks:
            before = 0 if block in new else 1 << Tier.GPU
            self._set(block, self.get(block, before) | 1 << tier)

    def leave(self, block: int, tier: Tier) -> bool:
        """It is not there any more; whether it is anywhere."""
        left = self.get(block, 1 << Tier.GPU) & ~(1 << tier)
        if left:
            self._set(block, left)
        return left != 0

    def _set(self, block: int, tiers: int) -> None:
        if tiers == 1 << Tier.GPU:
            self.pop(block, None)
        else:
            self[block] = tiers

    def saved(self, blocks: Sequence[int | None], count: int) -> float:
        """What the first `count` save, in blocks."""
        if not self:
            return float(count)
        return sum(
            SAVES[_best(self[block])] if block in self else 1.0
            for block in islice(blocks, count)
            if block is not None
        )


def _best(tiers: int) -> Tier:
    return next(tier for tier in Tier if tiers >> tier & 1)
