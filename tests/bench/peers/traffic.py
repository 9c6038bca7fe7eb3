"""What is sent: situations, and the requests of each, the same for every router.

Prompts are text, so that routers that look at it can; output lengths are known to the engines
alone. Load is a share of what the fleet can do at most by its cost model (`full_rate`), where
sessions find every block in a cache that was sent before.
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from math import ceil, inf

from router.agent.engines.emulated.text import WORDS
from router.lab.simulation.loads import full_rate
from router.lab.simulation.traces import dataset
from solver.batching.bounds import Engine
from solver.cost.estimators import BYTES_PER_TOKEN
from solver.cost.profiles import PROFILES, Profile
from solver.errors import ProblemError
from solver.routing.prefixes import BLOCK_TOKENS, text_blocks

# What every request asks for at most, which tells nobody its length; no answer is longer.
MOST_OUTPUT = 1024
# The prompts of the traces are longer than the 4,096 tokens of Llama-2's context.
MAX_MODEL_LEN = 8192
# Fewer tokens would not tell one prompt from another.
LEAST_PROMPT = 4

# Sessions: an assistant with instructions of its own, asked again and again about what was said.
INSTRUCTIONS = (4, 800)  # so many assistants, tokens of each one's instructions
ASKED = (300, 250, 1500)  # tokens of a question: mean, deviation, most
ANSWERED = (150, 100, 600)  # tokens of an answer
TURNS = (2, 8)
# Between two turns of a session: about what an answer takes, and somebody's thinking.
PAUSE_S = (6.0, 18.0)
# So many sessions tell what a turn takes on average.
SESSIONS = 400


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of a comparison share.

    Attributes:
        profile: the workers' model and hardware, a name in `PROFILES`.
        slots: of each worker.
        speed: how many times faster than the profile all workers run.
        seconds: for how long requests arrive.
        load: share of what the fleet can do at most.
        seed: which stretch of the traces is taken, and what is drawn.
    """

    profile: str = "llama-2-70b-a100-tp4"
    # With the profile's 128 a fleet at 85 % load keeps nobody's 0.1 s a token: prompts take most of
    # its time, and so many share the rest.
    slots: int = 32
    speed: float = 1.0
    seconds: float = 60.0
    load: float = 0.85
    seed: int = 0

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            known = ", ".join(PROFILES)
            raise ProblemError(f"profile: {self.profile!r} is none of: {known}")
        for name in ("slots", "speed", "seconds", "load"):
            if not 0 < getattr(self, name) < inf:
                raise ProblemError(f"{name}: must be above 0, not {getattr(self, name)}")
        if self.seed < 0:
            raise ProblemError(f"seed: must be at least 0, not {self.seed}")

    @property
    def hardware(self) -> Profile:
        """The profile itself."""
        return PROFILES[self.profile]

    def engines(self, speeds: Sequence[float]) -> list[Engine]:
        """One a worker."""
        cost = self.hardware.cost
        return [Engine(cost.scaled(1 / (speed * self.speed)), self.slots) for speed in speeds]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        at_s: when it is sent, seconds from the beginning.
        messages: what was said so far, the user's first, then in turn; the last is the question.
        prompt_tokens, output_tokens: its lengths.
    """

    at_s: float
    messages: tuple[str, ...]
    prompt_tokens: int
    output_tokens: int

    @property
    def text(self) -> str:
        """All that was said, as the engine reads it."""
        return "\n".join(self.messages)


@dataclass(frozen=True, slots=True)
class Situation:
    """Workers of these speeds, over the setting's, and how requests come to them."""

    speeds: tuple[float, ...]
    traffic: Callable[[Setting, Sequence[float]], list[Ask]]
    words: str

    def asks(self, setting: Setting) -> list[Ask]:
        """Its requests, in the order in which they are sent.

        Raises:
            ProblemError: if there are none.
        """
        found = self.traffic(setting, self.speeds)
        if not found:
            raise ProblemError(f"seconds: nothing arrives within {setting.seconds:g}; take more")
        return found


def prose(tokens: int, rng: random.Random, start: str = "") -> str:
    """Text of so many tokens, at least `LEAST_PROMPT`, by the emulated engine's count."""
    size = int(max(tokens, LEAST_PROMPT) * BYTES_PER_TOKEN)
    return f"{start} {' '.join(rng.choices(WORDS, k=size // 4 + 1))}"[:size].lstrip()


def stream(setting: Setting, speeds: Sequence[float]) -> list[Ask]:
    """A stretch of Azure's conversations in their own rhythm, slower or faster as a whole."""
    requests = conversations()
    prompt = [request[1] for request in requests]
    output = [request[2] for request in requests]
    rate = setting.load * full_rate(setting.engines(speeds), prompt, output)
    size = max(1, min(len(requests), round(rate * setting.seconds)))
    first = setting.seed * size % (len(requests) - size + 1)
    taken = requests[first : first + size]
    begin = taken[0][0]
    pace = size / rate / max(taken[-1][0] - begin, 1e-9)
    return list(written([(pace * (at - begin), p, d) for at, p, d in taken], setting.seed))


