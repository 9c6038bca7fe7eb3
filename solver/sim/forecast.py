"""What policies are told of output lengths: the truth, noise on it, a prediction, or a mean.

Each forecaster gives one forecast a request, when it arrives, and hears of every end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import erf, exp, log, log1p, sqrt
from typing import NamedTuple, Protocol, Self

import numpy as np

from solver.errors import ProblemError
from solver.lengths.distribution import EDGES, LengthDistribution
from solver.lengths.predictor import Features, LengthPredictor
from solver.sim.request import Request


class Forecast(NamedTuple):
    """Output tokens to plan with, and their distribution where it is known."""

    tokens: float
    lengths: LengthDistribution | None = None

    @classmethod
    def of(cls, lengths: LengthDistribution, quantile: float | None) -> Self:
        """Plan with a quantile, or with the mean."""
        return cls(lengths.mean if quantile is None else lengths.quantile(quantile), lengths)


class LengthForecaster(Protocol):
    """Expected output lengths."""

    @property
    def learned(self) -> int:
        """How many ends forecasts are made from; 0 of whoever does not learn."""
        ...

    def forecast(self, request: Request) -> Forecast:
        """Output tokens expected of a request that arrives now."""
        ...

    def observe(self, request: Request) -> None:
        """It has ended, so its length is known."""
        ...


class KnownLengths:
    """The truth, or the truth times ``exp(sigma * z)`` with z standard normal."""

    learned = 0

    def __init__(self, sigma: float, rng: random.Random) -> None:
        self._sigma, self._rng = sigma, rng

    def forecast(self, request: Request) -> Forecast:
        """The length, off by the noise."""
        if not self._sigma:
            return Forecast(float(request.output_tokens))
        return Forecast(request.output_tokens * exp(self._sigma * self._rng.gauss(0.0, 1.0)))

    def observe(self, request: Request) -> None:
        """Nothing to learn."""


class PosteriorLengths:
    """What one makes of predictions that are off by a known noise: the posterior.

    Lengths are taken to be lognormal with the mean and deviation of earlier traffic, and a
    prediction to be the length times ``exp(sigma * z)``. Raw predictions of extreme lengths are
    mostly noise: whoever plans with them waits for long requests that are not there.
    """

    learned = 0

    def __init__(
        self,
        sigma: float,
        rng: random.Random,
        mean: float,
        deviation: float,
        quantile: float | None = None,
    ) -> None:
        self._raw, self._quantile = KnownLengths(sigma, rng), quantile
        spread = log1p((deviation / mean) ** 2)  # variance of the logarithm
        self._trust = spread / (spread + sigma**2)
        self._middle, self._deviation = log(mean) - spread / 2, sqrt(spread * (1.0 - self._trust))

    def forecast(self, request: Request) -> Forecast:
        """The posterior distribution, and of it the mean or the quantile."""
        told = log(self._raw.forecast(request).tokens)
        middle = self._middle + self._trust * (told - self._middle)
        return Forecast.of(_lognormal(middle, self._deviation), self._quantile)

    def observe(self, request: Request) -> None:
        """Nothing to learn."""


class MeanLengths:
    """The mean of all that have ended, after some imagined requests of 256 tokens."""

    def __init__(self) -> None:
        self._count, self._tokens = 8, 8 * 256

    @property
    def learned(self) -> int:
        """All that have ended."""
        return self._count - 8

    def forecast(self, request: Request) -> Forecast:  # noqa: ARG002
        """The same for all who arrive now."""
        return Forecast(self._tokens / self._count)

    def observe(self, request: Request) -> None:
        """One more for the mean."""
        self._count += 1
        self._tokens += request.output_tokens


class PredictedLengths:
    """What the gateway's predictor says, from prompt lengths and what has ended so far.

    Planned is with the predicted mean, or a quantile.
    """

    def __init__(self, quantile: float | None = None) -> None:
        self._quantile = quantile
        self._predictor = LengthPredictor()

    @property
    def learned(self) -> int:
        """All that have ended."""
        return self._predictor.learned

    def forecast(self, request: Request) -> Forecast:
        """The predicted distribution, and of it the mean or the quantile."""
        return Forecast.of(self._predictor.predict(_features(request)), self._quantile)

    def observe(self, request: Request) -> None:
        """One more to learn from."""
        self._predictor.observe(_features(request), request.output_tokens)


def _lognormal(middle: float, deviation: float) -> LengthDistribution:
    """By the mean and deviation of the logarithm."""
    below = [0.5 * (1.0 + erf((log(e - 0.5) - middle) / (sqrt(2.0) * deviation))) for e in EDGES]
    return LengthDistribution.of(np.maximum(np.diff(below), 1e-12))  # no length is impossible


def _features(request: Request) -> Features:
    return Features(model="", prompt_tokens=request.prompt_tokens)


def length_forecaster(kind: str, seed: int) -> LengthForecaster:
    """By name: ``known``, ``unknown``, ``noisy:SIGMA`` or ``predicted``.

    Raises:
        ProblemError: for any other name, or a sigma that is no number >= 0.
    """
    name, _, argument = kind.partition(":")
    if name == "noisy":
        return KnownLengths(_sigma(argument), random.Random(f"{seed}/lengths"))
    if argument or name not in _KINDS:
        kinds = "known, unknown, noisy:SIGMA or predicted"
        raise ProblemError(f"lengths: {kind!r} is none of {kinds}")
    return _KINDS[name]()


def _sigma(text: str) -> float:
    try:
        sigma = float(text)
    except ValueError:
        sigma = -1.0
    if not 0 <= sigma <= 3:
        raise ProblemError(f"lengths: noisy:SIGMA takes a number from 0 to 3, not {text!r}")
    return sigma


_KINDS: dict[str, Callable[[], LengthForecaster]] = {
    "known": lambda: KnownLengths(0.0, random.Random(0)),
    "unknown": MeanLengths,
    "predicted": PredictedLengths,
}
