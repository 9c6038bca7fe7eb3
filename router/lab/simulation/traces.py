"""Traces of requests: files, and the public data sets or what stands in for them.

Rules:

- a trace's columns are ``prompt_tokens`` and ``output_tokens``, and optionally ``arrival_s``
  (`times`), ``id``, ``tenant``, ``priority``, ``deadline_s`` (seconds after the arrival; empty:
  none), ``ttft_s`` and ``tpot_s`` (targets: seconds to the first token and for each after it;
  empty: the usual ones) and ``hash_ids`` (in CSV: numbers with spaces or commas between them). What
  others call them does as well (`columns`), others yet are told, and the rest is ignored;
- a gateway's traffic log is a trace: its rows have an ``outcome``;
- a row without output or prompt is left out and counted: what was refused, or failed before its
  first token, has made no work;
- any other row that is wrong is refused by file, line and column, never repaired. Of a log it is
  left out and counted, too: one that has broken off is read up to there;
- what was taken for granted is said.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

from router.lab.simulation.blocks import block_tokens, in_our_blocks
from router.lab.simulation.columns import (
    ARRIVAL,
    ENDED,
    USUAL,
    WORKER,
    BadRow,
    Columns,
    LeftOut,
    Row,
)
from router.lab.simulation.documents import LATER, Length, by_bytes
from router.lab.simulation.reading import Lines, opened, rows
from router.lab.simulation.times import (
    A_SECOND,
    EPOCH,
    NAMED,
    Clock,
    late,
    number_of,
    silences,
)
from router.settings.base import DATASETS as FOLDER
from router.settings.base import BadSettings
from router.settings.limits import Limits
from solver.batching.kv import BLOCK_TOKENS
from solver.sim.request import Request
from solver.sim.workload import WORKLOADS

NOTHING: Mapping[str, str] = {}
# So many lines that say nothing before the first that does: this is no log with a bad beginning.
MOST_BAD = 1000
MOST_SHOWN = 1000  # characters of what is wrong
NO_TIMES = "no arrivals are known, so all come at once"
UNTOLD = "when later answers were asked for is not told"
WHICH_TIMES = f"; --columns {ARRIVAL}=NAME says which they are"


@dataclass(frozen=True, slots=True)
class Source:
    """A data set's file in the data folder, and how many requests it has."""

    file: str
    requests: int


DATASETS: Mapping[str, Source] = {
    "gsm8k-llama65b": Source("gsm8k_llama65b_outputs_SYNTHETIC.csv", 1319),
    "azure-conv": Source("azure_llm_2023_conv.csv", 19_366),
    "sharegpt": Source("sharegpt_8k_lengths.csv", 30_731),
    "mooncake": Source("mooncake_synthetic.jsonl.gz", 3993),
    "servegen-m-large": Source("servegen_m_large_sample_20min.csv.gz", 198_130),
}


def data_dir() -> Path | None:
    """The folder of real data: ``MAKESPAN_DATASETS``, or the one beside the checkout."""
    named = os.environ.get(FOLDER)
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(named) if named else beside
    return folder if folder.is_dir() else None


def dataset(name: str, seed: int = 0, *, most: int | None = None) -> tuple[list[Request], bool]:
    """A data set, and whether it is the real one: else as many requests drawn to look like it.

    `most`: only its first requests.

    Raises:
        BadSettings: if there is no data set of that name, or its file is wrong.
    """
    if name not in DATASETS:
        raise BadSettings(f"unknown data set {name!r}; one of: {', '.join(DATASETS)}")
    source, folder = DATASETS[name], data_dir()
    if folder is not None and (folder / source.file).is_file():
        return read(folder / source.file, most=most), True
    count = source.requests if most is None else min(most, source.requests)
    return WORKLOADS[name](count, random.Random(seed)), False


