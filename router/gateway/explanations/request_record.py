"""What is remembered of a request: its sizes, its times, and the choice of its worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from router.gateway.explanations.choice import Choice
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS, Targets


@dataclass(eq=False, slots=True)
class RequestRecord:
    """One request as the gateway saw it. Times are seconds since the epoch.

    `choice` is that of the plan that sent it last, after `planned` plans; `recalled` counts how
    often it was taken back from a worker's queue; `deadline_s` counts from its arrival. `ttft_s`
    and `tpot_s` are what its user felt of its stream, and `kept` tells which of its `targets` it
    has kept, as far as that can be told (`router.gateway.accounting.slo`). `slot_s` is the
    engine time that it took, where it has a tenant to bill, `over_share_s` how many slot-seconds
    that was over its share when it was sent, where tenants took turns, and `used_prompt_tokens`
    what its worker has counted of its prompt. Metrics count it for `label`: its model, once
    somebody is known to serve that. `alias` is another name by which that was meant, its client's
    or the default one. `kind` is its prompt's.
    """

    id: str
    model: str
    stream: bool
    received_s: float
    label: str = "other"
    alias: str | None = None
    trace_id: str | None = None
    prompt_tokens: int = 0
    expected_tokens: float = 0.0
    outcome: str = "in_flight"
    status: int | None = None
    error: str | None = None
    worker: str | None = None
    failed_workers: tuple[str, ...] = ()
    tenant: str = ""
    priority: str = Priority.DEFAULT.value
    deadline_s: float | None = None
    planned: int = 0
    recalled: int = 0
    targets: Targets = NO_TARGETS
    kept: Mapping[str, bool] = field(default_factory=dict)
    ttft_s: float | None = None
    tpot_s: float | None = None
    choices: int = 1
    kind: str = ""
    choice: Choice | None = None
    sent_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    slot_s: float = 0.0
    over_share_s: float | None = None
    used_prompt_tokens: int | None = None

    def summary(self) -> dict[str, Any]:
        """What a log line says of it: that which there is, times as seconds from its arrival."""
        times = {"sent": self.sent_s, "first_byte": self.first_token_s, "ended": self.ended_s}
        fields = {
            "outcome": self.outcome,
            "status": self.status,
            "error": self.error,
            "model": self.model,
            "alias": self.alias,
            "worker": self.worker,
            "failed_workers": ",".join(self.failed_workers) or None,
            "tenant": self.tenant or None,
            "priority": self.priority,
            "prompt_tokens": self.prompt_tokens or None,
            "output_tokens": self.output_tokens,
            **{
                f"{name}_after_s": None if when is None else round(when - self.received_s, 4)
                for name, when in times.items()
            },
        }
        return {name: value for name, value in fields.items() if value is not None}

    def explain(self) -> dict[str, Any]:
        """Why it went where it went, and how that turned out."""
        return {
            "id": self.id,
            "trace_id": self.trace_id,
            "model": self.model,
            "alias": self.alias,
            "stream": self.stream,
            "outcome": self.outcome,
            "status": self.status,
            "error": self.error,
            "worker": self.worker,
            "failed_workers": list(self.failed_workers),
            "tenant": self.tenant,
            "priority": self.priority,
            "deadline_s": self.deadline_s,
            "slo": self._slo(),
            "planned": self.planned,
            "recalled": self.recalled,
            "prompt_tokens": self.prompt_tokens,
            "expected_tokens": self.expected_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "slot_s": self.slot_s if self.tenant else None,
            "over_share_slot_s": self.over_share_s,
            "times": {
                "received_at": self.received_s,
                "planned_at": self.choice.seen.planned_s if self.choice else None,
                "sent_at": self.sent_s,
                "first_token_at": self.first_token_s,
                "ended_at": self.ended_s,
            },
            "choice": self.choice.to_json(self.ended_s) if self.choice else None,
        }

    def _slo(self) -> dict[str, Any]:
        """Its targets, what its user felt, and whether it has kept each, and both of them."""
        rows = (
            ("ttft", self.targets.ttft_s, self.ttft_s),
            ("tpot", self.targets.tpot_s, self.tpot_s),
        )
        return {
            name: {
                "target_s": None if target_s == inf else target_s,
                "actual_s": actual_s,
                "met": self.kept.get(name),
            }
            for name, target_s, actual_s in rows
        } | {"both": {"met": self.kept.get("both")}}
