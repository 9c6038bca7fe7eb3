"""Output lengths, predicted from what similar requests have made.

Each request belongs to groups, from "all" to "this kind of prompt of this tenant, of this size".
A group keeps a fading histogram of its lengths and leans on its broader group where it has seen
little; their forecasts are mixed by how well each sort of group has done for the model of late.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from math import exp, log2
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from solver.lengths.distribution import (
    BINS,
    EDGES,
    WIDTHS,
    LengthDistribution,
    bin_of,
)

Key = tuple[Any, ...]  # its sort, and what its requests have in common
Rows = tuple[int, ...]  # of a request's groups
Floats = NDArray[np.float64]
Histograms = NDArray[np.float32]  # a row a group, a column a bin

# The broader group of each group that `_groups` names; "all" leans on the prior. Sizes of prompts
# come twice, for the model and for a kind of prompt, since a kind may be new with each request.
BROADER = (-1, 0, 1, 2, 3, 1, 5, 6, 7, 8, 6)
SORTS = len(BROADER)
MODEL = 1
RECENT = 4  # requests that the last group remembers
LEAN = 3.0  # requests of its own at which a group counts as much as its broader one
TRUST = 0.25  # a group whose loss is 1 % above the best's has its weight halved in 280 requests
# Once so many ends of a model have been scored, one in four is: which sorts of groups to trust
# changes more slowly than what they say.
SCORED, SCORE_EACH = 256, 4
# A histogram is made small again when its latest end counts for so much; a float has room for more.
MOST_GAIN = 1e12
MOST_KEPT = 1024  # predictions, should nothing end for long
HEAD = 1024  # characters by which system prompts and documents tend to differ


class Features(NamedTuple):
    """What is known of a request when it comes. `kind` is any label for prompts of one sort."""

    model: str
    prompt_tokens: int
    max_tokens: int | None = None
    tenant: str = ""
    kind: str = ""


def kind_of(text: str) -> str:
    """The kind of a prompt that nobody has labelled: how it begins."""
    return f"{crc32(text[:HEAD].encode('utf-8', 'surrogatepass')):08x}"


def _groups(features: Features) -> tuple[Key, ...]:
    size = log2(max(1, features.prompt_tokens))
    octave, quarter, fine = int(size), int(size * 4), int(size * 16)
    model, tenant, kind = features.model, features.tenant, features.kind
    return (
        (0,),
        (1, model),
        (2, model, octave),
        (3, model, quarter),
        (4, model, fine),
        (5, model, tenant),
        (6, model, tenant, kind),
        (7, model, tenant, kind, octave),
        (8, model, tenant, kind, quarter),
        (9, model, tenant, kind, fine),
        (10, model, tenant, kind),  # only the last few
    )


def again_from(learned: int) -> float:
    """From how many ends on to predict anew what was predicted from `learned`.

    A quarter more, and some to begin with: so whoever waits is predicted a few times, however long.
    """
    return learned * 1.25 + 8


class LengthPredictor:
    """Predicts the output tokens of requests, and learns from those that have finished.

    Where nothing has been seen, `prior_weight` imagined requests with a mean of `prior` tokens
    stand in. A group remembers about its last `memory` requests; of `groups` groups, those not
    seen for longest are forgotten.

    Attributes:
        learned: how many have been observed.
    """

    def __init__(
        self,
        prior: float = 256.0,
        prior_weight: float = 8.0,
        memory: int = 500,
        groups: int = 16384,
    ) -> None:
        # The longer a request has run, the longer it is likely to go on: no limit surprises it.
        reach = (1.0 + (np.array(EDGES) - 1.0) / (2.0 * prior)) ** -3.0
        self._prior: Floats = -np.diff(reach)
        self._lean = (prior_weight, *[LEAN] * (SORTS - 1))
        self._keep = (*[1.0 - 1.0 / memory] * (SORTS - 1), 1.0 - 1.0 / RECENT)
        self._rows: OrderedDict[Key, int] = OrderedDict()
        self._most = max(groups, SORTS)
        # Row `_most` stays empty: it stands for all groups that are not known. No end fades: the
        # next one counts for more instead, by `_gain`, and only its bin is touched.
        self._seen = np.zeros((self._most + 1, BINS), dtype=np.float32)  # 9 MB when full
        self._cells: Any = memoryview(self._seen)  # type: ignore[arg-type]  # one number at a time
        self._gain = [1.0] * (self._most + 1)
        self._count = [0.0] * (self._most + 1)
        # Of the rows of models: losses, and the trust that follows, as of the last end scored.
        self._loss: dict[int, Floats] = {}
        self._shares: dict[int, list[float]] = {}
        # What has been asked for since the last end, and what the groups made of it.
        self._mixes: dict[Rows, Floats] = {}
        self._made: dict[Features | tuple[Rows, int | None], LengthDistribution] = {}
        self.learned = 0

    def predict(self, features: Features) -> LengthDistribution:
        """The distribution of the output tokens of a request."""
        found = self._made.get(features)
        if found is None:
            rows = self._rows_of(_groups(features))
            alike = rows, features.max_tokens  # most kinds are new: they have no row of their own
            found = self._made.get(alike)
            if len(self._made) >= MOST_KEPT:
                self._made.clear()
            if found is None:
                found = LengthDistribution.of(self._mix_of(rows), features.max_tokens)
            self._made[features] = self._made[alike] = found
        return found

    def observe(self, features: Features, output_tokens: int) -> None:
        """A request has finished with `output_tokens`; at its limit, it could have made more."""
        self.observe_all([(features, output_tokens)])

    def observe_all(self, ended: Iterable[tuple[Features, int]]) -> None:
        """Several have, all alike: what is known before all of them tells of those that were cut.

        In a group they weigh together as much as one after the other, and each the same.
        """
        ends = list(Counter(ended).items())
        most = max(1, self._most // SORTS)  # ends whose groups all have a row
        for k in range(0, len(ends), most):
            self._observe(ends[k : k + most])
        self._mixes.clear()
        self._made.clear()

    def _observe(self, ends: Sequence[tuple[tuple[Features, int], int]]) -> None:
        counts: dict[Key, int] = {}
        found = []
        for (features, tokens), times in ends:
            groups = _groups(features)
            found.append((groups, features.max_tokens, tokens, times))
            for key in groups:
                counts[key] = counts.get(key, 0) + times
        rows = {key: self._touch(key) for key in counts}
        seen = [self._shown(groups, limit, tokens) for groups, limit, tokens, _ in found]
        for groups, limit, tokens, times in found:
            self._maybe_score([rows[key] for key in groups], limit, tokens, times)
        gains = {key: self._fade(row, self._keep[key[0]], counts[key]) for key, row in rows.items()}
        for (groups, _, tokens, times), tail in zip(found, seen, strict=True):
            if tail is None:
                cells, k = self._cells, bin_of(tokens)
                for key in groups:
                    cells[rows[key], k] += times * gains[key]
            else:
                each = np.array([times * gains[key] for key in groups])
                self._seen[[rows[key] for key in groups], -len(tail) :] += each[:, None] * tail

    def _fade(self, row: int, keep: float, ends: int) -> float:
        """A group remembers `keep` of what it had at each end; what one counts for there now."""
        kept = keep**ends
        together = (1.0 - kept) / (1.0 - keep)
        self._count[row] = self._count[row] * kept + together
        gain = self._gain[row] / kept
        if gain > MOST_GAIN:
            self._seen[row] *= 1.0 / gain
            gain = 1.0
        self._gain[row] = gain
        return gain * together / ends

    def _shown(self, groups: tuple[Key, ...], limit: int | None, tokens: int) -> Floats | None:
        """Shares of the last bins, for an end at the limit; None: a length in its own bin."""
        if limit is None or tokens < limit:
            return None
        tail = self._mix_of(self._rows_of(groups))[bin_of(tokens) :]
        shares: Floats = tail / tail.sum()
        return shares

    def _maybe_score(self, rows: Sequence[int], limit: int | None, tokens: int, times: int) -> None:
        """As long as few of a model's have been, and now and then."""
        due = (self.learned + times) // SCORE_EACH > self.learned // SCORE_EACH
        self.learned += times
        if due or self._count[rows[MODEL]] < SCORED:
            self._score(rows, limit, tokens, times)

    def _score(self, rows: Sequence[int], limit: int | None, tokens: int, times: int) -> None:
        """Add to a model's losses those of each sort of group, for so many ends alike.

        An end tells of the bins below its limit, or below where it was cut.
        """
        known = BINS if limit is None else bin_of(max(limit, tokens))
        seen, first, model = np.zeros(known), bin_of(tokens), rows[MODEL]
        if first < known:
            seen[first] = 1.0
        losses = _losses(self._forecasts(rows, self._seen.take(rows, axis=0)[:, :known]), seen)
        if (before := self._loss.get(model)) is not None:
            ends = times if self._count[model] < SCORED else max(times, SCORE_EACH)
            losses = ends * losses + self._keep[MODEL] ** ends * before
        self._loss[model] = losses
        self._shares.pop(model, None)

    def _mix_of(self, rows: Rows) -> Floats:
        """What similar requests have made, all groups together."""
        found = self._mixes.get(rows)
        if found is None:
            if len(self._mixes) >= MOST_KEPT:
                self._mixes.clear()
            found = self._mixes[rows] = self._mix(rows, self._seen.take(rows, axis=0))
        return found

    def _rows_of(self, groups: tuple[Key, ...]) -> Rows:
        known, none = self._rows, self._most
        return tuple([known.get(key, none) for key in groups])

    def _mix(self, rows: Sequence[int], histograms: Histograms) -> Floats:
        """All groups' forecasts, each by its trust; `histograms` (SORTS, BINS) are theirs.

        Each forecast is its own histogram and, as `LEAN` requests, its broader one's forecast: a
        weighted sum of histograms and the prior, and so is the mix of them.
        """
        weights = self._trust(rows[MODEL])
        for k in range(SORTS - 1, -1, -1):  # a group's broader one stands before it
            row, lean = rows[k], self._lean[k]
            share = weights[k] / (self._count[row] + lean)
            weights[k] = share / self._gain[row]
            weights[BROADER[k]] += share * lean
        mix: Floats = np.array(weights[:SORTS]) @ histograms + weights[-1] * self._prior
        return mix

    def _forecasts(self, rows: Sequence[int], histograms: Histograms) -> Floats:
        """(SORTS, bins) what each group expects, in the bins that are there."""
        shares: list[list[float]] = []  # of each histogram and, last, of the prior
        broader = [0.0] * SORTS + [1.0]
        for k, (row, lean) in enumerate(zip(rows, self._lean, strict=True)):
            total = self._count[row] + lean
            leans = lean / total
            share = [leans * one for one in (shares[BROADER[k]] if k else broader)]
            share[k] = 1.0 / (total * self._gain[row])
            shares.append(share)
        weights, bins = np.array(shares), histograms.shape[1]
        forecasts: Floats = weights[:, :SORTS] @ histograms
        forecasts += weights[:, SORTS:] * self._prior[:bins]
        return forecasts

    def _trust(self, model: int) -> list[float]:
        """The weight of each sort of group, by the losses of a model, and a zero for the prior."""
        found = self._shares.get(model)
        if found is None:
            losses = self._loss.get(model)
            loss = [1.0] * SORTS if losses is None else losses.tolist()
            least, fading = max(min(loss), 1e-9), -TRUST * self._count[model]
            weights = [exp(fading * (one / least - 1.0)) for one in loss]
            total = sum(weights)
            found = self._shares[model] = [*(weight / total for weight in weights), 0.0]
        return found.copy()

    def _touch(self, key: Key) -> int:
        """The row of a group, which is now the last to be forgotten."""
        row = self._rows.pop(key, None)
        if row is None:
            row = len(self._rows)
            if row == self._most:
                _, row = self._rows.popitem(last=False)
            self._seen[row], self._count[row], self._gain[row] = 0.0, 0.0, 1.0
            self._loss.pop(row, None)
            self._shares.pop(row, None)
        self._rows[key] = row
        return row


def _losses(forecasts: Floats, seen: Floats) -> Floats:
    """Each forecast's CRPS, in tokens, over the bins that are there.

    The CRPS is twice the mean pinball loss over all quantiles; a mixture's is never above the
    mean of its parts'.
    """
    error = (forecasts - seen).cumsum(axis=1)
    losses: Floats = (error * error) @ WIDTHS[: len(seen)]
    return losses
