"""What requests at a worker, or before all of them, come to: what senders tell each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadSums:
    """What somebody's requests in flight at a worker come to; see `WorkerLoad` for the words."""

    sequences: int = 0
    prefills: int = 0
    prompt_tokens: int = 0
    output_tokens: float = 0.0
    kv_tokens: float = 0.0
    kv_reserved: float = 0.0
    bulk: int = 0  # of the sequences, those of bulk work
    paced: int = 0  # of the others, those that let pass whoever comes after them

    def __add__(self, other: LoadSums) -> LoadSums:
        return LoadSums(
            self.sequences + other.sequences,
            self.prefills + other.prefills,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            self.kv_tokens + other.kv_tokens,
            self.kv_reserved + other.kv_reserved,
            self.bulk + other.bulk,
            self.paced + other.paced,
        )

    def __sub__(self, other: LoadSums) -> LoadSums:
        return LoadSums(
            self.sequences - other.sequences,
            self.prefills - other.prefills,
            self.prompt_tokens - other.prompt_tokens,
            max(0.0, self.output_tokens - other.output_tokens),
            max(0.0, self.kv_tokens - other.kv_tokens),
            max(0.0, self.kv_reserved - other.kv_reserved),
            self.bulk - other.bulk,
            self.paced - other.paced,
        )


NOTHING = LoadSums()


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits somewhere for room, at no worker yet; tokens are those of all requests."""

    requests: int = 0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0

    def __add__(self, other: Backlog) -> Backlog:
        return Backlog(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
        )
