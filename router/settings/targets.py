"""Targets as a setting has them: ``ttft=2s,tpot=100ms``, one of both, or ``none``."""

from __future__ import annotations

from math import inf
from typing import Annotated

from router.settings.base import readable_by
from router.settings.slo import seconds
from solver.batching.targets import NO_TARGETS, Targets

NONE = "none"
LONGEST_S = 7 * 86_400.0  # as in a request's own headers


def read_targets(text: str) -> Targets:
    """The targets that a setting names.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if text.strip() == NONE:
        return NO_TARGETS
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, limit = part.strip().partition("=")
        if not equals or name not in ("ttft", "tpot"):
            raise ValueError(f"{text!r} are no targets such as ttft=2s,tpot=100ms, nor {NONE!r}")
        if name in found:
            raise ValueError(f"{text!r} has {name} twice")
        found[name] = seconds(limit)
        if found[name] > LONGEST_S:
            raise ValueError(f"{limit!r} is longer than a week; leave {name} out for no target")
    return Targets(found.get("ttft", inf), found.get("tpot", inf))


def write_targets(targets: Targets) -> str:
    """The inverse of `read_targets`."""
    limits = {"ttft": targets.ttft_s, "tpot": targets.tpot_s}
    parts = [f"{name}={limit * 1000:g}ms" for name, limit in limits.items() if limit != inf]
    return ",".join(parts) or NONE


TargetsText = Annotated[str, readable_by(read_targets)]
