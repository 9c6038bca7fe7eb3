"""Runs kept in a file of JSON lines, one a run, so that a comparison can be gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from solver.errors import ProblemError
from tests.bench.peers.client import Answer
from tests.bench.peers.routers import ROUTERS
from tests.bench.peers.runs import Run
from tests.bench.peers.traffic import SITUATIONS, Setting


class RecordError(Exception):
    """A file that has no runs to go on with; the message names it and says why."""


def keep(path: Path, run: Run) -> None:
    """Add a run to the file."""
    with path.open("ab") as file:
        file.write(orjson.dumps(asdict(run)) + b"\n")


def recorded(path: Path, setting: Setting | None = None) -> list[Run]:
    """The runs in a file, all of one setting, and of `setting` if that is given.

    Raises:
        RecordError: naming the file and what is wrong with it.
    """
    try:
        runs = list(_runs(path.read_bytes()))
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, ProblemError) as error:
        raise RecordError(f"{path}: not a file of runs: {error!r}") from error
    for run in runs:
        wanted = setting or runs[0].setting
        if run.setting != wanted:
            raise RecordError(
                f"{path} has runs of {run.setting}, not of {wanted}: choose another file"
            )
    return runs


def _runs(lines: bytes) -> Iterator[Run]:
    for line in lines.splitlines():
        row: dict[str, Any] = orjson.loads(line)
        row["told"] = tuple(row["told"])
        row["setting"] = Setting(**row["setting"])
        row["answers"] = [Answer(**answer) for answer in row["answers"]]
        found = Run(**row)
        if found.router not in ROUTERS or found.situation not in SITUATIONS:
            raise ValueError(f"unknown: {found.router}, {found.situation}")
        yield found
