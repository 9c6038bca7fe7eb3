"""What lines of batches have in common that are predicted alike: all that a plan knows of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Kind:
    """What lines have in common that are predicted alike.

    Attributes:
        batch: whose they are.
        prompt_tokens: of each, about.
        due_s: when they should be done, by the planner's clock; infinite: whenever.
        prefix: what they begin with, if others begin with it too; None: they share nothing.
        shared_tokens: how many tokens of the prompt that is.
        model: whose answers they want, which says who may serve them.
        tenant: whose batch it is.
        label: whatever else tells them apart, such as the limit of their answers.
    """

    batch: str
    prompt_tokens: int
    due_s: float = inf
    prefix: Hashable = None
    shared_tokens: int = 0
    model: str = ""
    tenant: str = ""
    label: Hashable = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = self.batch, self.prompt_tokens, self.due_s, self.prefix, self.model, self.label
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        """Made once: kinds are looked up for every line."""
        return self._hash


class Length(NamedTuple):
    """Output tokens of a line: as expected, and by how much one in fifty is longer."""

    tokens: float
    overrun: float = 0.0


Expected = Callable[[Kind], Length]
# Which workers, by their indices, may serve a model; None: all.
Members = frozenset[int] | None
Eligible = Callable[[str], Members]
# Where lines of a batch that begin with something have last been sent.
Homes = Mapping[tuple[str, Hashable], int]
