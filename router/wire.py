"""What gateway and agent say to each other: header names, paths, and the state message.

An agent streams its state as JSON lines from `STATE_PATH`: at once, whenever it changes (at most
every `STATE_EVERY_S`), and at the latest after `HEARTBEAT_S`. A gateway that hears nothing for
`STATE_TIMEOUT_S` takes the worker for down, and so it does if the stream ends: the agent has
drained, or its engine has broken down; the path then answers 503.

A gateway names each request that it sends by an `ATTEMPT` of its own, as clients' ids may come
twice. By these names it takes back what has not begun: ``POST RECALL_PATH`` with a `Recall` answers
with the `Recall` of those that were withdrawn, all at one moment; the answer to a withdrawn request
itself is a 503 with the header `RECALLED`.

Several gateways may send to one agent. By the `GATEWAY` that asks for its state, and that attempts'
names begin with, an agent tells apart whose requests are whose, and tells each what the others have
there (`Beside`). Beyond its slots and lead it refuses them then, with a 503 and the header `FULL`:
such a request is planned again. ``POST WANT_PATH`` with a `Want` says what waits for room there.

While somebody looks at its dashboard, a gateway also reads `SLOTS_PATH`: a `SlotReport` a line, as
often as it asks for (``?every_s=``). An agent to which nobody listens there records nothing.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from solver.cost.model import CostModel
from solver.errors import ProblemError

Message = TypeVar("Message")

STATE_PATH = "/makespan/v1/state"
RECALL_PATH = "/makespan/v1/recall"
SLOTS_PATH = "/makespan/v1/slots"
WANT_PATH = "/makespan/v1/want"
STATE_EVERY_S = 0.1
HEARTBEAT_S = 0.5
STATE_TIMEOUT_S = 2.0
WANT_EVERY_S, WANTS_S = 0.25, 0.75  # how often a gateway says so, and for how long that holds
LINE_S = STATE_EVERY_S / 5  # one line is read in so long: a queue of some is soon read

REQUEST_ID = b"x-request-id"
WORKER = b"x-makespan-worker"
OVERHEAD_MS = b"x-makespan-overhead-ms"
EXPECTED_TOKENS = b"x-makespan-expected-tokens"
PRIORITY = b"x-makespan-priority"
DEADLINE_MS = b"x-makespan-deadline-ms"
TENANT = b"x-makespan-tenant"
TTFT_MS = b"x-makespan-ttft-ms"
TPOT_MS = b"x-makespan-tpot-ms"
# Asks for one line on the choice of its worker, and is that line.
WHY = b"x-makespan-why"
# How often a stream that waits for its first token is kept alive; 0: never.
KEEPALIVE_S = b"x-makespan-keepalive-s"
# The model that an alias stood for.
MODEL = b"x-makespan-model"
# Which conversation a request belongs to, as clients and other routers call it: the first counts.
SESSIONS = (b"x-session-id", b"x-session-affinity", b"x-smg-routing-key")
# What llm-d's clients call the same.
SLO_TTFT_MS = b"x-slo-ttft-ms"
SLO_TPOT_MS = b"x-slo-tpot-ms"
# Set by gateways for agents: the request's name, how long it has waited, that it was taken back.
ATTEMPT = b"x-makespan-attempt"
WAITED_MS = b"x-makespan-waited-ms"
# The same, where tenants take turns: who was sent before goes before, as if so many seconds sooner.
TURN = b"x-makespan-turn"
# Of a request of several answers then, seconds from the turn of one of them to that of the next.
PACE = b"x-makespan-pace"
# All that agents go by: a gateway says it, and of a client none goes on, or that would come first.
TOLD = frozenset(
    (
        *(EXPECTED_TOKENS, PRIORITY, DEADLINE_MS, TTFT_MS, SLO_TTFT_MS, TPOT_MS, SLO_TPOT_MS),
        *(ATTEMPT, WAITED_MS, TURN, PACE),
    )
)
RECALLED = b"x-makespan-recalled"
FULL = b"x-makespan-full"
GATEWAY = b"x-makespan-gateway"

# What no engine has more of, so that sums of it stay numbers to plan with: a million slots, or a
# trillion cached tokens.
MOST_SLOTS, MOST_TOKENS, MOST_CONTEXT = 1 << 20, 1 << 40, 1 << 31
MOST_PART = 1_000_000
LONGEST_NAME = 512
# A state is far shorter, whatever names are in it.
LONGEST_STATE = 16_384
MOST_NAMES_BYTES = 8192  # of the names of models in it, as JSON
MOST_RECALLED = 1 << 15  # more than an agent has of one gateway
# Of what is wrong with a message, so much is told; it may be all of the message.
LONGEST_COMPLAINT = 200

Slots = Annotated[int, Field(ge=1, le=MOST_SLOTS)]
Slot = Annotated[int, Field(ge=0, le=MOST_SLOTS)]
Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
Count = Annotated[int, Field(ge=0, le=MOST_CONTEXT)]
Amount = Annotated[float, Field(ge=0, le=MOST_TOKENS, allow_inf_nan=False)]
# Of anything else, as of times on some clock.
Number = Annotated[float, Field(ge=-MOST_TOKENS, le=MOST_TOKENS, allow_inf_nan=False)]
# A part of something, as somebody has measured it: what should be 1 may come out above.
Part = Annotated[float, Field(ge=0, le=MOST_PART, allow_inf_nan=False)]
# It goes into headers and log lines: no control characters.
NAME = r"^[^\x00-\x1f\x7f-\x9f]+$"
Attempt = Annotated[str, Field(max_length=LONGEST_NAME)]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=NAME)]


def is_name(value: object) -> bool:
    """Whether it may be the name of a worker or of a model."""
    return isinstance(value, str) and len(value) <= LONGEST_NAME and bool(re.search(NAME, value))


def gateway_of(attempt: str | None) -> str:
    """Whose attempt it is by its name; nobody's: it came from no gateway."""
    return "" if attempt is None else attempt.partition("-")[0]


