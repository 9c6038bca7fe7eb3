"""Settings of every process: one frozen object, from a TOML file, the environment and flags.

In rising order: the file named by ``MAKESPAN_CONFIG`` (one table per command), ``MAKESPAN_*``
variables, flags. A value that is unknown or wrong stops the process and names itself.
"""

from __future__ import annotations

import os
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from router.addresses import base_url, parse
from router.hardware import Cost
from solver.policies import POLICIES
from solver.profiles import PROFILES

PREFIX = "MAKESPAN_"
CONFIG = PREFIX + "CONFIG"
DATA = PREFIX + "DATA"  # where the benches look for public data sets
PAPER = PROFILES["llama-65b-ascend"]


class BadSettings(Exception):
    """A setting is unknown or wrong; the message names it."""


def _split(value: Any) -> Any:  # noqa: ANN401
    return [part for part in value.split(",") if part] if isinstance(value, str) else value


def _worker(value: str) -> str:
    return str(parse(value))


def _distinct(urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        if urls.count(url) > 1:
            raise ValueError(f"{url} is there twice")
    return urls


Comma = BeforeValidator(_split)
Url = Annotated[str, BeforeValidator(base_url)]
Worker = Annotated[str, BeforeValidator(_worker)]
FleetOf = Annotated[tuple[Worker, ...], NoDecode, Comma, AfterValidator(_distinct)]
Speed = Annotated[float, Field(gt=0, le=1e6)]
Speeds = Annotated[tuple[Speed, ...], NoDecode, Comma, Field(min_length=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """The base that knows where a command's settings come from."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )
    table: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come first (pydantic-settings puts them there), then environment, then file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, read_table(cls.table))

    @classmethod
    def load(cls, arguments: list[str]) -> Self:
        """The settings of one process.

        Raises:
            BadSettings: naming the setting that is unknown or wrong.
        """
        check_environment()
        command_line: dict[str, Any] = {
            "_cli_parse_args": arguments,
            "_cli_prog_name": f"makespan {cls.table}",
            "_cli_show_env_vars": True,
        }
        try:
            return cls(**command_line)
        except ValidationError as error:
            found = {e["loc"]: e["msg"].removeprefix("Value error, ") for e in error.errors()}
            problems = [
                f"{_where(place)}: {what}"
                for place, what in found.items()
                if not any(place == other[: len(place)] != other for other in found)  # its part's
            ]
            raise BadSettings("; ".join(problems)) from error
        except SettingsError as error:
            raise BadSettings(str(error)) from error


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "settings"


class Live(Settings):
    """What all commands that listen share."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    log_format: Literal["text", "json"] = Field("text", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines that are logged."
    )
    drain_s: float = Field(
        30.0, ge=0, le=86_400, description="Seconds that running requests get to end at shutdown."
    )
    otel_endpoint: Url | None = Field(
        None,
        description="Base URL of an OpenTelemetry collector (OTLP over HTTP) that gets a trace a "
        "request; default: what OTEL_EXPORTER_OTLP_ENDPOINT says, else none. Needs makespan[otel].",
    )
    otel_sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of requests traced where the client's traceparent does not decide.",
    )


class GatewayTuning(Live):
    """How a gateway plans and forwards."""

    window_max_wait_s: float = Field(
        0.02, ge=0, le=10, description="Longest wait for a window to close under load, seconds."
    )
    window_max_size: int = Field(512, ge=1, description="Most requests planned together.")
    plan_deadline_s: float = Field(
        0.05, ge=0, le=60, description="Seconds that the MILP may take; 0 leaves it out."
    )
    max_body_bytes: int = Field(8 << 20, ge=1024, description="Largest request body, bytes.")
    max_requests: int = Field(
        10_000, ge=1, description="Requests in the gateway at once; beyond that, 503."
    )
    retries: int = Field(
        2, ge=0, description="Other workers tried if one fails before its first byte."
    )
    connect_timeout_s: float = Field(
        2.0, gt=0, le=3600, description="Seconds to connect to a worker before it counts as down."
    )
    silence_timeout_s: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="Seconds without a byte from a worker before it has failed.",
    )
    remember: int = Field(10_000, ge=0, description="Finished requests whose explanation is kept.")


