"""The cost model of a running engine, fitted to its iterations as they end.

Rules:
- each kind of iteration has terms of its own and learns them alone: least squares of the relative
  error, in which what lies back counts less and less;
- forgetting is directional (Cao and Schwartz, Automatica 36, 2000): a sample replaces old knowledge
  only of what it tells about, so an engine that always runs the same batch keeps what it knew of
  other batches, and nothing drifts;
- pairs of queries and keys (`delta`) are learnt if the prior has them; mixed iterations, which have
  the most of them, tell of them where there are any, else prefill stages;
- the prior counts for a thousandth of a sample; while rounds tell nothing of a term, it stays;
- a stall is no sample: a time too far from the prediction is refused. If most times are, it is the
  model that is wrong: it is scaled to what was seen, and most of what it knew is forgotten;
- what it gives is a cost model whatever comes: terms >= 0, all of them finite, no iteration free.

Must not know: clocks, engines. All times are seconds of the engine that is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite, log
from statistics import median

from solver.cost.linear import Matrix, Vector, dot, nearest, solve, times
from solver.cost.model import Action, CostModel

KEPT = 0.96  # of old knowledge of what a sample tells about
PRIOR_WEIGHT = 0.001  # in samples, were a term the whole of an iteration's time
# Of each as many as take about as long as an iteration's fixed part, where nothing else is known.
PROMPT_TOKENS, BATCH, CACHED_TOKENS = 1000, 30, 30_000
DISBELIEF = 4.0  # mean errors from the prediction, beyond which a time is refused,
LEAST_DISBELIEF = 0.5  # and the least such error: times vary by tens of percent on busy machines
SPREAD, SPREAD_RATE = 1.0, 1 / 16  # mean relative error: what a new model is taken for; its update
INNER = 2.0  # mean errors within which a time counts in full (Huber)
MOST_REFUSED = 8  # more refused than accepted, by so many: the model is wrong
REMEMBERED = 0.05  # of what it knew, then
MIXED_SAMPLES = 8  # before mixed terms that the prior did not have are told
LEAST_SHARE = 1e-3  # of an iteration's time that its fixed part is told to take, at least
MOST_S = 1e4


class CostFit:
    """A cost model that follows an engine; see the module's rules."""

    def __init__(self, prior: CostModel) -> None:
        self._prior = prior
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
            (*guess, *pair), (scale_s, scale_s / PROMPT_TOKENS, scale_s / BATCH, *pair_size)
        )
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
        return used

    @property
    def cost(self) -> CostModel:
        """The cost model as of now."""
        if self._cost is None:
            alpha_p, beta_p = self._prefill.terms()[:2]
            alpha_d, beta_d, gamma_d = self._decode.terms()
            known = CostModel(alpha_p, beta_p, alpha_d, beta_d, gamma_d, delta_s=self._delta_s)
            if self._tells_mixed:
                alpha_m, beta_mp, beta_md = self._mixed.terms()[:3]
                known = replace(known, alpha_m_s=alpha_m, beta_mp_s=beta_mp, beta_md_s=beta_md)
            self._cost = known
        return self._cost

    @property
    def _delta_s(self) -> float:
        if not self._pairs:
            return 0.0
        return (self._mixed if self._mixed.samples else self._prefill).told[-1]

    @property
    def _tells_mixed(self) -> bool:
        return self._knows_mixed or self._mixed.samples >= MIXED_SAMPLES


@dataclass(slots=True)
class _Spread:
    """How far times lie from their predictions, and how many were too far of late."""

    mean: float = SPREAD
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
        self.refused = max(0, self.refused - 1)
        return weight


class _Line:
    """Terms of one kind of iteration: `told` are those that were fitted, without negative ones.

    `usual` are sizes that each term may well have, should the prior take it for less. Terms are
    fitted in units of their sizes: what one sample cannot tell apart it then ascribes to the terms
    by their shares of an iteration's time.
    """

    def __init__(self, prior: Vector, usual: Vector) -> None:
        self.told = prior
        self.samples = 0
        self._sizes = tuple(max(term, size) for term, size in zip(prior, usual, strict=True))
        self._fitted = self._in_sizes(prior)
        self._known = self._little()
        self._last_s = 0.0  # the time last accepted
        self._spread = _Spread()
        self._ratios: list[float] = []

    def _in_sizes(self, terms: Vector) -> Vector:
        return tuple(term / size for term, size in zip(terms, self._sizes, strict=True))

    def _little(self) -> Matrix:
        """Information as of the prior."""
        n = range(len(self._sizes))
        return [[PRIOR_WEIGHT if i == j else 0.0 for j in n] for i in n]

    def terms(self) -> Vector:
        """What may be told: a fixed part that is not 0."""
        if not self.samples:
            return self.told
        return (max(self.told[0], LEAST_SHARE * self._last_s), *self.told[1:])

    def learn(self, row: Vector, seconds: float, apart_s: float = 0.0) -> bool:
        """One sample, of which `apart_s` is explained by a term of another kind."""
        predicted = max(dot(row, self.told) + apart_s, 1e-6 * seconds)
        ratio = seconds / predicted
        if not self._spread.accepts(ratio):
            return self._refuse(ratio)
        weight = self._spread.accept(ratio)
        self.samples += 1
        self._last_s = seconds
        self._update(row, (seconds - apart_s) / predicted, predicted, weight)
        return True

    def _refuse(self, ratio: float) -> bool:
        """A time far off; after too many it is the model that is."""
        self._ratios = [*self._ratios[1 - MOST_REFUSED :], ratio]
        self._spread.refused += 1
        if self._spread.refused >= MOST_REFUSED:
            factor = median(self._ratios)
            self.told = tuple(term * factor for term in self.told)
            self._sizes = tuple(size * factor for size in self._sizes)
            self._known = times(self._known, REMEMBERED)
            self._spread, self._ratios = _Spread(), []
        return False

    def _update(self, row: Vector, ratio: float, predicted: float, weight: float) -> None:
        """Forget along the row, then add it (recursive least squares in information form)."""
        known, fitted, n = self._known, self._fitted, range(len(row))
        scaled = [value * size / predicted for value, size in zip(row, self._sizes, strict=True)]
        along = [dot(known[i], scaled) for i in n]
        forget = (1 - KEPT) / dot(along, scaled)
        new = [
            [known[i][j] - forget * along[i] * along[j] + weight * scaled[i] * scaled[j] for j in n]
            for i in n
        ]
        pull = weight * (ratio - dot(scaled, fitted))
        step = solve(new, [pull * value for value in scaled])
        if step is None or not all(map(isfinite, step)):
            self._fitted, self._known = self._in_sizes(self.told), self._little()
            return
        self._known = new
        self._fitted = tuple([fitted[i] + step[i] for i in n])
        shares = self._fitted if min(self._fitted) >= 0 else nearest(new, self._fitted)
        self.told = tuple([share * size for share, size in zip(shares, self._sizes, strict=True)])