def burst(setting: Setting, speeds: Sequence[float]) -> list[Ask]:
    """As much of the stream as the fleet could do in the time at most, all at once."""
    return [replace(ask, at_s=0.0) for ask in stream(replace(setting, load=1.0), speeds)]


@cache
def conversations() -> list[tuple[float, int, int]]:
    """Arrival, prompt and output tokens of those that fit into the engine."""
    found, _ = dataset("azure-conv")
    return [
        (request.arrival_s, request.prompt_tokens, request.output_tokens)
        for request in found
        if request.prompt_tokens + MOST_OUTPUT <= MAX_MODEL_LEN
        and request.prompt_tokens >= LEAST_PROMPT
    ]


def written(rows: Sequence[tuple[float, int, int]], seed: int) -> Iterator[Ask]:
    """Requests of these arrivals and lengths; their texts share nothing."""
    rng = random.Random(f"{seed}/text")
    for number, (at_s, prompt, output) in enumerate(rows):
        yield Ask(at_s, (prose(prompt, rng, f"{number}."),), prompt, output)


def sessions(setting: Setting, speeds: Sequence[float]) -> list[Ask]:
    """Conversations turn by turn, each prompt what was said so far and a new question.

    Whenever a request is due, whoever has paused longest beyond the end of its pause goes on; if
    nobody has, a new session begins. So the rate is steady, and does not wait for answers.
    """
    rate = setting.load * full_rate(setting.engines(speeds), *turn_lengths(setting.seed))
    rng = random.Random(f"{setting.seed}/arrivals")
    waiting: list[tuple[float, int, list[Ask]]] = []  # end of its pause, number, turns to come
    now, begun, sent = 0.0, count(), []
    while (now := now + rng.expovariate(rate)) < setting.seconds:
        if waiting and waiting[0][0] <= now:
            _, number, left = waiting.pop(0)
        else:
            number = next(begun)
            left = session(number, setting.seed)
        sent.append(replace(left[0], at_s=now))
        if left[1:]:
            insort(waiting, (now + rng.uniform(*PAUSE_S) / setting.speed, number, left[1:]))
    return sent


@cache
def turn_lengths(seed: int) -> tuple[list[int], list[int]]:
    """Prompt tokens that no cache holds, and output tokens, of the turns of many sessions."""
    turns = [ask for number in range(SESSIONS) for ask in session(number, seed)]
    return uncached(turns), [ask.output_tokens for ask in turns]


def session(number: int, seed: int) -> list[Ask]:
    """Its turns, not yet at any time; at least one."""
    rng = random.Random(f"{seed}/session {number}")
    kinds, tokens = INSTRUCTIONS
    kind = number % kinds
    told = prose(tokens, random.Random(f"instructions {kind}"), f"You are assistant {kind}.")
    messages: tuple[str, ...] = ()
    turns = []
    for turn in range(rng.randint(*TURNS)):
        question = prose(length(rng, *ASKED), rng, f"{number}.{turn}.")
        messages = (*messages, question) if messages else (f"{told} {question}",)
        prompt = ceil(len("\n".join(messages).encode()) / BYTES_PER_TOKEN)
        if prompt + MOST_OUTPUT > MAX_MODEL_LEN:
            break
        answer = length(rng, *ANSWERED)
        turns.append(Ask(0.0, messages, prompt, answer))
        messages = (*messages, prose(answer, rng))
    return turns


def length(rng: random.Random, mean: float, deviation: float, most: int) -> int:
    """Tokens drawn from a gamma distribution, cut at `most`."""
    shape = (mean / deviation) ** 2
    return max(LEAST_PROMPT, min(most, round(rng.gammavariate(shape, mean / shape))))


def uncached(asks: Sequence[Ask]) -> list[int]:
    """Prompt tokens of each, in order, less the blocks that one before has brought."""
    known: set[int] = set()
    found = []
    for ask in asks:
        blocks = text_blocks(ask.text)
        held = sum(block in known for block in blocks)
        known.update(blocks)
        found.append(max(1, ask.prompt_tokens - held * BLOCK_TOKENS))
    return found


EQUAL, UNEQUAL = (1.0, 1.0, 1.0, 1.0), (2.0, 1.0, 1.0, 0.5)
SITUATIONS: Mapping[str, Situation] = {
    "equal": Situation(EQUAL, stream, "Azure's conversations on equal workers"),
    "unequal": Situation(UNEQUAL, stream, "the same on workers of speeds 2, 1, 1, ½"),
    "sessions": Situation(EQUAL, sessions, "sessions whose prompts share what was said before"),
    "burst": Situation(EQUAL, burst, "Azure's conversations, all at once"),
}
