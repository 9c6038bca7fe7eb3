"""What gateway and agent say to each other: header names, paths, and the state message.

An agent streams its state as JSON lines from `STATE_PATH`: at once, whenever it changes (at most
every `STATE_EVERY_S`), and at the latest after `HEARTBEAT_S`. A gateway that hears nothing for
`SILENCE_S` takes the worker for down.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from solver.cost import CostModel
from solver.errors import ProblemError

STATE_PATH = "/makespan/v1/state"
STATE_EVERY_S = 0.1
HEARTBEAT_S = 0.5
SILENCE_S = 2.0

REQUEST_ID = b"x-request-id"
WORKER = b"x-makespan-worker"
OVERHEAD_MS = b"x-makespan-overhead-ms"
EXPECTED_TOKENS = b"x-makespan-expected-tokens"


Positive = Annotated[int, Field(ge=1)]


class WireError(ValueError):
    """A message that the other side should not have sent."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """An agent's word on its own engine.

    Attributes:
        name: the worker's name, unique in a fleet.
        model: the model that it serves.
        engine: what runs the model; ``emulated`` means that nothing does.
        policy: its iteration policy.
        slots: requests that it runs at once.
        kv_tokens: cached tokens that it can hold.
        max_model_len: prompt and output tokens that one request may have.
        cost_ms: its cost model, in milliseconds (`CostModel.from_ms`).
        running: requests in slots.
        queued: requests waiting.
        kv_held: cached tokens now.
        utilization: share of non-empty slot-time spent on prefill and decode since its start.
        draining: it finishes what it has and takes nothing new.
    """

    name: str
    model: str
    engine: str
    policy: str
    slots: Positive
    kv_tokens: Positive
    max_model_len: Positive
    cost_ms: dict[str, float]
    running: int
    queued: int
    kv_held: int
    utilization: float
    draining: bool

    def model_entry(self) -> dict[str, Any]:
        """Its model as ``/v1/models`` lists it."""
        return {
            "id": self.model,
            "object": "model",
            "created": 0,
            "owned_by": f"makespan-{self.engine}",
            "max_model_len": self.max_model_len,
            "emulated": self.engine == "emulated",
        }

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)

    def encode(self) -> bytes:
        """One JSON line."""
        return orjson.dumps(self.to_json(), option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def decode(cls, line: bytes) -> AgentState:
        """Read one line; fields of newer agents that are not known here are ignored.

        Raises:
            WireError: naming what is wrong.
        """
        try:
            state = _READER.validate_json(line)
            CostModel.from_ms(state.cost_ms)
        except (ValidationError, ProblemError) as error:
            raise WireError(f"not an agent's state ({error}): {line[:200]!r}") from error
        return state


_READER = TypeAdapter(AgentState)
