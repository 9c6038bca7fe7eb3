"""The columns of a trace, by whatever names they go, and the request that a row is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Self

from router.lab.simulation.times import (
    A_SECOND,
    Clock,
    clock,
    is_date,
    number_of,
    read_time,
    unit_of,
)
from router.settings.limits import Limits
from solver.batching.priority import Priority
from solver.batching.targets import Targets
from solver.sim.request import Request

PROMPT = ("prompt_tokens", "input_length", "input_tokens", "ContextTokens", "Request tokens")
OUTPUT = (
    *("output_tokens", "output_length", "completion_tokens"),
    *("GeneratedTokens", "Response tokens"),
)
# What a column of arrivals is called, but for its unit (`times`); the first of them that is there.
ARRIVALS = ("arrival", "arrival_time", "arrived_at", "timestamp", "time", "start_time")
ARRIVAL = "arrival_s"
_APART = re.compile(r"[^a-z0-9µμ]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")  # of startTime
# No request has more tokens: what says so has another meaning.
MOST_TOKENS = 10**9
HASHES = "hash_ids"
PRIORITY, DEADLINE, TENANT = "priority", "deadline_s", "tenant"
OUTCOME, DONE = "outcome", "completed"
NO_PROMPT, NO_OUTPUT = "no prompt", "no output"
WORKER, ENDED = "worker", "ended_after_s"  # of a log
PATH, RELAYED = "path", "relayed"  # of what a gateway has passed on as it is
TTFT = ("ttft_s", "x-slo-ttft-ms")
TPOT = ("tpot_s", "x-slo-tpot-ms")
USUAL = Limits()
# All rows have those of these that the first row has; an id may be missing anywhere.
COLUMNS = frozenset({*PROMPT, *OUTPUT, HASHES, PRIORITY, DEADLINE, TENANT, *TTFT, *TPOT})
NO_NUMBERS = (0, "0", "0.0")
NOTHING = (None, "", *NO_NUMBERS)  # as a log tells it

REST = "cells beyond the header"

Row = Mapping[str, Any]


class BadRow(Exception):
    """A row that is no request; the message names the column."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Stands for a row that a document has and that is not read, and says why."""

    why: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a trace has what; the first row decides."""

    known: frozenset[str]
    present: frozenset[str]
    prompt: str
    output: str
    arrival: str | None
    dates: bool  # arrivals are
    ttft: str | None
    tpot: str | None
    hashes: bool
    logged: bool
    limits: Limits | None  # None: its priority's targets are each request's
    unused: bool  # there are others, too

    @classmethod
    def of(cls, row: Row, limits: Limits, names: Mapping[str, str]) -> Self:
        """The columns of a trace that begins with `row`, `names` being what it calls ours."""
        arrival = _arrival(row, names)
        known = COLUMNS | {arrival or ARRIVAL}
        present = known & row.keys()

        def one(ours: tuple[str, ...]) -> str | None:
            return next((name for name in ours if name in present), None)

        prompt, output = one(PROMPT), one(OUTPUT)
        if prompt is None or output is None:
            missing = (PROMPT if prompt is None else OUTPUT)[0]
            there = ", ".join(str(name) for name in row if name not in names) or "none"
            raise BadRow(
                f"{missing}: no such column; there are: {there}; say which is which by "
                f"--columns {PROMPT[0]}=NAME,{OUTPUT[0]}=NAME,{ARRIVAL}=NAME"
            )
        ttft, tpot, hashes = one(TTFT), one(TPOT), HASHES in present
        asked = limits if ttft or tpot or limits != USUAL else None
        dates, logged = arrival is not None and is_date(row[arrival]), OUTCOME in row
        unused = bool(row.keys() - known - {"id"})
        return cls(
            *(known, present, prompt, output, arrival, dates),
            *(ttft, tpot, hashes, logged, asked, unused),
        )

    def nothing_to_do(self, row: Row) -> str | None:
        """Why a row is left out, if it is."""
        if self.logged and row.get(PATH):
            return RELAYED
        prompt, output = row.get(self.prompt), row.get(self.output)
        none = NOTHING if self.logged else NO_NUMBERS
        if output in none and not isinstance(output, bool):
            why = NO_OUTPUT
        elif prompt in none and not isinstance(prompt, bool):
            why = NO_PROMPT
        else:
            return None
        ended = row.get(OUTCOME, DONE)
        return why if ended == DONE else str(ended)

    def clock(self, numbers: list[float]) -> Clock:
        """Of its arrivals, as `request` has read them."""
        return clock(numbers, self.arrival or "", self.prompt, dates=self.dates)

    def request(self, row: Row, number: int) -> Request:
        """The request of a row; its arrival is a number that `clock` understands."""
        if self.present != self.known & row.keys():
            name = min(self.present ^ (self.known & row.keys()))
            raise BadRow(f"{name}: not in every row")
        if row.get(REST):
            raise BadRow(f"{REST}: {', '.join(row[REST])}")
        key, prompt = row.get("id"), _tokens(row, self.prompt)
        priority = _priority(row) if PRIORITY in self.present else Priority.DEFAULT
        return Request(
            id=str(number if key in (None, "") else key),
            prompt_tokens=prompt,
            output_tokens=_tokens(row, self.output),
            arrival_s=self._time(row) if self.arrival else 0.0,
            hash_ids=_hashes(row) if self.hashes else (),
            priority=priority,
            deadline_s=_limit(row, DEADLINE, inf) if DEADLINE in self.present else inf,
            wanted=self._wanted(row, priority, prompt),
            tenant=str(row[TENANT] or "") if TENANT in self.present else "",
        )

    def _time(self, row: Row) -> float:
        name = self.arrival or ""
        found = read_time(row[name], date=self.dates)
        if found < 0:
            wanted = (
                "a date, as the first has" if self.dates else "a number of at least 0, or a date"
            )
            raise BadRow(f"{name}: expected {wanted}, not {row[name]!r}")
        return found

    def _wanted(self, row: Row, priority: Priority, prompt_tokens: int) -> Targets | None:
        """Its targets, if they are not just its priority's."""
        if self.limits is None:
            return None
        usual = self.limits.of(priority, prompt_tokens)
        return Targets(
            _limit(row, self.ttft, usual.ttft_s) if self.ttft else usual.ttft_s,
            _limit(row, self.tpot, usual.tpot_s) if self.tpot else usual.tpot_s,
        )


