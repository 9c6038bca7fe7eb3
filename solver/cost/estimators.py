"""How many tokens a prompt will have, which are of a size, and how fast a worker really is.

Output lengths have a module of their own, `solver.lengths.predictor`. The estimators learn from
finished requests only, one observation at a time, and give the same answers for the same history.
"""

from __future__ import annotations

import math
from weakref import ref

# LLaMA's tokenizer makes 1 token of 3.5 bytes of English text (GSM8K test questions: 239.9 bytes
# and 68.43 tokens on average); the ratio learnt starts from here.
BYTES_PER_TOKEN = 3.5
MOST_BYTES_PER_TOKEN = 16.0
PRIOR_TOKENS = 200.0  # that weigh as much as what is known beforehand


# Sizes of prompts that are told apart where many are planned as one, in an octave: 19 %.
A_OCTAVE = 4


def size_of(prompt_tokens: float) -> int:
    """The size that a prompt of so many tokens, at least 1, has."""
    return int(A_OCTAVE * math.log2(prompt_tokens))


def tokens_of(size: int) -> int:
    """Prompt tokens in the middle of a size, at least 1."""
    return round(2 ** ((size + 0.5) / A_OCTAVE))


class TokenEstimator:
    """Prompt tokens from the prompt's bytes, with a ratio learnt from reported usage."""

    def __init__(self) -> None:
        self._tokens = PRIOR_TOKENS
        self._bytes = PRIOR_TOKENS * BYTES_PER_TOKEN

    def estimate(self, prompt_bytes: int) -> int:
        """Expected prompt tokens, at least 1."""
        return max(1, round(prompt_bytes * self._tokens / self._bytes))

    def observe(self, prompt_bytes: int, tokens: int) -> None:
        """A finished request reported `tokens` for a prompt of `prompt_bytes`.

        What no tokenizer does to text is left out: it tells of templates, images or nonsense.
        """
        if not prompt_bytes / MOST_BYTES_PER_TOKEN <= tokens <= prompt_bytes:
            return
        decay = 0.999  # about the last thousand requests count
        self._tokens = self._tokens * decay + tokens
        self._bytes = self._bytes * decay + prompt_bytes


# Observations of a worker that weigh as much as what is known of its fleet.
PRIOR = 4.0
# Observations, as a mean over the fleet's workers, after which one counts a third: who gets no
# requests is known less and less, and tried again.
MEMORY = 50.0
# By how much a worker is taken to be faster than the fleet while nothing is known of it: enough to
# be tried, and little enough to do no harm.
OPTIMISM = 0.2
# A factor is told anew when it has changed by so much; what was computed of it is kept till then.
STEP = 0.01
# A share of its fleet that may learn before one that has not looks again: each tells it little.
UNHEARD, NEVER = 8, -1_000_000
LEAST_LOG, MOST_LOG = -12.0, 12.0  # bounds against nonsense


class FleetScale:
    """What workers of one kind have in common: how much slower they are than their cost model.

    Attributes:
        members: how many there are.
        time: observations, as a mean over the members.
        total, weight: the sum of the logarithms of all that is remembered, and their weight.
        changes: counts them, so that what follows is computed once.
    """

    def __init__(self) -> None:
        self._members: set[ref[ScaleEstimator]] = set()  # those that are gone leave it
        self.total = self.weight = self.time = 0.0
        self.changes = self.members = 0

    def add(self, member: ScaleEstimator) -> None:
        """One more."""
        self._members.add(ref(member, self._members.discard))
        self.changes, self.members = self.changes + 1, len(self._members)

    def observe(self, log: float, weight: float) -> None:
        """One of them learns from a request that has ended."""
        self.members = len(self._members) or 1
        passed = 1.0 / self.members
        fades = math.exp(-passed / MEMORY)
        self.total = self.total * fades + weight * log
        self.weight = self.weight * fades + weight
        self.time += passed
        self.changes += 1


