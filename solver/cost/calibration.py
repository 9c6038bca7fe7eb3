"""A cost model from measured iterations: least squares over all samples, without negative terms.

Rules:
- errors are relative, so that short iterations count as much as long ones;
- one stall does not bend a line: samples far off weigh less (Huber's weights, reweighted);
- decode rounds and mixed iterations share the time per cached token, as `CostModel` does; that of
  a query and key is told by prefill stages alone, if they are clearly no line, and mixed iterations
  take it as it is;
- errors are told of samples that the fit did not see: of every fourth shape of iteration, in the
  order of their appearance; what is returned is then fitted to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from solver.arrays import FloatArray
from solver.cost.model import Action, CostModel
from solver.errors import ProblemError

PASSES = 6
INNER = 2.0  # mean errors within which a sample counts in full
CLEARLY = 0.75  # of the error that a line leaves is left with queries and keys, at most
HELD_OUT = 4  # one shape of so many is held out


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured iteration: what it carried, and how many seconds it took."""

    action: Action
    prompt_tokens: int
    batch: int
    kv_tokens: int
    seconds: float

    @property
    def pairs(self) -> int:
        """Queries times keys of an iteration with prompt tokens."""
        return (self.prompt_tokens + self.batch) * (self.prompt_tokens + self.kv_tokens)

    def predicted_s(self, cost: CostModel) -> float:
        """Seconds that the cost model says."""
        if self.action is Action.PREFILL:
            return cost.prefill_s(self.prompt_tokens)
        if self.action is Action.DECODE:
            return cost.decode_s(self.batch, self.kv_tokens)
        return cost.mixed_s(self.prompt_tokens, self.batch, self.kv_tokens)


@dataclass(frozen=True, slots=True)
class FitError:
    """How far a cost model is from samples of one kind; relative errors and R^2 of seconds."""

    samples: int
    held_out: bool
    median: float
    p95: float
    r2: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """A cost model and its errors by kind of iteration."""

    cost: CostModel
    errors: dict[Action, FitError]


def calibrate(samples: Sequence[Sample]) -> Calibration:
    """The cost model of these samples.

    Raises:
        ProblemError: if there are too few prefill stages or decode rounds, or a time is not > 0.
    """
    for sample in samples:
        if not 0 < sample.seconds < float("inf"):
            raise ProblemError(f"calibration: seconds must be above 0, not {sample.seconds}")
    fitted, held = _split(samples)
    trial = fit(fitted) if held else fit(samples)
    errors: dict[Action, FitError] = {}
    for action in (Action.PREFILL, Action.DECODE, Action.MIXED):
        unseen = [sample for sample in held if sample.action is action]
        seen = unseen or [sample for sample in samples if sample.action is action]
        if seen:
            errors[action] = _error(trial, seen, held_out=bool(unseen))
    return Calibration(fit(samples), errors)


def fit(samples: Sequence[Sample]) -> CostModel:
    """Least squares over all of them.

    Raises:
        ProblemError: if there are no prefill stages or no decode rounds of two different shapes.
    """
    of = {a: [s for s in samples if s.action is a] for a in Action}
    for action in (Action.PREFILL, Action.DECODE):
        if len({(s.prompt_tokens, s.batch) for s in of[action]}) < 2:
            raise ProblemError(f"calibration: it takes {action} iterations of two sizes or more")
    alpha_p, beta_p, delta = _prefill(of[Action.PREFILL])
    rounds = [[1, s.batch, s.kv_tokens, 0, 0, 0] for s in of[Action.DECODE]]
    mixed = [[0, 0, s.kv_tokens, 1, s.prompt_tokens, s.batch] for s in of[Action.MIXED]]
    pairs_s = [0.0] * len(rounds) + [delta * s.pairs for s in of[Action.MIXED]]
    both = _terms([*rounds, *mixed], [*of[Action.DECODE], *of[Action.MIXED]], pairs_s)
    found = CostModel(alpha_p, beta_p, both[0], both[1], both[2], delta_s=delta)
    if not mixed:
        return found
    return replace(found, alpha_m_s=both[3], beta_mp_s=both[4], beta_md_s=both[5])