class WireError(ValueError):
    """A message that the other side should not have sent."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What others than the gateway that asks have at an agent.

    Attributes:
        sequences: of all their requests, those that queue among them.
        begun: of these, those that make tokens.
        prompt_tokens: of all; `prefilled`: of those that make tokens.
        made: output tokens so far; `left`: those still expected.
        wanting: other gateways whose requests wait for room; `wanted`: those, as of their latest
            `Want`, and their prompt and expected output tokens.
    """

    sequences: Count = 0
    begun: Count = 0
    prompt_tokens: Tokens = 0
    prefilled: Tokens = 0
    made: Tokens = 0
    left: Amount = 0.0
    wanting: Count = 0
    wanted: Count = 0
    wanted_prompt: Amount = 0.0
    wanted_output: Amount = 0.0


@dataclass(frozen=True, slots=True)
class Want:
    """What waits at a gateway for room, in all its processes."""

    requests: Count
    prompt_tokens: Amount
    output_tokens: Amount

    def encode(self) -> bytes:
        """One JSON object."""
        return orjson.dumps(self)

    @classmethod
    def decode(cls, text: bytes) -> Want:
        """Read one; raises `WireError` if it is none."""
        return _read(_WANT, "not what a gateway wants", text)


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
        utilization: share of all slot-time spent on prefill and decode since its start.
        draining: it finishes what it has and takes nothing new.
        prefix_cache: its engine keeps prompts' prefixes.
        beside: of what runs and queues, what others than the gateway that asks have sent.
        steps_back: bulk work steps back in its engine for all other.
        more_models: other names that it serves, adapters among them, up to `MOST_NAMES_BYTES`.
    """

    name: Name
    model: Name
    engine: Name
    policy: Name
    slots: Slots
    kv_tokens: Annotated[Tokens, Field(ge=1)]
    max_model_len: Annotated[Count, Field(ge=1)]
    cost_ms: dict[str, Number]
    running: Count
    queued: Count
    kv_held: Tokens
    utilization: Part
    draining: bool
    prefix_cache: bool = False
    beside: Beside = Beside()
    steps_back: bool = False
    more_models: tuple[Name, ...] = ()

    def model_entry(self, name: str | None = None) -> dict[str, Any]:
        """Its model, or another one that it serves, as ``/v1/models`` lists it."""
        return {
            "id": name or self.model,
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
        """Read one line; of a newer agent's, what is not known here is ignored.

        Raises:
            WireError: naming what is wrong.
        """
        try:
            if len(line) > LONGEST_STATE:
                raise ProblemError(f"{len(line)} bytes are more than {LONGEST_STATE}")
            state = _READER.validate_python(orjson.loads(line))
            known = state.cost_ms.keys() & CostModel.names_ms()
            state = replace(state, cost_ms={name: state.cost_ms[name] for name in known})
            CostModel.from_ms(state.cost_ms)
        except (ValueError, ProblemError) as error:
            raise _complaint("not an agent's state", error, line) from error
        return state


def _complaint(what: str, error: Exception, text: bytes) -> WireError:
    """The first thing that is wrong, where, and how the message begins."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        why = ": ".join((*map(str, first["loc"]), first["msg"]))
    else:
        why = ("invalid JSON: " if isinstance(error, orjson.JSONDecodeError) else "") + str(error)
    return WireError(f"{what} ({why[:LONGEST_COMPLAINT]}): {text[:LONGEST_COMPLAINT]!r}")


