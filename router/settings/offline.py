"""What the settings of commands that work offline share."""

from __future__ import annotations

import warnings
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field
from pydantic_settings import NoDecode

from router.settings.base import Comma, Settings, Speeds, readable_by
from router.settings.hardware import Cost
from router.settings.limits import FirstTokenLimits, Limits, first_token_limits
from solver.batching.policies import POLICIES
from solver.batching.queue import ORDERS
from solver.errors import ProblemError
from solver.routing.dispatchers import DISPATCHERS
from solver.sim.cache_views import stale_s
from solver.sim.forecast import length_forecaster

if TYPE_CHECKING:
    PolicyName: TypeAlias = str
    DispatcherName: TypeAlias = str
    Order: TypeAlias = str
else:
    PolicyName = Literal[tuple(POLICIES)]
    DispatcherName = Literal[tuple(DISPATCHERS)]
    Order = Literal[ORDERS]


def _knowledge(value: str) -> str:
    if value not in ("exact", "estimated"):
        try:
            stale_s(value)
        except ProblemError as error:
            raise ValueError(str(error)) from error
    return value


def _arrivals(value: str) -> str:
    name, _, rate = value.partition(":")
    if name == "poisson":
        try:
            if 0 < float(rate) < inf:
                return value
        except ValueError:
            pass
        raise ValueError(f"poisson:RATE takes requests a second above 0, not {rate!r}")
    if value not in ("trace", "all-at-once"):
        raise ValueError(f"{value!r} is none of trace, all-at-once, poisson:RATE")
    return value


def read_weight(text: str) -> tuple[str, float]:
    """A tenant and its weight, as ``TENANT=WEIGHT``.

    Raises:
        ValueError: saying what is wrong.
    """
    name, _, weight = text.rpartition("=")
    try:
        if 0 < float(weight) < inf:
            return name, float(weight)
    except ValueError:
        pass
    raise ValueError(f"{text!r} is not like search=3, with a weight above 0")


# Columns of a trace by our names.
COLUMNS = (
    *("prompt_tokens", "output_tokens", "arrival_s", "arrival_ms", "arrival_us", "arrival_ns"),
    *("id", "hash_ids", "priority", "tenant", "deadline_s", "ttft_s", "tpot_s"),
)


def read_column(text: str) -> tuple[str, str]:
    """Our name of a column and the trace's, as ``OURS=THEIRS``.

    Raises:
        ValueError: saying what is wrong.
    """
    ours, _, theirs = text.partition("=")
    if ours not in COLUMNS or not theirs:
        raise ValueError(f"{text!r} is not like prompt_tokens=in, with one of {', '.join(COLUMNS)}")
    return ours, theirs


Columns = Annotated[tuple[Annotated[str, readable_by(read_column)], ...], NoDecode, Comma]
Weights = Annotated[tuple[Annotated[str, readable_by(read_weight)], ...], NoDecode, Comma]
Lengths = Annotated[str, readable_by(partial(length_forecaster, seed=0))]
Arrivals = Annotated[str, AfterValidator(_arrivals)]


with warnings.catch_warnings():
    # The flag is called --json; pydantic's own `json`, which a field of that name hides, is
    # deprecated and not used here.
    warnings.simplefilter("ignore", UserWarning)

    class Offline(Settings):
        """What all commands that work offline share."""

        json: bool = Field(  # type: ignore[assignment]
            False, description="Print one JSON object, nothing else."
        )


class Traffic(Offline):
    """Which requests, on which engines; what all that is simulated shares."""

    requests: Path = Field(
        description="Trace: CSV or JSON lines, gzip or not, of prompt_tokens, output_tokens and "
        "optionally arrival_s, id, priority, deadline_s, ttft_s, tpot_s, tenant, hash_ids; a "
        "gateway's traffic log; Azure's, BurstGPT's, Mooncake's, ServeGen's, ShareGPT's, vLLM's or "
        "GuideLLM's own; or sample: 1,000 requests as of a chat service."
    )
    columns: Columns = Field(
        (),
        description="What the trace calls its columns, by comma: "
        "prompt_tokens=in,output_tokens=out,arrival_s=time (or arrival_ms, _us, _ns).",
    )
    tokenizer: Path | None = Field(
        None,
        description="A model's tokenizer.json, by which conversations' lengths are told; default: "
        "by their bytes. Needs a package: pip install tokenizers.",
    )
    cost: Cost = Field(
        "llama-65b-ascend",
        description="Cost model: a profile's name, a profile file, or JSON of its terms.",
    )
    slots: int | None = Field(
        None, ge=1, le=100_000, description="Slots a worker; default: the profile's."
    )
    kv_tokens: int | None = Field(
        None, ge=1, description="Cached tokens that fit into a worker; default: the profile's."
    )
    prefill_budget: int | None = Field(
        None, ge=1, description="Most prompt tokens in one iteration; default: the profile's."
    )
    speed: Speeds = Field((1.0,), description="Speed of the workers; several are dealt out.")
    order: Order = Field(
        "longest", description="Order of a worker's queue; paper: the lists of its Algorithm 1."
    )
    lengths: Lengths = Field(
        "predicted",
        description="What is known of output lengths: known, unknown, noisy:SIGMA, predicted.",
    )
    arrivals: Arrivals = Field(
        "trace", description="When requests come: trace, all-at-once, poisson:RATE."
    )
    ttft_ms: FirstTokenLimits | None = Field(
        None,
        description="Target for the first token where the trace has none, in milliseconds, with "
        "others for prompts of more tokens: 2000,5000:4096; default: by priority. Bulk has none.",
    )
    tpot_ms: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="The same for each token after the first, in milliseconds, on average.",
    )
    stale: float | None = Field(
        None,
        ge=0,
        le=3600,
        description="Seconds between two looks at the workers, of dispatchers that decide for one "
        "request at a time; default: 0.1 for those that poll engines, 0 for those that count "
        "themselves.",
    )
    tenant_weights: Weights = Field(
        (),
        description="Weights of tenants' shares of engine time, by comma: search=3,chat=1; "
        "default: 1 each.",
    )
    prefix_cache: bool = Field(
        True, description="Workers keep prompts' blocks, where the trace has hash_ids."
    )
    cache_knowledge: Annotated[str, AfterValidator(_knowledge)] = Field(
        "exact",
        description="What dispatchers know of workers' caches: exact (as engines publish it), "
        "estimated (from what was sent), stale:SECONDS (as of the last look).",
    )
    limit: int | None = Field(None, ge=1, description="Only the first so many requests.")
    seed: int = Field(0, description="Seed of everything random.")

    @property
    def names(self) -> dict[str, str]:
        """What the trace calls our columns."""
        return dict(map(read_column, self.columns))

    @property
    def limits(self) -> Limits:
        """Targets of requests that have none of their own."""
        first = () if self.ttft_ms is None else first_token_limits(self.ttft_ms)
        return Limits(first, None if self.tpot_ms is None else self.tpot_ms / 1000)

    def weight(self, tenant: str) -> float:
        """Of a tenant's share."""
        return dict(map(read_weight, self.tenant_weights)).get(tenant, 1.0)

    def _distinct(self, *outputs: Path | None) -> None:
        paths = [path.resolve() for path in (self.requests, *outputs) if path is not None]
        for path in paths:
            if paths.count(path) > 1:
                raise ValueError(f"{path} would be overwritten: each file needs a name of its own")
