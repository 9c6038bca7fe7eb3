"""Settings of ``makespan agent``: its engine, and the policy that runs it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from router.settings.base import Port, Speed, Url
from router.settings.hardware import Cost
from router.settings.live import Live, Served
from solver.batching.policies import POLICIES
from solver.cost.profiles import PROFILES

PAPER = PROFILES["llama-65b-ascend"]


ENGINE = (
    "What runs the model: emulated (nothing does) or transformers (in the agent); of an agent that "
    "is started by itself openai (any server at --upstream) or vllm (the same, with our scheduler "
    "inside), too."
)


class AgentTuning(Live):
    """An engine and its policy."""

    engine: Literal["emulated", "transformers", "openai", "vllm"] = Field(
        "emulated", description=ENGINE
    )
    model: str = Field(
        PAPER.model,
        min_length=1,
        description="Name of the model served; transformers needs its folder or hub name.",
    )
    served_model_name: str | None = Field(
        None, min_length=1, description="Name that clients use, if not the model's own."
    )
    threads: int | None = Field(
        None, ge=1, description="Threads that a model in this process computes with on a CPU."
    )
    cost: Cost = Field(
        "llama-65b-ascend",
        description="Cost model that the emulated engine follows, and that a real one starts from: "
        "a profile's name, a profile file, or JSON of its terms.",
    )
    learn_cost: bool = Field(
        True,
        description="Fit the cost model to the engine's iterations as they end; before a server of "
        "its own an agent always does.",
    )
    slots: int = Field(PAPER.slots, ge=1, description="Requests that run at once.")
    kv_tokens: int = Field(
        PAPER.kv_tokens,
        ge=1,
        description="Cached tokens that fit into memory. Unless given: with transformers on a CPU "
        "16384, or the longest request; before a server what its metrics say.",
    )
    prefill_budget: int | None = Field(
        None,
        ge=1,
        description="Most prompt tokens in one iteration; default: no limit, with transformers "
        "2048.",
    )
    max_model_len: int = Field(
        PAPER.max_model_len,
        ge=2,
        description="Prompt and output tokens that one request may have; with transformers, unless "
        "given, at most what the model was made for.",
    )
    prefix_cache: bool = Field(
        True,
        description="The engine keeps prompts' prefixes and does not prefill them again; "
        "transformers never does.",
    )
    kv_events: str | None = Field(
        None,
        pattern=r"^tcp://(\*|[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):\d{1,5}$",
        description="Publish what the prefix cache stores and drops, as vLLM does, at "
        "tcp://HOST:PORT; * is every address of this host, port 0 takes a free one; of several "
        "agents (`up`) each takes the next. Gateways find it by themselves. A server of its own "
        "publishes by itself.",
    )
    policy: Literal[tuple(POLICIES)] = Field(  # type: ignore[valid-type]
        "adaptive", description="Decides prefill or decode at each iteration."
    )
    lengths: Path | None = Field(
        None, description="JSON lines of prompt_sha256 and output_tokens for the emulated engine."
    )
    faults: bool = Field(
        False, description="Let requests inject failures by the header x-makespan-fault."
    )
    seed: int = Field(0, description="Seed of the emulated engine's output lengths and words.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_model_len > self.kv_tokens:
            raise ValueError(
                f"max_model_len ({self.max_model_len}) is above kv_tokens ({self.kv_tokens}): "
                "a request of that length would never fit into memory"
            )
        return self

    @model_validator(mode="after")
    def _real_model(self) -> Self:
        if self.engine == "transformers" and "model" not in self.model_fields_set:
            raise ValueError("model: the engine transformers needs a folder or a hub name")
        return self

    @model_validator(mode="after")
    def _real_time(self) -> Self:
        if self.engine != "emulated" and "speed" in self.model_fields_set:
            raise ValueError(
                f"speed: the engine {self.engine} takes the time that it takes; only the emulated "
                "one can be sped up"
            )
        return self

    @model_validator(mode="after")
    def _own_cache(self) -> Self:
        if self.kv_events is not None and (self.engine != "emulated" or not self.prefix_cache):
            raise ValueError(
                "kv_events: only the emulated engine with its prefix_cache has anything to tell; a "
                "server behind an agent publishes by itself (vLLM: --kv-events-config)"
            )
        return self


class AgentSettings(AgentTuning, Served):
    """Start an agent and its engine (emulated: it takes a real engine's time, but has no model)."""

    table: ClassVar[str] = "agent"

    port: Port = Field(8100, description="Port to listen on; 0 takes a free one.")
    name: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9._:-]+$",
        description="The worker's name, unique in its fleet (default: the host's name).",
    )
    speed: Speed = Field(
        1.0, description="How many times faster than its cost model the emulated engine runs."
    )
    upstream: Url | None = Field(
        None, description="Base URL of the server that the engine openai or vllm stands before."
    )

    upstream_key_file: Path | None = Field(
        None,
        description="File of the key that this server asks for, its first line: it gets that in "
        "all that it is asked, and never a client's.",
    )

    @model_validator(mode="after")
    def _upstream(self) -> Self:
        apart = self.engine in ("openai", "vllm")
        if apart and self.upstream is None:
            raise ValueError(f"upstream: the engine {self.engine} needs its server's URL")
        if self.upstream is not None and not apart:
            raise ValueError(f"upstream: the engine {self.engine} has no server of its own")
        if self.upstream is None and self.upstream_key_file is not None:
            raise ValueError("upstream_key_file: there is no upstream to give the key to")
        return self
