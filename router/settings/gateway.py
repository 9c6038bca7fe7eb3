"""Settings of ``makespan gateway``: how it plans, forwards, and finds its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from router.settings.base import (
    MOST_SLOTS,
    AliasesOf,
    FleetOf,
    Names,
    Origins,
    Paths,
    Port,
    SlotsOf,
    read_alias,
    read_slots,
)
from router.settings.hardware import Cost
from router.settings.live import Live, Served
from router.settings.secrets import key_file
from router.settings.targets import TargetsText, read_targets, write_targets
from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, Targets
from solver.routing.slots import Known, PlainSlots

# What is bounded for the gateway, however many processes it has.
SHARED = (
    "max_requests",
    "max_unsent_tokens",
    "max_bodies_bytes",
    "wait_for_worker_requests",
    "remember",
)


class GatewayTuning(Live):
    """How a gateway plans and forwards."""

    window_max_wait_s: float = Field(
        0.02, ge=0, le=10, description="Longest wait for a window to close under load, seconds."
    )
    window_max_size: int = Field(
        512, ge=1, description="Requests at which a window closes at once."
    )
    plan_deadline_s: float = Field(
        0.05,
        ge=0,
        le=60,
        description="Seconds in which a child process may better a plan; 0: never.",
    )
    max_body_bytes: int = Field(32 << 20, ge=1024, description="Largest request body, bytes.")
    max_bodies_bytes: int = Field(
        1 << 30,
        ge=1024,
        description="Bytes of all request bodies that are held at once; beyond that, 503.",
    )
    max_requests: int = Field(
        10_000, ge=1, description="Requests in the gateway at once; beyond that, 503."
    )
    max_unsent_tokens: int = Field(
        1 << 24,
        ge=1,
        description="Prompt and expected output tokens of requests that wait at the gateway; "
        "beyond that, 503.",
    )
    retries: int = Field(
        2,
        ge=0,
        description="Other workers tried if one fails before its first byte; those that have not "
        "failed lately are tried beyond that. 0: none.",
    )
    retry_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Retries for each request, over all, at workers that have failed lately: so "
        "that an outage is no storm.",
    )
    continue_streams: bool = Field(
        False,
        description="Let another worker continue a stream that breaks off: it says all of it "
        "again, and the client gets what it has not had. Only where the words are determined "
        "(temperature 0 or a seed, one choice, no tools, formats or logprobs), and as long as they "
        "are said again to the letter.",
    )
    wait_for_worker_s: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="Seconds that a request waits while no worker can take it, before it is "
        "refused.",
    )
    wait_for_worker_requests: int = Field(
        1000, ge=0, description="Most requests that wait so; beyond that, 503 at once."
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
    sse_keepalive_s: float = Field(
        15.0,
        ge=0,
        le=3600,
        description="Seconds after which a stream that waits for its first token gets a comment, "
        "and again after as many, so that nothing on its way takes it for dead; 0: never. From "
        "the first one on its status is 200, and errors are events. The header "
        "x-makespan-keepalive-s says otherwise for one request.",
    )
    remember: int = Field(10_000, ge=0, description="Finished requests whose explanation is kept.")
    targets_interactive: TargetsText = Field(
        write_targets(DEFAULT_TARGETS[Priority.INTERACTIVE]),
        description="Limits on the time to the first token and between tokens that interactive "
        "requests are to keep unless their headers say otherwise: ttft=2s,tpot=100ms, one of both, "
        "or none.",
    )
    targets_default: TargetsText = Field(
        write_targets(DEFAULT_TARGETS[Priority.DEFAULT]),
        description="The same for requests of the default priority, which is that of all that name "
        "none.",
    )
    targets_bulk: TargetsText = Field(
        write_targets(DEFAULT_TARGETS[Priority.BULK]), description="The same for bulk requests."
    )
    admission: Literal["queue", "timely", "shed"] = Field(
        "queue",
        description="Who may wait: whoever there is room for, and is served late (queue); who by "
        "plan begins in time for its first token's target, and bursts, while others get 503 and "
        "Retry-After (timely); of these, who does not certainly miss a target later (shed).",
    )
    alias: AliasesOf = Field(
        (),
        description="Other names for models, by comma or repeated: gpt-4o=llama-65b. Of several "
        "models each gets its share of the sessions (x-session-id, or the body's "
        "prompt_cache_key; requests without one are drawn for one by one): "
        "chat=new:0.1,old:0.9.",
    )
    default_model: str = Field(
        "", description="Model, or alias, that a request means which names none."
    )
    keys: Path | None = Field(
        None,
        description="File of clients' keys (`makespan key new` makes one): whose each is, its "
        "limits and rights; read again when it changes. With it nobody without a key gets in. "
        "Limits hold for all processes together.",
    )
    traffic_log: Path | None = Field(
        None,
        description="File that gets a JSON line for each request that has ended: lengths, times, "
        "tenant, how it ended, hashes of its prompt, no text; simulate and replay take it.",
    )
    traffic_log_bytes: int = Field(
        100 << 20,
        ge=1024,
        description="Bytes at which the traffic log goes on in a new file; four older ones, FILE.1 "
        "to FILE.4, are kept.",
    )
    allowed_origins: Origins = Field(
        (),
        description="Origins, by comma, of web pages that may call this gateway from a browser, as "
        "in https://chat.example.com; * for all. Unless given, none but its own.",
    )
    relay: Paths = Field(
        (),
        description="More paths, by comma, that go to workers as they are, with all that is below "
        "them, as in /generate; what engines serve to users is relayed without.",
    )
    data: Path | None = Field(
        None,
        description="Folder in which files and batches (/v1/files, /v1/batches) are kept; without "
        "it, or a database, there are none.",
    )
    database: str | None = Field(
        None,
        description="PostgreSQL database in which they are kept instead, so that several gateways "
        "share them: postgresql+asyncpg://USER@HOST/NAME, the password in ~/.pgpass or PGPASSWORD. "
        "Needs an extra: pip install '.[postgres]' in Makespan's folder.",
    )
    batches_kept_s: float = Field(
        30 * 86_400.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds for which batches are kept after their end, and files after they came "
        "if no batch has them; then they are removed, with all answers. 0: for good.",
    )
    max_stored_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of files that a tenant may have stored, answers of its batches too; "
        "beyond that, 413. 0: any.",
    )
    docs: bool = Field(False, description="Serve /docs and /openapi.json.")

    @model_validator(mode="after")
    def _one_database(self) -> Self:
        if self.data is not None and self.database is not None:
            raise ValueError("data: batches are kept in one place; give data or database")
        return self

    @model_validator(mode="after")
    def _models_of_aliases(self) -> Self:
        """An alias stands for models; its own name may be one of these."""
        found = self.aliases()
        for name, shares in found.items():
            for model, _ in shares:
                if model != name and model in found and model not in dict(found[model]):
                    raise ValueError(
                        f"alias: {name} stands for {model}, which is no model but an "
                        "alias, too: name the models that it stands for"
                    )
        return self

    def aliases(self) -> Mapping[str, tuple[tuple[str, float], ...]]:
        """Models and their shares, by other names."""
        return dict(map(read_alias, self.alias))

    def targets(self) -> Mapping[Priority, Targets]:
        """What requests are to keep unless they say otherwise, by priority."""
        return {
            Priority.INTERACTIVE: read_targets(self.targets_interactive),
            Priority.DEFAULT: read_targets(self.targets_default),
            Priority.BULK: read_targets(self.targets_bulk),
        }


class GatewaySettings(GatewayTuning, Served):
    """Start a gateway before workers that already run: agents, or OpenAI-compatible servers."""

    table: ClassVar[str] = "gateway"

    port: Port = Field(8000, description="Port to listen on; 0 takes a free one.")
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that serve this port together, under a supervisor; what is bounded "
        "for the gateway (max_requests, max_unsent_tokens, max_bodies_bytes, "
        "wait_for_worker_requests, remember) is shared out among them.",
    )
    siblings: Path | None = Field(
        None,
        description="Folder by which they know each other; set by their supervisor, with fd.",
    )
    worker: FleetOf = Field(
        min_length=1,
        description="Workers, by comma or repeated: their base URLs; dns://NAME:PORT for all "
        "addresses of a name; kubernetes://NAMESPACE/SERVICE:PORT for all pods of a Service (by "
        "default in the gateway's own namespace; PORT: the pods' own, by number or name); "
        "https+dns:// and https+kubernetes:// where those speak TLS.",
    )
    peers: FleetOf = Field(
        (),
        description="Other gateways before the same workers, named as workers are; this one may be "
        "among them. All tell each other what they send, and plan with it. Give it to each of "
        "them; with keys it needs secret_file.",
    )
    worker_ca: Path | None = Field(
        None,
        description="File of the authorities that certificates of https:// workers are to be "
        "from; unless given, those of this machine.",
    )
    worker_key_file: Names = Field(
        (),
        description="File of the key that workers ask for (its first line), or by comma such files "
        "of single ones, like http://10.0.0.5:8000=FILE. A worker with a key gets that in all that "
        "it is asked, and never a client's. Read again when they change.",
    )
    plain_slots: int = Field(
        64,
        ge=1,
        le=MOST_SLOTS,
        description="Requests that a worker without an agent is taken to run at once, until it is "
        "known better: by its engine's metrics, or by which first tokens are late. If given, it is "
        "the most.",
    )
    plain_slots_of: SlotsOf = Field(
        (),
        description="Slots of single ones that are known and not to be learnt, by comma or "
        "repeated: their base URLs and slots, of each rank, like http://10.0.0.5:8000=16.",
    )
    plain_cost: Cost = Field(
        "llama-65b-ascend",
        description="Cost model to start from for a worker without an agent (a profile's name, a "
        "profile file, or JSON of its terms); its scale is learnt.",
    )
    cache_events: bool = Field(
        True,
        description="Listen to what engines publish of their prefix caches, and ask them to tell "
        "of requests by session; else what they hold is guessed from what was sent.",
    )
    plain_prefix_cache: bool = Field(
        True, description="A worker without an agent is taken to keep prompts' prefixes."
    )

    @field_validator("worker_key_file")
    @classmethod
    def _keyed(cls, files: Sequence[str]) -> Sequence[str]:
        for one in files:
            key_file(one)
        return files

    @model_validator(mode="after")
    def _supervised(self) -> Self:
        if self.processes > 1 and (self.fd is None) != (self.siblings is None):
            raise ValueError(
                "processes: several have a supervisor of their own, which opens their sockets; "
                "give no fd"
            )
        return self

    @model_validator(mode="after")
    def _peers_known(self) -> Self:
        if self.peers and self.keys is not None and self.secret_file is None:
            raise ValueError(
                "peers: where clients need keys gateways need a secret, by which they know each "
                "other: give all of them the same secret_file"
            )
        return self

    def share(self) -> Self:
        """What one of its processes gets of what is bounded for all; at least one of each."""
        shared = {name: -(-getattr(self, name) // self.processes) for name in SHARED}
        return self.model_copy(update=shared)

    def named_workers(self) -> dict[str, list[str]]:
        """URLs of workers of which a setting says something, by that setting."""
        keys, slots = map(key_file, self.worker_key_file), map(read_slots, self.plain_slots_of)
        return {
            "worker_key_file": [url for url, _ in keys if url],
            "plain_slots_of": [url for url, _ in slots],
        }

    def slots_of(self, url: str) -> PlainSlots:
        """Requests that the worker there runs at once, if it has no agent."""
        known = dict(map(read_slots, self.plain_slots_of)).get(url)
        if known is not None:
            return PlainSlots(known, known=Known.SET)
        given = "plain_slots" in self.model_fields_set
        return PlainSlots(self.plain_slots, self.plain_slots if given else MOST_SLOTS)