def _arrival(row: Row, names: Mapping[str, str]) -> str | None:
    """What the arrivals are called in a row: as it was told, else by `ARRIVALS`."""
    found = {_stem(name): name for name in reversed(list(row)) if isinstance(name, str)}
    found |= {_stem(name): name for name in names}
    return next((found[stem] for stem in ARRIVALS if stem in found), None)


def _stem(name: str) -> str:
    """A name without case, unit and what is between its words."""
    plain = _APART.sub("_", _HUMP.sub("_", name).lower()).strip("_")
    unit = unit_of(plain.replace("_", " "))
    return plain if unit is None else plain.rpartition("_")[0]


def _tokens(row: Row, name: str) -> int:
    number = _number(row[name])
    if not 1 <= number <= MOST_TOKENS or not number.is_integer():
        raise BadRow(f"{name}: expected a whole number from 1 to 10^9, not {row[name]!r}")
    return int(number)


def _priority(row: Row) -> Priority:
    try:
        return Priority(row[PRIORITY] or Priority.DEFAULT)
    except ValueError as error:
        known = ", ".join(Priority)
        raise BadRow(f"{PRIORITY}: expected one of {known}, not {row[PRIORITY]!r}") from error


def _limit(row: Row, name: str, default: float) -> float:
    """Seconds above 0; `default` where the cell is empty."""
    if row[name] in ("", None):
        return default
    number = _number(row[name])
    if number <= 0:
        raise BadRow(f"{name}: expected a number above 0, not {row[name]!r}")
    return number / A_SECOND[unit_of(name) or "s"]


def _number(value: object) -> float:
    """A finite number, or -1 for what is none."""
    number = number_of(value)
    return -1.0 if number is None else number


def _hashes(row: Row) -> tuple[int, ...]:
    value = row[HASHES]
    if isinstance(value, str):
        value = value.strip("[]").replace(",", " ").split()
    try:
        return tuple(map(int, value))
    except (TypeError, ValueError) as error:
        raise BadRow(f"{HASHES}: expected whole numbers, not {row[HASHES]!r:.80}") from error
