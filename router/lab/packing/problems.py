"""Packing problems from JSON files."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import orjson

from router.settings.base import BadSettings
from solver.errors import ProblemError
from solver.packing.problem import Problem

# What a file may hold: ``{"cost_s": [[...]], ...}``; all but the first are optional. Where null
# stands, it means "never" for a cost, and "no limit" elsewhere.
FIELDS = (
    "cost_s", "initial_s", "kv_tokens", "kv_capacity", "eligible", "prefix_saving_s", "weight",
    "due_s", "span_s",
)  # fmt: skip
NULLABLE = ("cost_s", "kv_capacity", "due_s")


def read_problem(path: Path) -> Problem:
    """The problem in a file.

    Raises:
        BadSettings: if there is no such file, or it is no JSON object of these fields.
        ProblemError: naming the field that makes no sense.
    """
    try:
        data: Any = orjson.loads(path.read_bytes())
    except OSError as error:
        raise BadSettings.of_file(path, error) from error
    except orjson.JSONDecodeError as error:
        raise BadSettings(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadSettings(f"{path}: must be a JSON object of {', '.join(FIELDS)}")
    for name in data:
        if name not in FIELDS:
            raise BadSettings(f"{path}: unknown field {name!r}; there are {', '.join(FIELDS)}")
    if data.get("cost_s") is None:
        raise BadSettings(f"{path}: cost_s is missing")
    for name in NULLABLE:
        if name in data:
            data[name] = _unlimited(data[name])
    try:
        return Problem.of(**{name: value for name, value in data.items() if value is not None})
    except ProblemError as error:
        raise BadSettings.of_file(path, error) from error


def _unlimited(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [inf if item is None else _unlimited(item) for item in value]
    return value
