"""Traces of requests: files, and the public data sets or what stands in for them.

Rules:

- a trace is CSV with a header, JSON lines, or one JSON document (`documents`), gzip or not; its
  content says which, not its name;
- its columns are ``prompt_tokens`` and ``output_tokens``, and optionally ``arrival_s`` (`times`),
  ``id``, ``tenant``, ``priority``, ``deadline_s`` (seconds after the arrival; empty: none),
  ``ttft_s`` and ``tpot_s`` (targets: seconds to the first token and for each after it; empty: the
  usual ones) and ``hash_ids`` (in CSV: numbers with spaces or commas between them). What others
  call them does as well: Mooncake, Azure, BurstGPT, the gateway's headers ``x-slo-ttft-ms`` and
  ``x-slo-tpot-ms``; others yet are told by `columns`, and the rest is ignored;
- a gateway's traffic log is a trace: its rows have an ``outcome``;
- a row without output is left out and counted: what was refused, or failed before its first token,
  has made no work;
- a log may have been cut where a machine or its disk failed: lines of it that are no JSON are left
  out and counted, too, and so is a row whose worker has counted no prompt;
- any other row that is wrong is refused by file, line and column, never repaired or left out.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import orjson

from router.lab.simulation.columns import OUTCOME, REST, USUAL, BadRow, Columns, Row
from router.lab.simulation.documents import Length, by_bytes, is_document, rows_of
from router.lab.simulation.times import EPOCH
from router.settings.base import DATASETS as FOLDER
from router.settings.base import BadSettings
from router.settings.limits import Limits
from solver.sim.request import Request
from solver.sim.workload import WORKLOADS

GZIP = b"\x1f\x8b"
# Of a log, what stands for a line that is no row, and how many may come before the first that is.
BROKEN: Row = {OUTCOME: "broken line"}
MOST_BROKEN = 100
NOTHING: Mapping[str, str] = {}


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
class Trace:
    """Requests in the file's order, and why others were left out, and how many."""

    requests: list[Request]
    left_out: Mapping[str, int]


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
    try:
        with _opened(path) as text:
            lines = _Lines(text)
            try:
                trace = _trace(islice(_rows(lines, length), most), limits, columns)
            except (BadRow, csv.Error) as error:
                raise BadSettings(f"{path}:{lines.number}: {error}") from error
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise BadSettings(f"{path}: {error}") from error
    if not trace.requests:
        why = "".join(
            f"; {number} rows left out: {name}" for name, number in trace.left_out.items()
        )
        raise BadSettings(f"{path}: there are no requests in it{why}")
    return trace


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with path.open("rb") as file:
        zipped = file.read(len(GZIP)) == GZIP
        file.seek(0)
        plain = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if zipped else file
        with io.TextIOWrapper(
            plain, encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as text:
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
        start = next((line for line in self._text if _bare(line)), "")
        self._text.seek(0)
        return _bare(start).startswith(mark)

    def document(self) -> object:
        """All of it, if it is one document that has many requests in it; None if it has lines."""
        first = next((line for line in self._text if line.strip()), "")
        self._text.seek(0)
        try:
            found = orjson.loads(first)
        except orjson.JSONDecodeError:  # it may go on in the next line
            try:
                found = orjson.loads(self._text.read())
            except orjson.JSONDecodeError:
                return None
            finally:
                self._text.seek(0)
        return found if is_document(found) else None


def _rows(lines: _Lines, length: Length) -> Iterable[Row]:
    if lines.starts_with("[") or lines.starts_with("{"):
        found = lines.document()
        if found is not None:
            return _of_document(found, length)
        return _objects(lines)
    return csv.DictReader(map(_text, lines), restkey=REST, skipinitialspace=True)


def _bare(line: str) -> str:
    """Without what is around it; a disk that failed leaves zeros."""
    return line.strip("\0 \t\r\n")


def _text(line: str) -> str:
    if not line.isascii():
        line.encode()  # what was no text is not let by
    return line


def _objects(lines: _Lines) -> Iterator[Row]:
    """A row for each line; of a log a line that is broken tells no more than that."""
    broken: list[tuple[int, BadRow]] = []
    logged: bool | None = None  # by its first row that is one
    for line in lines:
        if not line.strip():
            continue
        try:
            row = _object(_bare(line))
        except BadRow as error:
            broken.append((lines.number, error))
        else:
            logged = OUTCOME in row if logged is None else logged
            yield row
        if broken and logged:
            yield from (BROKEN for _ in broken)
            broken.clear()
        elif broken and (logged is False or len(broken) > MOST_BROKEN):
            break
    if broken:
        lines.number, complaint = broken[0]
        raise complaint


def _of_document(found: object, length: Length) -> Iterator[Row]:
    try:
        yield from rows_of(found, length)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadRow(str(error)) from error


def _object(line: str) -> Row:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRow(f"no JSON from character {error.pos + 1} on: {error.msg}") from error
    if not isinstance(row, dict):
        raise BadRow('expected {"prompt_tokens": N, "output_tokens": N, ...}')
    return row


def _trace(rows: Iterable[Row], limits: Limits, names: Mapping[str, str]) -> Trace:
    columns: Columns | None = None
    requests: dict[str, Request] = {}
    left_out: Counter[str] = Counter()
    earliest = inf
    for number, told in enumerate(rows):
        row = _called(told, names) if names else told
        columns = columns or Columns.of(row, limits, told)
        if (why := columns.nothing_to_do(row)) is not None:
            left_out[why] += 1
            continue
        request = columns.request(row, number)
        if request.id in requests:
            raise BadRow(f"id: {request.id!r} is there twice")
        requests[request.id] = request
        earliest = min(earliest, request.arrival_s)
    found = list(requests.values())
    if EPOCH <= earliest < inf:
        found = [replace(one, arrival_s=one.arrival_s - earliest) for one in found]
    return Trace(found, left_out)


def _called(row: Row, names: Mapping[str, str]) -> Row:
    """A row by our names."""
    for ours, theirs in names.items():
        if theirs not in row:
            raise BadRow(f"{theirs}: no such column, for {ours}; there are: {', '.join(row)}")
    return {**row, **{ours: row[theirs] for ours, theirs in names.items()}}
