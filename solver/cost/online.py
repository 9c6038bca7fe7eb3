"""The cost model of a running engine, fitted to its iterations as they end.

Rules:
- each kind of iteration has terms of its own: least squares of the relative error, in which what
  lies back counts less and less;
- forgetting is directional (Cao and Schwartz, Automatica 36, 2000): a sample replaces old knowledge
  only of what it tells about, so an engine that always runs the same batch keeps what it knew of
  other batches, and nothing drifts;
- kinds have much in common, and an engine that mixes hardly ever prefills alone: a term changes
  from the prior's as many times as its counterpart of a kind that is known better, as far as its
  own iterations do not tell otherwise. The more these vary, the less they tell;
- a mixed iteration reads the weights as a decode round does: its fixed part is no shorter;
- pairs of queries and keys (`delta`) are learnt if the prior has them; mixed iterations, which have
  the most of them, tell of them where there are any, else prefill stages;
- the prior counts for a thousandth of a sample; while rounds tell nothing of a term, it stays;
- a stall is no sample: a time too far from the prediction is refused. If most times are, it is the
  model that is wrong: it is scaled to what was seen, and most of what it knew is forgotten. But no
  engine that is known becomes a thousand times slower;
- what it gives is a cost model whatever comes: terms >= 0, all of them finite, no iteration free.

Must not know: clocks, engines. All times are seconds of the engine that is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, log
from operator import mul
from statistics import median

from solver.cost.linear import Vector, dot, nearest, solve, times
from solver.cost.model import Action, CostModel

KEPT = 0.96  # of old knowledge of what a sample tells about
PRIOR_WEIGHT = 0.001  # in samples, were a term the whole of an iteration's time
# Of each as many as take about as long as an iteration's fixed part, where nothing else is known.
PROMPT_TOKENS, BATCH, CACHED_TOKENS = 1000, 30, 30_000
# How far a term may well be from its counterpart, as a share of the larger; what a counterpart
# weighs at most, as a share of all that samples tell of the term; and, in samples, where there are
# none.
APART, MOST_WEIGHT, ALONE = 0.5, 0.2, 1e3
# Samples before a kind is followed; and of prefill stages and mixed iterations, those follow that
# are seen at most so many times as often as the others.
KNOWN, SELDOM = 16, 0.25
AGAIN = 16  # samples of all kinds, after which terms look again at those that they follow
DISBELIEF = 4.0  # mean errors from the prediction, beyond which a time is refused,
LEAST_DISBELIEF = 0.5  # and the least such error: times vary by tens of percent on busy machines
SPREAD, SPREAD_RATE = 1.0, 1 / 16  # mean relative error: what a new model is taken for; its update
INNER = 2.0  # mean errors within which a time counts in full (Huber)
MOST_REFUSED = 8  # more refused than accepted, by so many: the model is wrong
REMEMBERED = 0.05  # of what it knew, then
ABSURD, SURE = 1000.0, 32  # no engine becomes so many times slower after so many samples
MIXED_SAMPLES = 8  # before mixed terms that the prior did not have are told
LEAST_SHARE = 1e-3  # of an iteration's time that its fixed part is told to take, at least
MOST_S = 1e4


class OnlineFit:
    """A cost model that follows an engine; see the module's rules."""

    def __init__(self, prior: CostModel) -> None:
        mixed = prior.mixed
        self._knows_mixed = mixed is not None
        scale_s = max(prior.alpha_d_s, prior.beta_d_s, prior.gamma_d_s, 1e-9)
        pair = (prior.delta_s,) if prior.delta_s > 0 else ()
        pair_size = tuple(scale_s / PROMPT_TOKENS**2 for _ in pair)
        self._pairs = len(pair)
        self._prefill = _Line(
            (prior.alpha_p_s, prior.beta_p_s, *pair),
            (scale_s, scale_s / PROMPT_TOKENS, *pair_size),
        )
        self._decode = _Line(
            (prior.alpha_d_s, prior.beta_d_s, prior.gamma_d_s),
            (scale_s, scale_s / BATCH, scale_s / CACHED_TOKENS),
        )
        guess = (
            (max(prior.alpha_p_s, prior.alpha_d_s), prior.beta_p_s, prior.beta_d_s)
            if mixed is None
            else (mixed.alpha_m_s, mixed.beta_mp_s, mixed.beta_md_s)
        )
        self._mixed = _Line(
            (*guess, *pair),
            (scale_s, scale_s / PROMPT_TOKENS, scale_s / BATCH, *pair_size),
            above=self._decode,
        )
        # Never round in a circle. Decode rounds are the plainest: they follow only while unseen.
        self._prefill.follow(0, self._decode, 0, inf)
        for term, counterpart in ((0, 0), (2, 1)):
            self._mixed.follow(term, self._decode, counterpart, inf)
            self._decode.follow(counterpart, self._mixed, term, 0.0)
        for term, counterpart in ((1, 1), (3, 2))[: 1 + self._pairs]:
            self._mixed.follow(term, self._prefill, counterpart, SELDOM)
            self._prefill.follow(counterpart, self._mixed, term, SELDOM)
        self._used = 0
        self._cost: CostModel | None = prior

    def observe(
        self, action: Action, prompt_tokens: int, batch: int, kv_tokens: int, seconds: float
    ) -> bool:
        """Learn from one iteration (of several equal decode rounds: from one of them).

        Args:
            action: what it was.
            prompt_tokens: prompt tokens that it computed; not looked at in decode rounds.
            batch: sequences that decoded in it; not looked at in prefill stages.
            kv_tokens: cached tokens that these held in all; the same.
            seconds: how long it took.

        Returns:
            Whether it was used; False: it is nonsense, or a stall.
        """
        if not 0 < seconds < MOST_S:  # false for NaN too
            return False
        if not (0 <= prompt_tokens < 1e9 and 0 <= batch < 1e9 and 0 <= kv_tokens < 1e12):
            return False
        if action is Action.PREFILL:
            row: Vector = 1.0, float(prompt_tokens), float(prompt_tokens) ** 2
            used = prompt_tokens > 0 and self._prefill.learn(row[: 2 + self._pairs], seconds)
        elif action is Action.DECODE:
            row = 1.0, float(batch), float(kv_tokens)
            used = batch > 0 and self._decode.learn(row, seconds)
        elif action is Action.MIXED:
            pairs = float(prompt_tokens + batch) * (prompt_tokens + kv_tokens)
            row = (1.0, float(prompt_tokens), float(batch), pairs)[: 3 + self._pairs]
            cached_s = self._decode.told[2] * kv_tokens
            used = min(prompt_tokens, batch) > 0 and self._mixed.learn(row, seconds, cached_s)
        else:
            return False
        self._cost = None
        self._used += used
        if used and self._used % AGAIN == 0:
            for line in (self._decode, self._prefill, self._mixed):
                line.look()
        return used

    @property
    def cost(self) -> CostModel:
        """The cost model as of now."""
        if self._cost is None:
            alpha_p, beta_p, *pair = self._prefill.terms()
            alpha_d, beta_d, gamma_d = self._decode.terms()
            alpha_m, beta_mp, beta_md, *mixed_pair = self._mixed.terms()
            if self._mixed.samples:
                alpha_m, pair = max(alpha_m, alpha_d), mixed_pair
            delta = pair[0] if pair else 0.0
            known = alpha_p, beta_p, alpha_d, beta_d, gamma_d
            if self._knows_mixed or self._mixed.samples >= MIXED_SAMPLES:
                self._cost = CostModel(*known, alpha_m, beta_mp, beta_md, delta)
            else:
                self._cost = CostModel(*known, delta_s=delta)
        return self._cost


