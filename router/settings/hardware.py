"""What a cost setting stands for: a profile's name, JSON of terms, or a file of `calibrate`'s."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from solver.cost.model import CostModel
from solver.cost.profiles import PROFILES
from solver.errors import ProblemError

# Slots of a cost model that is given as JSON: the paper's.
SLOTS = 200


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a cost setting stands for; `prefill_budget`: most prompt tokens in one iteration."""

    cost: CostModel
    slots: int
    kv_tokens: float
    prefill_budget: float = inf


def hardware(cost: str | Mapping[str, float]) -> Hardware:
    """The profile of that name or in that file, or a cost model as JSON, with endless memory.

    Raises:
        ValueError: naming the file and the field or term, or the profiles that there are.
    """
    if not isinstance(cost, str):
        return Hardware(_model(cost), SLOTS, inf)
    if cost.lstrip().startswith("{"):
        try:
            terms = json.loads(cost)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a cost model: {error}") from error
        return Hardware(_model(terms), SLOTS, inf)
    if cost in PROFILES:
        known = PROFILES[cost]
        return Hardware(known.cost, known.slots, known.kv_tokens)
    path = Path(cost)
    if path.suffix == ".json" or path.is_file():
        return _file(path)
    names = ", ".join(PROFILES)
    raise ValueError(f"no profile {cost!r}; give JSON, a profile's file, or one of: {names}")


def _model(terms: object) -> CostModel:
    if not isinstance(terms, Mapping):
        raise ValueError(f"not a cost model: {terms!r} is no JSON object")
    try:
        model = CostModel.from_ms(terms)
        if model.decode_s(1) <= 0 or (model.mixed is not None and model.mixed_s(1, 1) <= 0):
            raise ProblemError("an iteration must take some time")
    except ProblemError as error:
        raise ValueError(f"not a cost model: {error}") from error
    return model


def _file(path: Path) -> Hardware:
    try:
        profile = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"profile {path}: {error}") from error
    if not isinstance(profile, dict):
        raise ValueError(f"profile {path}: it is no JSON object")
    if "cost_ms" not in profile:
        raise ValueError(f"profile {path}: cost_ms is missing")
    try:
        cost = _model(profile["cost_ms"])
    except ValueError as error:
        raise ValueError(f"profile {path}: cost_ms: {error}") from error
    slots = _count(path, profile, "slots", SLOTS)
    kv_tokens = _count(path, profile, "kv_tokens", inf)
    return Hardware(cost, int(slots), kv_tokens, _count(path, profile, "max_batched_tokens", inf))


def _count(path: Path, profile: Mapping[str, Any], name: str, default: float) -> float:
    value = profile.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"profile {path}: {name} must be a whole number above 0, not {value!r}")
    return value


def _cost(value: Any) -> Any:  # noqa: ANN401
    hardware(value)
    return value if isinstance(value, str) else json.dumps(value)


Cost = Annotated[str, BeforeValidator(_cost)]