@dataclass(frozen=True, slots=True)
class Logged:
    """What a log tells of the fleet that it is of: how many served, and how soon half was done."""

    workers: int
    median_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the file's order.

    Attributes:
        left_out: why others were left out, and how many.
        said: what was taken for granted, a line each.
        logged: what a gateway's log tells beside them; None of any other trace.
    """

    requests: list[Request]
    left_out: Mapping[str, int]
    said: Sequence[str] = ()
    logged: Logged | None = None


def read(path: Path, limits: Limits = USUAL, *, most: int | None = None) -> list[Request]:
    """The requests of a trace; see `read_trace`."""
    return read_trace(path, limits, most=most).requests


def read_trace(
    path: Path,
    limits: Limits = USUAL,
    *,
    most: int | None = None,
    columns: Mapping[str, str] = NOTHING,
    length: Length = by_bytes,
) -> Trace:
    """A trace; `limits` are targets where it has none, `columns` what it calls ours.

    Where it has texts, `length` tells their tokens.

    A row without an id is called by its number, from 0. `most`: only the first of them are read.

    Raises:
        BadSettings: naming the file, and the line and column that are wrong.
    """
    reader = _Reader(path, limits, columns)
    try:
        with opened(path) as text:
            lines = Lines(text)
            for number, row in enumerate(islice(rows(lines, length), most)):
                reader.take(row, number, lines.number)
    except (OSError, EOFError) as error:
        raise BadSettings.of_file(path, error) from error
    return reader.trace()


class _Reader:
    """Makes a trace of rows."""

    def __init__(self, path: Path, limits: Limits, names: Mapping[str, str]) -> None:
        self._path, self._limits, self._names = path, limits, names
        self._columns: Columns | None = None
        self._requests: dict[str, Request] = {}
        self._lines: list[int] = []
        self._left_out: Counter[str] = Counter()
        self._bad, self._first_bad = 0, ""
        self._workers, self._took_s = set[str](), list[float]()
        self._later = 0

    def take(self, row: Row | LeftOut | BadRow, number: int, line: int) -> None:
        """The next row, the last line of which is `line`."""
        try:
            if isinstance(row, (BadRow, LeftOut)):
                self._pass_over(row)
            else:
                self._take(_called(row, self._names) if self._names else row, number, line)
        except BadRow as error:
            self._refuse(error, line)

    def _pass_over(self, row: LeftOut | BadRow) -> None:
        if isinstance(row, BadRow):
            raise row
        self._left_out[row.why] += 1

    def _take(self, row: Row, number: int, line: int) -> None:
        columns = self._columns
        if columns is None:
            columns = self._columns = Columns.of(row, self._limits, self._names)
            self._unless_logged()
        if (why := columns.nothing_to_do(row)) is not None:
            self._left_out[why] += 1
            return
        request = columns.request(row, number)
        if request.id in self._requests:
            raise BadRow(f"id: {request.id!r} is there twice")
        self._requests[request.id] = request
        self._later += LATER in row
        self._lines.append(line)
        if columns.logged:
            self._workers.update(name for name in (row.get(WORKER),) if isinstance(name, str))
            self._took_s.append(number_of(row.get(ENDED)) or 0.0)

    def _refuse(self, error: BadRow, line: int) -> None:
        self._bad += 1
        where = f"{self._path}:{line}" if line else self._path  # a document has no lines
        self._first_bad = self._first_bad or _shown(f"{where}: {error}")
        self._unless_logged()

    def _unless_logged(self) -> None:
        """A log goes on without what is wrong in it; what is no log, or not known to be, may not.

        Raises:
            BadSettings: the first that was wrong.
        """
        logged = self._columns is not None and self._columns.logged
        if self._bad and not logged and (self._columns is not None or self._bad >= MOST_BAD):
            raise BadSettings(self._first_bad)

    def trace(self) -> Trace:
        """Of all that was taken.

        Raises:
            BadSettings: if nothing was, or there is a time that is none.
        """
        found, said = self._timed()
        columns = self._columns
        hashed = columns is not None and columns.hashes and not columns.logged
        if hashed and (size := block_tokens(found)) != BLOCK_TOKENS:
            found = in_our_blocks(found, size)
            said.append(f"hash_ids are taken for those of blocks of {size} tokens")
        left_out = dict(self._left_out)
        if self._bad:
            left_out[f"they cannot be read, the first is {self._first_bad}"] = self._bad
        if not found:
            if self._bad:
                raise BadSettings(self._first_bad)
            why = "".join(f"; {number} rows left out: {name}" for name, number in left_out.items())
            raise BadSettings(f"{self._path}: there are no requests in it{why}")
        logged = Logged(len(self._workers), median(self._took_s)) if self._took_s else None
        return Trace(found, left_out, said, logged)

    def _timed(self) -> tuple[list[Request], list[str]]:
        """The requests, at seconds since the trace began, and what is to be said of that."""
        columns, found = self._columns, list(self._requests.values())
        if columns is None:
            return found, []
        if columns.arrival is None:
            return found, [NO_TIMES + (WHICH_TIMES if columns.unused else "")]
        clock = columns.clock([one.arrival_s for one in found])
        if not clock.plain or any(one.arrival_s >= EPOCH for one in found):
            found = list(self._by(clock, columns.arrival, found))
        said = [_guess(clock, columns.arrival, found)] if clock.guessed else []
        if late_s := late([one.arrival_s for one in found]):
            found = [replace(one, arrival_s=one.arrival_s - late_s) for one in found]
            said.append(f"the first request comes after {late_s:,.0f} s; the trace begins with it")
        if self._later:
            said.append(f"{self._later:,} come with the first of their conversation: {UNTOLD}")
        return found, [*said, *silences([one.arrival_s for one in found])]

    def _by(self, clock: Clock, name: str, found: Iterable[Request]) -> Iterable[Request]:
        for one, line in zip(found, self._lines, strict=True):
            arrival_s = clock.seconds(one.arrival_s)
            if arrival_s >= 0:
                yield replace(one, arrival_s=arrival_s)
                continue
            kind = "no Unix time, but most are" if clock.unix else "a Unix time, but most are none"
            self._refuse(BadRow(f"{name}: {one.arrival_s:g} is {kind}"), line)


def _shown(text: str) -> str:
    """As a terminal may show it, whatever a file has in it."""
    short = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in short)


def _guess(clock: Clock, name: str, found: Sequence[Request]) -> str:
    first, *others = (f"arrival_{unit}" for unit in A_SECOND if unit != clock.unit)
    return (
        f"{name} is taken for {NAMED[clock.unit]}, the last request coming after "
        f"{max(one.arrival_s for one in found):,.4g} s; if that is wrong, say --columns "
        f"{first}={name} (or {', '.join(others)})"
    )


def _called(row: Row, names: Mapping[str, str]) -> Row:
    """A row by our names."""
    for ours, theirs in names.items():
        if theirs not in row:
            raise BadRow(f"{theirs}: no such column, for {ours}; there are: {', '.join(row)}")
    return {**row, **{ours: row[theirs] for ours, theirs in names.items()}}
