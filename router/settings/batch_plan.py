"""Settings of ``makespan batch plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg, NoDecode

from router.settings.base import Comma, Speeds
from router.settings.hardware import Cost
from router.settings.offline import Offline

Counts = Annotated[
    tuple[Annotated[int, Field(ge=1, le=10_000)], ...], NoDecode, Comma, Field(min_length=1)
]


class BatchPlanSettings(Offline):
    """Say how long a batch will take on how many workers, and what it costs, before it is sent."""

    table: ClassVar[str] = "batch plan"

    file: CliPositionalArg[Path] = Field(
        description="The batch's requests, JSON lines as OpenAI's Batch API takes them."
    )
    cost: Cost = Field(
        "llama-65b-ascend",
        description="Cost model: a profile's name, a profile file, or JSON of its terms.",
    )
    workers: Counts = Field((1, 2, 4, 8), description="How many workers; several, by comma.")
    slots: int | None = Field(
        None, ge=1, le=100_000, description="Slots a worker; default: the profile's."
    )
    speed: Speeds = Field((1.0,), description="Speed of the workers; several are dealt out.")
    output_tokens: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Output tokens that a line makes on average, if its limit lets it; default: "
        "as predicted of lines of which nothing has been seen.",
    )
    price_per_hour: float | None = Field(
        None, ge=0, le=1e9, description="What a worker costs an hour, for what the batch costs."
    )
    deadline: float = Field(
        10.0, ge=0, le=86_400, description="Seconds to look for a better plan, for each."
    )
