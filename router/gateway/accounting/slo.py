"""Whether requests keep their targets, as their users feel it.

Rules:
- a stream shows both times: its first token is its first event of data, counted from the request's
  arrival; the time per output token is the mean over the rest of it, per choice;
- an answer in one piece shows neither. It has kept both if all of it is there by when a stream
  would end that just keeps both; nothing is said of each, nor where only one is set;
- what failed, has expired, or was refused for want of capacity has missed all that it had;
- whose client leaves has missed the first token if that was late by then, and else counts nowhere;
  nor does what nobody could have served as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite
from typing import NamedTuple

from router.http.errors import Outcome
from solver.batching.targets import Targets

# Of an answer in one piece, by whether it has kept both.
_BOTH: Mapping[bool, Mapping[str, bool]] = {kept: {"both": kept} for kept in (False, True)}
_MISSED = frozenset((Outcome.FAILED, Outcome.EXPIRED, Outcome.REJECTED_NO_CAPACITY))


class Timing(NamedTuple):
    """Seconds on the monotonic clock; None for what never happened."""

    received: float
    sent: float | None
    first_byte: float | None
    first_token: float | None
    ended: float


class Felt(NamedTuple):
    """What a request's user felt, in seconds; None where it cannot be told.

    Attributes:
        ttft_s: until the first token of its stream.
        tpot_s: between the tokens after it, on average; 0 where there is but one.
        all_s: until its end.
        tokens: of one choice, on average.
    """

    ttft_s: float | None
    tpot_s: float | None
    all_s: float
    tokens: float | None

    @classmethod
    def of(cls, timing: Timing, output_tokens: int | None, choices: int) -> Felt:
        """`output_tokens` are those of all `choices`, which run side by side."""
        tokens = None if output_tokens is None else output_tokens / choices
        ttft_s = tpot_s = None
        if timing.first_token is not None:
            ttft_s = timing.first_token - timing.received
            if tokens is not None:
                after = max(0.0, tokens - 1)
                tpot_s = (timing.ended - timing.first_token) / after if after else 0.0
        return cls(ttft_s, tpot_s, timing.ended - timing.received, tokens)


def kept(targets: Targets, outcome: Outcome, felt: Felt) -> Mapping[str, bool]:
    """Of `ttft`, `tpot` and `both` of them, those that can be told, and whether they were kept."""
    if targets.ttft_s == targets.tpot_s == inf:
        return {}
    if outcome is Outcome.COMPLETED and felt.ttft_s is None:
        return _in_one_piece(targets, felt)
    limits = {"ttft": targets.ttft_s, "tpot": targets.tpot_s}
    wanted = {name: limit for name, limit in limits.items() if limit != inf}
    if outcome in _MISSED:
        return dict.fromkeys((*wanted, "both"), False)
    if outcome is Outcome.CANCELLED:
        shown_s = felt.all_s if felt.ttft_s is None else felt.ttft_s
        return {"ttft": False, "both": False} if shown_s > targets.ttft_s else {}
    if outcome is not Outcome.COMPLETED:
        return {}
    times = {"ttft": felt.ttft_s, "tpot": felt.tpot_s}
    each = {name: t <= wanted[name] for name in wanted if (t := times[name]) is not None}
    return each | ({"both": all(each.values())} if len(each) == len(wanted) else {})


def _in_one_piece(targets: Targets, felt: Felt) -> Mapping[str, bool]:
    if felt.tokens is None or not isfinite(targets.ttft_s + targets.tpot_s):
        return {}
    return _BOTH[felt.all_s <= targets.ttft_s + targets.tpot_s * max(0.0, felt.tokens - 1)]