def _prefill(samples: Sequence[Sample]) -> tuple[float, float, float]:
    line, curve = ([[1.0, s.prompt_tokens, s.pairs][:n] for s in samples] for n in (2, 3))
    straight, bent = _terms(line, samples), _terms(curve, samples)
    if _off(curve, samples, bent) > CLEARLY * _off(line, samples, straight):
        return straight[0], straight[1], 0.0
    return bent[0], bent[1], bent[2]


def _off(rows: list[list[float]], samples: Sequence[Sample], terms: list[float]) -> float:
    """The median relative error."""
    predicted = np.array(rows) @ np.array(terms)
    return float(np.median(np.abs(predicted / np.array([s.seconds for s in samples]) - 1)))


def _terms(
    rows: Sequence[Sequence[float]], samples: Sequence[Sample], known_s: Sequence[float] = ()
) -> list[float]:
    """One term a column; of each sample's seconds, `known_s` are explained by other terms."""
    seconds = np.array([sample.seconds for sample in samples])
    target = 1 - np.array(known_s or [0.0] * len(samples)) / seconds
    matrix = np.array(rows, dtype=np.float64) / seconds[:, None]
    weights = np.ones(len(seconds))
    terms = np.zeros(matrix.shape[1])
    for _ in range(PASSES):
        root = np.sqrt(weights)
        terms = _nonnegative(matrix * root[:, None], target * root)
        errors = np.abs(matrix @ terms - target)
        weights = np.minimum(1.0, INNER * np.median(errors) / np.maximum(errors, 1e-12))
        weights = np.maximum(weights, 1e-6)
    return [float(term) for term in terms]


def _nonnegative(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Least squares with terms >= 0: every choice of terms that are 0 is tried, six are few."""
    n = matrix.shape[1]
    size = np.linalg.norm(matrix, axis=0)
    scaled = matrix / np.where(size > 0, size, 1.0)
    normal, target = scaled.T @ scaled, scaled.T @ right
    best, least = np.zeros(n), np.inf
    used = [j for j in range(n) if size[j] > 0]
    for count in range(len(used), 0, -1):
        for kept in combinations(used, count):
            part = np.linalg.lstsq(normal[np.ix_(kept, kept)], target[list(kept)], rcond=1e-12)[0]
            gain = -float(part @ target[list(kept)])
            if part.min() >= 0 and gain < least - 1e-12:
                best, least = np.zeros(n), gain
                best[list(kept)] = part / size[list(kept)]
        if np.isfinite(least) and count == len(used):
            break  # without a bound in the way, nothing is better
    return best


def _split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples to fit, and of every fourth shape those to test; no kind loses its last sizes."""
    shapes: dict[Action, list[tuple[int, int]]] = {action: [] for action in Action}
    for sample in samples:
        shape = sample.prompt_tokens, sample.batch
        if shape not in shapes[sample.action]:
            shapes[sample.action].append(shape)
    out = {
        (action, shape)
        for action, found in shapes.items()
        for shape in found[HELD_OUT - 2 : -1 : HELD_OUT]
    }
    held = [s for s in samples if (s.action, (s.prompt_tokens, s.batch)) in out]
    return [s for s in samples if (s.action, (s.prompt_tokens, s.batch)) not in out], held


def _error(cost: CostModel, samples: Sequence[Sample], *, held_out: bool) -> FitError:
    seconds = np.array([sample.seconds for sample in samples])
    predicted = np.array([sample.predicted_s(cost) for sample in samples])
    relative = np.abs(predicted / seconds - 1)
    spread = float(((seconds - seconds.mean()) ** 2).sum())
    r2 = 1 - float(((seconds - predicted) ** 2).sum()) / spread if spread > 0 else None
    median, p95 = (float(value) for value in np.quantile(relative, [0.5, 0.95]))
    return FitError(len(samples), held_out, median, p95, r2)
