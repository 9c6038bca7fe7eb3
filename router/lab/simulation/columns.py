"""The columns of a trace, by whatever names they go, and the request that a row is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Self

from router.lab.simulation.times import number_of, seconds
from router.settings.limits import Limits
from solver.batching.priority import Priority
from solver.batching.targets import Targets
from solver.sim.request import Request

PROMPT = ("prompt_tokens", "input_length", "ContextTokens", "Request tokens")
OUTPUT = ("output_tokens", "output_length", "GeneratedTokens", "Response tokens")
ARRIVAL = ("arrival_s", "timestamp", "TIMESTAMP", "Timestamp")
HASHES = "hash_ids"
PRIORITY, DEADLINE, TENANT = "priority", "deadline_s", "tenant"
OUTCOME, NO_OUTPUT, NO_PROMPT = "outcome", "no output", "no prompt"
PATH, RELAYED = "path", "relayed"  # of what a gateway has passed on as it is
TTFT = ("ttft_s", "x-slo-ttft-ms")
TPOT = ("tpot_s", "x-slo-tpot-ms")
IN_MS = frozenset({"timestamp", TTFT[1], TPOT[1]})
USUAL = Limits()
# All rows have those of these that the first row has; an id may be missing anywhere.
COLUMNS = frozenset({*PROMPT, *OUTPUT, *ARRIVAL, HASHES, PRIORITY, DEADLINE, TENANT, *TTFT, *TPOT})

REST = "cells beyond the header"

Row = Mapping[str, Any]


class BadRow(Exception):
    """A row that is no request; the message names the column."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a trace has what; the first row decides."""

    present: frozenset[str]
    prompt: str
    output: str
    arrival: str | None
    ttft: str | None
    tpot: str | None
    hashes: bool
    outcome: bool
    limits: Limits | None  # None: its priority's targets are each request's

    @classmethod
    def of(cls, row: Row, limits: Limits, told: Row) -> Self:
        """The columns of a trace that begins with `row`, of which the file has `told`."""
        present = COLUMNS & row.keys()

        def one(names: tuple[str, ...]) -> str | None:
            return next((name for name in names if name in present), None)

        prompt, output = one(PROMPT), one(OUTPUT)
        if prompt is None or output is None:
            missing = (PROMPT if prompt is None else OUTPUT)[0]
            there = ", ".join(map(str, told))
            raise BadRow(
                f"{missing}: no such column; there are: {there}; say which is which by "
                f"--columns {PROMPT[0]}=NAME,{OUTPUT[0]}=NAME,{ARRIVAL[0]}=NAME"
            )
        ttft, tpot, hashes = one(TTFT), one(TPOT), HASHES in present
        asked = limits if ttft or tpot or limits != USUAL else None
        logged = OUTCOME in row
        return cls(present, prompt, output, one(ARRIVAL), ttft, tpot, hashes, logged, asked)

    def nothing_to_do(self, row: Row) -> str | None:
        """Why a row is left out, if it is."""
        if self.outcome and row.get(PATH):
            return RELAYED
        output = row.get(self.output)
        if self.outcome and output in (None, ""):
            return str(row[OUTCOME])
        if output not in (0, "0", 0.0) or isinstance(output, bool):
            return NO_PROMPT if self.outcome and row.get(self.prompt) in (0, None) else None
        return str(row[OUTCOME]) if self.outcome else NO_OUTPUT

    def request(self, row: Row, number: int) -> Request:
        """The request of a row."""
        for name in sorted(self.present ^ (COLUMNS & row.keys())):
            raise BadRow(f"{name}: not in every row")
        if row.get(REST):
            raise BadRow(f"{REST}: {', '.join(row[REST])}")
        key, prompt = row.get("id"), _tokens(row, self.prompt)
        priority = _priority(row) if PRIORITY in self.present else Priority.DEFAULT
        return Request(
            id=str(number if key in (None, "") else key),
            prompt_tokens=prompt,
            output_tokens=_tokens(row, self.output),
            arrival_s=_seconds(row, self.arrival) if self.arrival else 0.0,
            hash_ids=_hashes(row) if self.hashes else (),
            priority=priority,
            deadline_s=_limit(row, DEADLINE, inf) if DEADLINE in self.present else inf,
            wanted=self._wanted(row, priority, prompt),
            tenant=str(row[TENANT] or "") if TENANT in self.present else "",
        )

    def _wanted(self, row: Row, priority: Priority, prompt_tokens: int) -> Targets | None:
        """Its targets, if they are not just its priority's."""
        if self.limits is None:
            return None
        usual = self.limits.of(priority, prompt_tokens)
        return Targets(
            _limit(row, self.ttft, usual.ttft_s) if self.ttft else usual.ttft_s,
            _limit(row, self.tpot, usual.tpot_s) if self.tpot else usual.tpot_s,
        )


def _tokens(row: Row, name: str) -> int:
    number = _number(row[name])
    if number < 1 or not number.is_integer():
        raise BadRow(f"{name}: expected a whole number of at least 1, not {row[name]!r}")
    return int(number)


def _seconds(row: Row, name: str) -> float:
    found = seconds(row[name], in_ms=name in IN_MS)
    if found < 0:
        raise BadRow(f"{name}: expected a number of at least 0, or a date, not {row[name]!r}")
    return found


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
    return number / 1000 if name in IN_MS else number


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
