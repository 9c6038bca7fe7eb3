"""What a latency has to keep to, and how many workers to try: ``ttft_p99=2s``, ``2..32``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

if TYPE_CHECKING:
    from solver.sim.report import Report

LATENCIES: Mapping[str, str] = {
    "ttft": "time to first token",
    "e2e": "end to end",
    "tpot": "per output token",
}
FIGURES = ("mean", "p50", "p95", "p99")
UNITS: Mapping[str, float] = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|min|h)")
MOST_WORKERS = 1000


@dataclass(frozen=True, slots=True)
class Slo:
    """An objective: a figure of a latency is at most so long.

    Attributes:
        latency: ttft, e2e or tpot.
        figure: mean, p50, p95 or p99.
        limit_s: the most that it may be, in seconds.
    """

    latency: str
    figure: str
    limit_s: float

    @property
    def name(self) -> str:
        """As it is written, and called in a program's output."""
        return f"{self.latency}_{self.figure}"

    @property
    def words(self) -> str:
        """For people: p99 of the time to first token."""
        return f"{self.figure} {LATENCIES[self.latency]}"

    def of(self, run: Report) -> float:
        """The run's figure, in seconds."""
        values = {"ttft": run.ttft_s, "e2e": run.e2e_s, "tpot": run.tpot_s}[self.latency]
        return values[self.figure]

    def __str__(self) -> str:
        return f"{self.name}={self.limit_s:g}s"


def seconds(text: str) -> float:
    """A duration such as 2s, 500ms, 1.5min or 1h.

    Raises:
        ValueError: naming a text that is none, or none above 0.
    """
    found = DURATION.fullmatch(text)
    value = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not 0 < value < inf:
        raise ValueError(f"{text!r} is no duration above 0 such as 2s, 500ms or 1.5min")
    return value


def _slo(value: Any) -> Slo:  # noqa: ANN401
    if isinstance(value, Slo):
        return value
    name, equals, limit = str(value).strip().partition("=")
    latency, _, figure = name.partition("_")
    if not equals or latency not in LATENCIES or figure not in FIGURES:
        raise ValueError(
            f"{value!r} is no SLO such as ttft_p99=2s: {', '.join(LATENCIES)}; {', '.join(FIGURES)}"
        )
    return Slo(latency, figure, seconds(limit))


def _parts(value: Any) -> Any:  # noqa: ANN401
    """A list of what is between commas, of one text or of several."""
    texts = value if isinstance(value, list | tuple) else [value]
    apart = (text.split(",") if isinstance(text, str) else [text] for text in texts)
    return [part for parts in apart for part in parts if part != ""]


def _counts(value: Any) -> list[Any]:  # noqa: ANN401
    """Ranges such as 2..32 written out; all else is left to whoever checks the numbers."""
    counts: list[Any] = []
    for part in _parts(value):
        low, dots, high = part.partition("..") if isinstance(part, str) else (part, "", "")
        digits = [low, high] if dots else [low]
        if isinstance(part, str) and not all(text.strip().isdecimal() for text in digits):
            raise ValueError(f"{part!r} is neither a number nor a range such as 2..32")
        if not dots:
            counts.append(part)
            continue
        first, last = int(low), int(high)
        if not 1 <= first <= last <= MOST_WORKERS:
            raise ValueError(f"{part!r}: a range rises, from at least 1 to at most {MOST_WORKERS}")
        counts.extend(range(first, last + 1))
    return counts


Count: TypeAlias = Annotated[int, Field(ge=1, le=MOST_WORKERS)]
Counts: TypeAlias = Annotated[
    tuple[Count, ...], NoDecode, BeforeValidator(_counts), Field(min_length=1)
]
OneSlo: TypeAlias = Annotated[Slo, BeforeValidator(_slo)]
Slos: TypeAlias = Annotated[tuple[OneSlo, ...], NoDecode, BeforeValidator(_parts)]
