"""What the agent asks of an engine that runs the iterations it is told to.

Rules:
- `answers` reads a request and refuses, before anything is queued, what the engine cannot do;
- `begin` comes before a sequence's first stage, `drop` when nobody waits for it any more; one that
  has ended by itself need not be dropped;
- `run` computes one stage and returns what came of it. A sequence may make a token in the decode
  rounds it takes part in, and with the last of its prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from router.http.schemas import CompletionRequest
from solver.batching.sequence import Stage

Body = Mapping[str, Any]
# From prompt tokens to output tokens at most; raises RequestError where they do not fit.
Limit = Callable[[int], int]


@dataclass(slots=True)
class Answer:
    """One choice that is to be made.

    Attributes:
        prompt_tokens: length of its prompt.
        limit: output tokens at most.
        blocks: hashes of the prompt's blocks, for the prefix cache.
    """

    prompt_tokens: int
    limit: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely a token was, and the likeliest ones in its place: text and logarithm each."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """One output token; `finish_reason` is set on a sequence's last.

    Its text may be empty: it ends inside a character, or inside what may become a stop string.
    """

    text: str
    finish_reason: str | None = None
    logprob: Logprob | None = None


@dataclass(frozen=True, slots=True)
class Iteration:
    """A stage that was run: when, in seconds of the monotonic clock, and the tokens made, by id."""

    start_s: float
    end_s: float
    tokens: Mapping[str, Token] = field(default_factory=dict)


class Engine(Protocol):
    """Runs stages, one at a time."""

    @property
    def name(self) -> str:
        """What it is called in `AgentState.engine` and in answers."""
        ...

    def answers(self, request: CompletionRequest, body: Body, limit: Limit) -> list[Answer]:
        """What is to be made of a request: for each prompt its choices, in OpenAI's order.

        Raises:
            RequestError: if the engine cannot do what it asks for.
        """
        ...

    def begin(self, sequence_id: str, answer: Answer) -> None:
        """Take a sequence on."""
        ...

    def drop(self, sequence_id: str) -> None:
        """Forget it; unknown ones are ignored."""
        ...

    async def run(self, stage: Stage, *, resumed: bool) -> Iteration:
        """Run a stage.

        Unless `resumed`, which says that there was nothing to do before it, its time begins where
        that of the last one ended: what passes between two iterations is theirs too.
        """
        ...
