"""Settings of ``makespan calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from router.settings.base import Url
from router.settings.hardware import Cost
from router.settings.offline import Offline

# What is tried is not what a server can.
SERVERS = (
    " A server's own limit, where it tells it, goes into the profile; else this one, if given."
)


class CalibrateSettings(Offline):
    """Measure an engine, in process or over HTTP, and write its cost model as a profile file."""

    table: ClassVar[str] = "calibrate"

    upstream: Url | None = Field(
        None, description="Base URL of the OpenAI-compatible server to measure from its streams."
    )
    upstream_key_file: Path | None = Field(
        None, description="File of the key that this server asks for, its first line."
    )
    engine: Literal["emulated", "transformers"] | None = Field(
        None, description="Engine to measure in process instead."
    )
    model: str = Field(
        "makespan-probe",
        min_length=1,
        description="Name of the model that the server serves; with transformers, its folder.",
    )
    cost: Cost = Field(
        "llama-65b-ascend",
        description="Cost model that the emulated engine follows: a profile's name, a profile "
        "file, or JSON of its terms.",
    )
    slots: int = Field(
        16, ge=1, le=100_000, description="Most sequences decoded at once to measure it." + SERVERS
    )
    kv_tokens: int = Field(
        16_384, ge=256, description="Most cached tokens at once to measure it." + SERVERS
    )
    max_model_len: int = Field(
        1024, ge=128, description="Longest prompt and answer together to measure it." + SERVERS
    )
    max_batched_tokens: int | None = Field(
        None, ge=1, description="Most tokens in one iteration of a server that does not tell it."
    )
    threads: int | None = Field(
        None, ge=1, description="Threads that a model in this process computes with on a CPU."
    )
    rounds: int = Field(8, ge=1, le=1000, description="Samples of each shape of iteration.")
    name: str | None = Field(None, min_length=1, description="The profile's name.")
    hardware: str | None = Field(None, min_length=1, description="What it ran on, in words.")
    out: Path = Field(Path("profile.json"), description="Where the profile goes, JSON.")
    plot: Path | None = Field(
        None, description="Draw predicted over measured times into this file, SVG."
    )
    seed: int = Field(0, description="Seed of the prompts.")

    @property
    def called(self) -> str:
        """The profile's name, or its file's."""
        return self.name or self.out.stem

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.upstream is None) == (self.engine is None):
            raise ValueError("give either --upstream URL or --engine NAME")
        if self.engine == "transformers" and "model" not in self.model_fields_set:
            raise ValueError("model: the engine transformers needs a folder or a hub name")
        if self.plot is not None and self.plot.resolve() == self.out.resolve():
            raise ValueError(f"plot: {self.plot} is where the profile goes")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_model_len > self.kv_tokens:
            raise ValueError(
                f"max_model_len ({self.max_model_len}) is above kv_tokens ({self.kv_tokens})"
            )
        return self