class Served(Live):
    """A process that listens on its own, or on a socket that a supervisor made."""

    fd: int | None = Field(
        None,
        ge=0,
        description="Inherited socket to listen on instead; the process then ends with its parent.",
    )


class GatewaySettings(GatewayTuning, Served):
    """Start a gateway before workers that already run: agents, or OpenAI-compatible servers."""

    table: ClassVar[str] = "gateway"

    port: Port = Field(8000, description="Port to listen on; 0 takes a free one.")
    worker: FleetOf = Field(
        min_length=1,
        description="Workers, by comma or repeated: their base URLs; dns://NAME:PORT for all "
        "addresses of a name; kubernetes://NAMESPACE/SERVICE:PORT for all pods of a Service (by "
        "default in the gateway's own namespace; PORT: the pods' own, by number or name).",
    )
    plain_slots: int = Field(
        64, ge=1, description="Requests that a worker without an agent is taken to run at once."
    )
    plain_cost: Cost = Field(
        "llama-65b-ascend",
        description="Cost model to start from for a worker without an agent (a profile's name, a "
        "profile file, or JSON of its terms); its scale is learnt.",
    )
    plain_prefix_cache: bool = Field(
        True, description="A worker without an agent is taken to keep prompts' prefixes."
    )


class AgentTuning(Live):
    """An engine and its policy."""

    engine: Literal["emulated", "transformers", "openai", "vllm"] = Field(
        "emulated",
        description="What runs the model: emulated (nothing does), transformers (in this process), "
        "openai (any server at --upstream) or vllm (the same, with our scheduler inside).",
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

    @model_validator(mode="after")
    def _upstream(self) -> Self:
        apart = self.engine in ("openai", "vllm")
        if apart and self.upstream is None:
            raise ValueError(f"upstream: the engine {self.engine} needs its server's URL")
        if self.upstream is not None and not apart:
            raise ValueError(f"upstream: the engine {self.engine} has no server of its own")
        return self


class UpSettings(GatewayTuning, AgentTuning):
    """Start a gateway and agents on this machine, under one supervisor."""

    table: ClassVar[str] = "up"

    port: Port = Field(8000, description="Port of the gateway; 0 takes a free one.")
    agents: int = Field(2, ge=1, le=64, description="How many agents.")
    agent_port: Port = Field(
        0, description="Port of the first agent, the others follow; 0 takes free ones."
    )
    speed: Speeds = Field(
        (20.0,),
        description="Speed of the agents' emulated engines; several are dealt out in turn. Real "
        "engines have none.",
    )
    drain_s: float = Field(
        2.0, ge=0, le=86_400, description="Seconds that running requests get to end at shutdown."
    )

    @model_validator(mode="after")
    def _embedded(self) -> Self:
        if self.engine in ("openai", "vllm"):
            raise ValueError(f"engine: `up` cannot start {self.engine}; start its server yourself")
        return self

    @model_validator(mode="after")
    def _ports(self) -> Self:
        if self.agent_port and self.agent_port + self.agents > 65_536:
            raise ValueError(
                f"agent_port: {self.agents} agents from {self.agent_port} on pass 65535"
            )
        return self


def known_environment() -> frozenset[str]:
    """Every variable that some command reads."""
    from router.commands import COMMANDS

    names = {name.upper() for command in COMMANDS for name in command.model_fields}
    return frozenset({PREFIX + name for name in names} | {CONFIG, DATA})


def check_environment() -> None:
    """Refuse a misspelt variable rather than run with a default that nobody asked for.

    Raises:
        BadSettings: naming the first unknown one.
    """
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known_environment():
            raise BadSettings(f"{name}: unknown environment variable; see `makespan --help`")


def read_table(table: str) -> dict[str, Any]:
    """The command's table of the settings file, if one is named.

    Raises:
        BadSettings: if the file cannot be read, or has a table that no command knows.
    """
    path = os.environ.get(CONFIG)
    if not path:
        return {}
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"{CONFIG}: {path}: {error}") from error
    from router.commands import COMMANDS

    known = [command.table for command in COMMANDS]
    for name, value in data.items():
        if name not in known or not isinstance(value, dict):
            raise BadSettings(f"{path}: {name}: not one of the tables {', '.join(known)}")
    return dict(data.get(table, {}))