@dataclass(slots=True)
class _Spread:
    """How far times lie from their predictions, and how many were too far of late."""

    mean: float = SPREAD
    accepted: int = 0
    refused: int = 0

    def accepts(self, ratio: float) -> bool:
        """Whether a time that is `ratio` of the prediction is one to learn from."""
        limit = max(LEAST_DISBELIEF, DISBELIEF * self.mean)
        return abs(log(ratio)) <= log(1 + limit)

    def accept(self, ratio: float) -> float:
        """Take note of an error; the weight of the sample."""
        error = abs(ratio - 1)
        weight = min(1.0, INNER * self.mean / error) if error else 1.0
        self.mean += (min(error, 1.0) - self.mean) * SPREAD_RATE
        self.accepted += 1
        self.refused = max(0, self.refused - 1)
        return weight

    def absurd(self, ratio: float) -> bool:
        """Whether such a time cannot be the engine's own."""
        return ratio > ABSURD and self.accepted >= SURE


class _Line:
    """Terms of one kind of iteration: `told` are those that were fitted last, none negative.

    `usual` are sizes that each term may well have, should the prior take it for less. Terms are
    fitted in units of their sizes: what one sample cannot tell apart it then ascribes to the terms
    by their shares of an iteration's time. The fixed part is no shorter than that of `above`.
    """

    def __init__(self, prior: Vector, usual: Vector, above: _Line | None = None) -> None:
        self.prior, self.told = prior, prior
        self.samples = 0
        self._sizes = tuple(max(term, size) for term, size in zip(prior, usual, strict=True))
        self._above = above
        self._ties: list[tuple[int, _Line, int, float]] = []
        self._guesses: list[tuple[int, float]] = []
        self._last_s = 0.0  # the time last accepted
        self._spread = _Spread()
        self._ratios: list[float] = []
        self._begin()

    def _begin(self) -> None:
        """Nothing is known beyond what is told: information, and behind it what it says."""
        n = range(len(self._sizes))
        self._known = [[PRIOR_WEIGHT if i == j else 0.0 for j in n] for i in n]
        for known, term, size in zip(self._known, self.told, self._sizes, strict=True):
            known.append(PRIOR_WEIGHT * term / size)

    def follow(self, term: int, other: _Line, counterpart: int, most: float) -> None:
        """A term follows another line's, at `most` so many samples here for each of that one's."""
        self._ties.append((term, other, counterpart, most))

    def changed(self, i: int) -> float:
        """How many times the prior's a term is; 1 where that took it for next to nothing."""
        if self.prior[i] < LEAST_SHARE * self._sizes[i]:
            return 1.0
        return max(LEAST_SHARE, self.told[i] / self.prior[i])

    def terms(self) -> Vector:
        """What may be told: a fixed part that is not 0."""
        return (max(self.told[0], LEAST_SHARE * self._last_s), *self.told[1:])

    def learn(self, row: Vector, seconds: float, apart_s: float = 0.0) -> bool:
        """One sample, of which `apart_s` is explained by a term of another kind."""
        if not self.samples:
            self.look()
            self._begin()
        predicted = max(dot(row, self.told) + apart_s, 1e-6 * seconds)
        ratio = seconds / predicted
        if not self._spread.accepts(ratio):
            self._refuse(ratio)
            return False
        weight = self._spread.accept(ratio)
        self.samples += 1
        self._last_s = seconds
        self._add(row, (seconds - apart_s) / predicted, predicted, weight)
        self._settle()
        return True

    def _refuse(self, ratio: float) -> None:
        """A time far off; after too many it is the model that is."""
        if self._spread.absurd(ratio):
            return
        self._ratios = [*self._ratios[1 - MOST_REFUSED :], ratio]
        self._spread.refused += 1
        if self._spread.refused >= MOST_REFUSED:
            factor = median(self._ratios)
            self.told = tuple(term * factor for term in self.told)
            self._sizes = tuple(size * factor for size in self._sizes)
            if not self.samples:  # what it followed may be right: the prior compares them wrongly
                self.prior = tuple(term * factor for term in self.prior)
            self._known = times(self._known, REMEMBERED)
            self._spread, self._ratios = _Spread(), []

    def _add(self, row: Vector, ratio: float, predicted: float, weight: float) -> None:
        """Forget along the row, then add it (recursive least squares in information form)."""
        scaled = [value * size / predicted for value, size in zip(row, self._sizes, strict=True)]
        along = [dot(known, scaled) for known in self._known]
        forget = (1 - KEPT) / dot(along, scaled)
        factors = [(forget * a, weight * s) for a, s in zip(along, scaled, strict=True)]
        along.append(dot([known[-1] for known in self._known], scaled))
        scaled.append(ratio)
        self._known = [
            [k - less * a + more * s for k, a, s in zip(known, along, scaled, strict=True)]
            for known, (less, more) in zip(self._known, factors, strict=True)
        ]

    def look(self) -> None:
        """See what terms should be by the lines that they follow."""
        self._guesses = [
            (i, self.prior[i] * other.changed(j))
            for i, other, j, most in self._ties
            if other.samples >= KNOWN and self.samples <= most * other.samples
        ]
        self._settle()

    def _settle(self) -> None:
        """Tell the terms by all that is known now."""
        known, sizes = self._known, self._sizes
        if self._guesses:
            known = [[*row] for row in known]
        for i, term in self._guesses:
            guess = term / sizes[i]
            large = max(guess, self.told[i] / sizes[i], LEAST_SHARE)
            weight = (self._spread.mean / (APART * large)) ** 2
            weight = min(weight, MOST_WEIGHT * known[i][i]) if self.samples else ALONE
            known[i][i] += weight
            known[i][-1] += weight * guess
        shares = solve(known)
        if shares is None or not all(map(isfinite, shares)):
            self._begin()
            return
        above = self._above
        least = above.told[0] / sizes[0] if above is not None and above.samples else 0.0
        shares[0] -= least
        if min(shares) < 0:
            shares = nearest([row[:-1] for row in known], shares)
        shares[0] += least
        self.told = tuple(map(mul, shares, sizes))