def _read(reader: TypeAdapter[Message], what: str, text: bytes) -> Message:
    try:
        return reader.validate_python(orjson.loads(text))
    except ValueError as error:
        raise _complaint(what, error, text) from error


# A slot, and from when to when it was held.
SlotStay = tuple[Slot, Number, Number]
# From when to when prompts were prefilled, whether all others stood still, and whose slots it was.
PrefillSpan = tuple[Number, Number, bool, Annotated[tuple[Slot, ...], Field(fail_fast=True)]]


@dataclass(frozen=True, slots=True)
class SlotReport:
    """What became of an agent's slots since its last report.

    Attributes:
        now_s: the agent's clock, whose zero means nothing.
        slots: requests that it runs at once.
        seconds: slot-seconds by state since its start, as its metrics have them.
        efficiency: as its metrics have it.
        since_s, until_s: what `held` and `fills` cover, on the same clock.
        held: stays in slots, in milliseconds from `since_s`; None if it cannot see single slots.
        fills: prefills, likewise. Whoever holds a slot and neither is prefilled nor stands still
            decodes.
    """

    now_s: Number
    slots: Slots
    seconds: dict[str, Number]
    efficiency: Part
    since_s: Number
    until_s: Number
    held: Annotated[list[SlotStay], Field(fail_fast=True)] | None
    fills: Annotated[list[PrefillSpan], Field(fail_fast=True)]

    def encode(self) -> bytes:
        """One JSON line."""
        return orjson.dumps(self, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def decode(cls, text: bytes) -> SlotReport:
        """Read one; raises `WireError` if it is none."""
        return _read(_SLOTS, "not a report of slots", text)


@dataclass(frozen=True, slots=True)
class Recall:
    """Requests by their attempts' names; of those asked for, the first `most` that can be had.

    A gateway cannot see which of the requests that do not stream have begun: it names more.
    """

    requests: Annotated[tuple[Attempt, ...], Field(fail_fast=True, max_length=MOST_RECALLED)]
    most: Count | None = None

    def encode(self) -> bytes:
        """One JSON object."""
        fields = asdict(self)
        return orjson.dumps({name: value for name, value in fields.items() if value is not None})

    @classmethod
    def decode(cls, text: bytes) -> Recall:
        """Read one; raises `WireError` if it is none."""
        return _read(_RECALL, "not a list of requests", text)


_READER = TypeAdapter(AgentState)
_RECALL = TypeAdapter(Recall)
_SLOTS = TypeAdapter(SlotReport)
_WANT = TypeAdapter(Want)
