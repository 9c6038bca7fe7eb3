"""Traces of requests: files, and the public data sets or what stands in for them.

Rules:

- a trace is CSV with a header or JSON lines, gzip or not; its content says which, not its name;
- its columns are ``prompt_tokens`` and ``output_tokens``, and optionally ``arrival_s``, ``id``,
  ``priority``, ``deadline_s`` (seconds after the arrival; empty: none), ``ttft_s`` and ``tpot_s``
  (targets: seconds to the first token and for each after it; empty: the usual ones) and
  ``hash_ids`` (in CSV: numbers with spaces or commas between them). Mooncake's ``input_length``,
  ``output_length`` and ``timestamp`` (milliseconds) do as well, and so do the gateway's headers
  ``x-slo-ttft-ms`` and ``x-slo-tpot-ms``; others are ignored;
- a row that is wrong is refused by file, line and column, never repaired or left out.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import inf, isfinite
from pathlib import Path
from typing import Any, BinaryIO, Self, TextIO, cast

import orjson

from router.settings.base import DATA, BadSettings
from router.settings.limits import Limits
from solver.batching.priority import Priority
from solver.batching.targets import Targets
from solver.sim.request import Request
from solver.sim.workload import WORKLOADS

GZIP = b"\x1f\x8b"
PROMPT = ("prompt_tokens", "input_length")
OUTPUT = ("output_tokens", "output_length")
ARRIVAL = ("arrival_s", "timestamp")
HASHES = "hash_ids"
PRIORITY, DEADLINE = "priority", "deadline_s"
TTFT = ("ttft_s", "x-slo-ttft-ms")
TPOT = ("tpot_s", "x-slo-tpot-ms")
IN_MS = frozenset({"timestamp", TTFT[1], TPOT[1]})
USUAL = Limits()
# All rows have those of these that the first row has; an id may be missing anywhere.
COLUMNS = frozenset({*PROMPT, *OUTPUT, *ARRIVAL, HASHES, PRIORITY, DEADLINE, *TTFT, *TPOT})

REST = "cells beyond the header"

Row = Mapping[str, Any]


class _BadRow(Exception):
    """A row that is no request; the message names the column."""


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
    """The folder of real data: ``MAKESPAN_DATA``, or the one beside the checkout."""
    named = os.environ.get(DATA)
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


def read(path: Path, limits: Limits = USUAL, *, most: int | None = None) -> list[Request]:
    """The requests of a trace, in the file's order; `limits` are targets where it has none.

    A row without an id is called by its number, from 0. `most`: only the first of them are read.

    Raises:
        BadSettings: naming the file, and the line and column that are wrong.
    """
    try:
        with _opened(path) as text:
            lines = _Lines(text)
            try:
                requests = _requests(islice(_rows(lines), most), limits)
            except (_BadRow, csv.Error) as error:
                raise BadSettings(f"{path}:{lines.number}: {error}") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadSettings(f"{path}: {error}") from error
    if not requests:
        raise BadSettings(f"{path}: there are no requests in it")
    return requests


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with path.open("rb") as file:
        zipped = file.read(len(GZIP)) == GZIP
        file.seek(0)
        plain = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if zipped else file
        with io.TextIOWrapper(plain, encoding="utf-8-sig", newline="") as text:
            yield text


class _Lines:
    """The lines of a file; `number` is the one that was read last, from 1."""

    def __init__(self, text: TextIO) -> None:
        self.number = 0
        self._text = text

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.number += 1
            yield line

    def starts_with(self, mark: str) -> bool:
        """Whether the first that is not blank begins with `mark`."""
        start = next((line for line in self._text if line.strip()), "")
        self._text.seek(0)
        return start.lstrip().startswith(mark)


def _rows(lines: _Lines) -> Iterable[Row]:
    if lines.starts_with("{"):
        return (_object(line) for line in lines if line.strip())
    return csv.DictReader(lines, restkey=REST, skipinitialspace=True)


def _object(line: str) -> Row:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _BadRow(f"no JSON from character {error.pos + 1} on: {error.msg}") from error
    if not isinstance(row, dict):
        raise _BadRow('expected {"prompt_tokens": N, "output_tokens": N, ...}')
    return row


def _requests(rows: Iterable[Row], limits: Limits) -> list[Request]:
    columns: _Columns | None = None
    requests: dict[str, Request] = {}
    for number, row in enumerate(rows):
        columns = columns or _Columns.of(row, limits)
        request = columns.request(row, number)
        if request.id in requests:
            raise _BadRow(f"id: {request.id!r} is there twice")
        requests[request.id] = request
    return list(requests.values())


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where a trace has what; the first row decides."""

    present: frozenset[str]
    prompt: str
    output: str
    arrival: str | None
    ttft: str | None
    tpot: str | None
    hashes: bool
    limits: Limits | None  # None: its priority's targets are each request's

    @classmethod
    def of(cls, row: Row, limits: Limits) -> Self:
        """The columns of a trace that begins with `row`."""
        present = COLUMNS & row.keys()

        def one(names: tuple[str, ...]) -> str | None:
            return next((name for name in names if name in present), None)

        prompt, output = one(PROMPT), one(OUTPUT)
        if prompt is None or output is None:
            missing = (PROMPT if prompt is None else OUTPUT)[0]
            raise _BadRow(f"{missing}: no such column; there are: {', '.join(row)}")
        ttft, tpot, hashes = one(TTFT), one(TPOT), HASHES in present
        asked = limits if ttft or tpot or limits != USUAL else None
        return cls(present, prompt, output, one(ARRIVAL), ttft, tpot, hashes, asked)

    def request(self, row: Row, number: int) -> Request:
        """The request of a row."""
        for name in sorted(self.present ^ (COLUMNS & row.keys())):
            raise _BadRow(f"{name}: not in every row")
        if row.get(REST):
            raise _BadRow(f"{REST}: {', '.join(row[REST])}")
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
        raise _BadRow(f"{name}: expected a whole number of at least 1, not {row[name]!r}")
    return int(number)


def _seconds(row: Row, name: str) -> float:
    number = _number(row[name])
    if number < 0:
        raise _BadRow(f"{name}: expected a number of at least 0, not {row[name]!r}")
    return number / 1000 if name in IN_MS else number


def _priority(row: Row) -> Priority:
    try:
        return Priority(row[PRIORITY] or Priority.DEFAULT)
    except ValueError as error:
        known = ", ".join(Priority)
        raise _BadRow(f"{PRIORITY}: expected one of {known}, not {row[PRIORITY]!r}") from error


def _limit(row: Row, name: str, default: float) -> float:
    """Seconds above 0; `default` where the cell is empty."""
    if row[name] in ("", None):
        return default
    number = _number(row[name])
    if number <= 0:
        raise _BadRow(f"{name}: expected a number above 0, not {row[name]!r}")
    return number / 1000 if name in IN_MS else number


def _number(value: object) -> float:
    """A finite number, or -1 for what is none."""
    try:
        number = float(cast("str", value))
    except (TypeError, ValueError, OverflowError):
        return -1.0
    return number if isfinite(number) and not isinstance(value, bool) else -1.0


def _hashes(row: Row) -> tuple[int, ...]:
    value = row[HASHES]
    if isinstance(value, str):
        value = value.strip("[]").replace(",", " ").split()
    try:
        return tuple(map(int, value))
    except (TypeError, ValueError) as error:
        raise _BadRow(f"{HASHES}: expected whole numbers, not {row[HASHES]!r:.80}") from error