class ScaleEstimator:
    """How much slower a worker really is than its cost model says, from finished requests.

    A geometric mean of actual over predicted seconds, of which the latest weigh most, drawn towards
    that of its fleet as far as little is known of it, and a little below: so that a worker that was
    never asked, or not for long, is.
    """

    def __init__(self, fleet: FleetScale | None = None) -> None:
        self._fleet = FleetScale() if fleet is None else fleet
        self._fleet.add(self)
        self._total = self._weight = self._time = 0.0
        self._factor, self._as_of = 1.0, NEVER

    @property
    def factor(self) -> float:
        """Multiply the cost model by this."""
        fleet = self._fleet
        unheard = fleet.changes - self._as_of
        if unheard < 1 or unheard < fleet.members // UNHEARD:
            return self._factor
        self._as_of = fleet.changes
        known = fleet.weight
        if not known:
            return self._factor
        mean, fades = fleet.total / max(known, 1e-9), self._fades()
        total, weight = self._total * fades, self._weight * fades
        log = (total + PRIOR * mean) / (weight + PRIOR)
        if fleet.members > 1:
            log -= OPTIMISM * PRIOR / (weight + PRIOR)
        factor = math.exp(log)
        if abs(factor - self._factor) > STEP * self._factor:
            self._factor = factor
        return self._factor

    def is_of(self, fleet: FleetScale) -> bool:
        """Whether it learns with `fleet`."""
        return self._fleet is fleet

    def _fades(self) -> float:
        """What has been seen is worth so much of what it was."""
        return math.exp((self._time - self._fleet.time) / MEMORY)

    def observe(self, predicted_s: float, actual_s: float, weight: float = 1.0) -> None:
        """What was predicted as `predicted_s` by the unscaled model took `actual_s`."""
        if predicted_s <= 0 or actual_s <= 0:
            return
        new, fleet = max(LEAST_LOG, min(MOST_LOG, math.log(actual_s / predicted_s))), self._fleet
        fleet.observe(new, weight)
        fades = self._fades()
        self._total = self._total * fades + weight * new
        self._weight = self._weight * fades + weight
        self._time, self._as_of = fleet.time, NEVER


class FleetSpeeds:
    """What workers of one kind have in common: their decode rounds and their prefills."""

    def __init__(self) -> None:
        self.rounds, self.prefills = FleetScale(), FleetScale()


class SpeedEstimator:
    """How much slower a worker is than its cost model says, in decode rounds and in prefills.

    Rounds are timed by the gaps between tokens, prefills by first tokens that waited for no slot.
    As long as the fleet has shown few of these, prefills are taken to be as rounds are.
    """

    def __init__(self, fleet: FleetSpeeds | None = None) -> None:
        self._fleet = FleetSpeeds() if fleet is None else fleet
        self.rounds = ScaleEstimator(self._fleet.rounds)
        self.prefills = ScaleEstimator(self._fleet.prefills)
        self._factors, self._as_of = (1.0, 1.0), NEVER
        self._made_of = 1.0, 1.0, 0.0

    @property
    def factors(self) -> tuple[float, float]:
        """Multiply times of decode rounds, and of prefills, by these; the same as before if so."""
        fleet = self._fleet
        changes = fleet.rounds.changes + fleet.prefills.changes
        if changes != self._as_of:
            self._as_of = changes
            rounds, prefills = self.rounds.factor, self.prefills.factor
            made_of = rounds, prefills, fleet.prefills.weight
            if made_of != self._made_of:
                self._made_of, weight = made_of, made_of[2]
                share = weight / (weight + PRIOR)
                found = rounds, prefills**share * rounds ** (1.0 - share)
                if found != self._factors:
                    self._factors = found
        return self._factors

    def is_of(self, fleet: FleetSpeeds) -> bool:
        """Whether it learns with `fleet`."""
        return self._fleet is fleet
