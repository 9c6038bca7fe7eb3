"""How urgent a request is, and what that is worth.

A priority is a head start, not a class of its own: a request ranks as if it had come so many
seconds earlier (`HEAD_START_S`), and whoever waits grows older than any head start. The rule that
ranks by it is `solver.batching.queue`'s. Inside an engine bulk work besides steps back for all
other, running or not (`solver.batching.stepping_back`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Priority(StrEnum):
    """What a client may ask for."""

    INTERACTIVE = "interactive"
    DEFAULT = "default"
    BULK = "bulk"


# Seconds. A person gives up after about a minute, so that much is as good as "first"; bulk work may
# wait for ten more, after which it goes before whatever comes then: the longest that a stream of
# more urgent requests, however dense, keeps the queue from reaching it.
HEAD_START_S: Mapping[Priority, float] = {
    Priority.INTERACTIVE: 60.0,
    Priority.DEFAULT: 0.0,
    Priority.BULK: -600.0,
}
# What a second of waiting is worth to the planner, relative to others.
WEIGHT: Mapping[Priority, float] = {
    Priority.INTERACTIVE: 4.0,
    Priority.DEFAULT: 1.0,
    Priority.BULK: 0.25,
}
