"""What policies are told of output lengths: the truth, noise on it, a prediction, or a mean.

Each kind of knowledge gives one expectation a request, when it arrives, and hears of every end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp
from typing import Protocol

from solver.errors import ProblemError
from solver.predict import Features, LengthPredictor
from solver.sim.request import Request


class Knowledge(Protocol):
    """Expected output lengths."""

    def expect(self, request: Request) -> float:
        """Output tokens expected of a request that arrives now."""
        ...

    def observe(self, request: Request) -> None:
        """It has ended, so its length is known."""
        ...


class Known:
    """The truth, or the truth times ``exp(sigma * z)`` with z standard normal."""

    def __init__(self, sigma: float, rng: random.Random) -> None:
        self._sigma, self._rng = sigma, rng

    def expect(self, request: Request) -> float:
        """The length, off by the noise."""
        if not self._sigma:
            return float(request.output_tokens)
        return request.output_tokens * exp(self._sigma * self._rng.gauss(0.0, 1.0))

    def observe(self, request: Request) -> None:
        """Nothing to learn."""


class Unknown:
    """The mean of all that have ended, after some imagined requests of 256 tokens."""

    def __init__(self) -> None:
        self._count, self._tokens = 8, 8 * 256

    def expect(self, request: Request) -> float:  # noqa: ARG002
        """The same for all who arrive now."""
        return self._tokens / self._count

    def observe(self, request: Request) -> None:
        """One more for the mean."""
        self._count += 1
        self._tokens += request.output_tokens


class Predicted:
    """What the gateway's predictor says, from prompt lengths and what has ended so far."""

    def __init__(self) -> None:
        self._predictor = LengthPredictor()

    def expect(self, request: Request) -> float:
        """The predicted mean."""
        return self._predictor.predict(_features(request)).mean

    def observe(self, request: Request) -> None:
        """One more to learn from."""
        self._predictor.observe(_features(request), request.output_tokens)


def _features(request: Request) -> Features:
    return Features(model="", prompt_tokens=request.prompt_tokens)


def knowledge(kind: str, seed: int) -> Knowledge:
    """By name: ``known``, ``unknown``, ``noisy:SIGMA`` or ``predicted``.

    Raises:
        ProblemError: for any other name, or a sigma that is no number >= 0.
    """
    name, _, argument = kind.partition(":")
    if name == "noisy":
        return Known(_sigma(argument), random.Random(f"{seed}/lengths"))
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


_KINDS: dict[str, Callable[[], Knowledge]] = {
    "known": lambda: Known(0.0, random.Random(0)),
    "unknown": Unknown,
    "predicted": Predicted,
}
