"""A cost model learnt from the iterations of an engine that mixes.

Such an engine hardly ever prefills by itself, so a line for each kind of iteration would not be
known well enough to compare kinds. Here one line serves for all of them: an iteration with p prompt
tokens and b decoding sequences that hold kv cached tokens lasts

    alpha + beta_p * p + beta_d * b + gamma_d * kv, and mu more if it carries both,

so that mu, what mixing costs, is what the line of the others leaves unexplained; taken to be 0
until enough mixed iterations say otherwise. Errors are weighed relative to an iteration's length.

Must not know: clocks, engines.
"""

from __future__ import annotations

from math import isfinite

import numpy as np

from solver.arrays import FloatArray
from solver.cost.model import Action, CostModel
from solver.errors import ProblemError

# Iterations that are taken into the fit at once, and what older ones then still weigh: half after
# about a thousand.
TOGETHER, FADING = 32, 0.98
# Of each term, a size that makes it as large as other terms: tokens, sequences, cached tokens.
SIZES = np.array([1.0, 500.0, 16.0, 4000.0, 1.0])
# What the prior weighs in iterations: it is a guess, except that mixing costs nothing.
WEIGHTS = np.array([0.01, 0.01, 0.01, 0.01, 4.0])
# An iteration that lasts so many times as long as predicted was interrupted by something else.
ABSURD = 4.0


class JointFit:
    """Weighted least squares, online; see the module.

    Attributes:
        cost: what has been learnt.
    """

    def __init__(self, prior: CostModel) -> None:
        if prior.mixed is None:
            raise ProblemError("cost model: the prior of an engine that mixes needs mixed terms")
        extra_s = max(0.0, prior.mixed.alpha_m_s - prior.alpha_d_s)
        self._terms: FloatArray = np.array(
            [prior.alpha_d_s, prior.beta_p_s, prior.beta_d_s, prior.gamma_d_s, extra_s]
        )
        self._prior, self._typical_s = self._terms, float(SIZES @ self._terms)
        self._squares, self._sums = np.zeros((5, 5)), np.zeros(5)
        self._new: list[tuple[float, ...]] = []
        self._known = False
        self.cost = prior

    def observe(
        self, action: Action, prompt_tokens: int, batch: int, kv_tokens: int, seconds: float
    ) -> bool:
        """One iteration took `seconds`; False if that is nonsense."""
        if action is Action.IDLE or not isfinite(seconds) or seconds <= 0:
            return False
        both = float(action is Action.MIXED)
        row = (1.0, float(prompt_tokens), float(batch), float(kv_tokens), both)
        if self._known and seconds > ABSURD * self._predict(row):
            return False
        self._new.append((*row, seconds))
        if len(self._new) == TOGETHER:
            self._learn(np.array(self._new))
            self._new.clear()
        return True

    def _predict(self, row: tuple[float, ...]) -> float:
        return float(self._terms @ np.array(row))

    def _learn(self, rows: FloatArray) -> None:
        if not self._known:  # of the prior, only what its terms are relative to each other holds
            scale = float(np.median(rows[:, -1] / (rows[:, :-1] @ self._terms)))
            self._terms, self._prior = self._terms * scale, self._prior * scale
            self._typical_s *= scale
            self._known = True
        predicted = rows[:, :-1] @ self._terms
        terms = rows[:, :-1] / predicted[:, None]
        self._squares = FADING * self._squares + terms.T @ terms
        self._sums = FADING * self._sums + terms.T @ (rows[:, -1] / predicted)
        self._terms = self._solve()
        alpha, beta_p, beta_d, gamma_d, extra = self._terms.tolist()
        self.cost = CostModel(alpha, beta_p, alpha, beta_d, gamma_d, alpha + extra, beta_p, beta_d)

    def _solve(self) -> FloatArray:
        """The terms, none below 0: whichever would be is left out."""
        weights = WEIGHTS * (SIZES / self._typical_s) ** 2
        squares = self._squares + np.diag(weights)
        sums = self._sums + weights * self._prior
        terms, used = np.zeros(5), np.ones(5, dtype=bool)
        while used.any():
            terms[:] = 0.0
            terms[used] = np.linalg.solve(squares[np.ix_(used, used)], sums[used])
            if (terms >= 0).all():
                break
            used[int((terms * SIZES).argmin())] = False
        return terms
