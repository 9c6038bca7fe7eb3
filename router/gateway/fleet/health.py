"""A worker's health: looks at it and its own answers go in, its standing comes out.

Standings:
- ``up``: it takes what plans give it;
- ``suspect``: it is slow when looked at, or has sent nothing for several times what was predicted;
  it gets nothing new while others can serve;
- ``ejected``: most of its latest answers were failures; it gets nothing new for a time, which
  grows, and then one trial request;
- ``down``: it cannot be reached, or says itself that it does not serve.

Rules:
- active looks alone make it ``down``, and bring it up again; a slow look is a miss, `MISSES` in a
  row make it suspect and no more, so that the last worker is never taken out by them. An agent
  promises to tell its state: who has broken that promise and then does not answer, is down;
- its answers weigh by `WEIGHT`, the latest most: five failures in a row eject it, and so does
  whoever fails more often than not; answers that are the request's own fault are good ones. One
  counts as good as soon as it begins; if it breaks off, that is taken back;
- who is suspect for its silence, or ejected, is tried with one request once `FIRST_HOLD_S` is over,
  twice that the next time, and so on; a good answer to it brings it back;
- suspects are the last resort but one, the ejected the last: where nobody else is left, a bad
  answer says more than none. Who is ``down`` gets nothing;
- who stands out among others (`evenness`) is up, is sent as much as it is told that it may, and
  beyond that gets nothing new while others can serve;
- who says that it is full, or for how long it takes nothing, is left alone for that time, and then
  tried with one request; that is no failure, and its standing stays.

Must not know: connections, clocks, other workers. Times are seconds, given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf

# Share of the latest answer in how badly it does: of five failures in a row two thirds are counted
# (as many as Envoy takes for an outlier), where every second answer fails never more than 0.56, and
# where every tenth does, hardly ever so much by chance.
WEIGHT, MOST_FAILING = 0.2, 0.6
# Who comes back is ejected again for two failures in a row, or if its trial breaks off.
PROBATION = 0.42
# It has failed lately, if at all, a handful of answers ago.
WELL = 0.1
MISSES = 2  # the first may be the network's, or our own
FIRST_HOLD_S, LONGEST_HOLD_S = 1.0, 30.0
# Who has been well for so long is held as shortly as at first when it fails again.
FORGIVEN_S = 60.0
# A queue that is full has room again as soon as a request ends; loading takes longer.
FIRST_FULL_S, LONGEST_FULL_S = 0.1, 2.0
# Nobody is believed that says "later than that": it is tried again.
LONGEST_BUSY_S = 60.0


class Standing(StrEnum):
    """See the module."""

    UP = "up"
    SUSPECT = "suspect"
    EJECTED = "ejected"
    DOWN = "down"


@dataclass(slots=True)
class _Hold:
    """Nothing new before `until_s`, then one trial; `due`: it may be sent, `sent`: it has been."""

    standing: Standing
    why: str
    until_s: float
    due: bool = False
    sent: bool = False


_RANKS = {Standing.UP: 0, Standing.SUSPECT: 1, Standing.EJECTED: 2, Standing.DOWN: 3}


class Health:
    """One worker's health; see the module.

    Attributes:
        standing: of the four.
        reason: why it is not up, or takes nothing for the moment; else empty.
        rank: who has a lower one is preferred; 0 is first choice.
        open: whether it may be sent anything, be it as the last resort, or one trial.
        places: requests that it may be sent now, as far as its health goes.
        until_s: when `wake` should be called; infinite: never.
    """

    def __init__(self) -> None:
        self._lost, self._slow = "it has not answered yet", ""
        self._odd, self._more = "", inf
        self._misses = 0
        self._hold: _Hold | None = None
        self._failing = 0.0
        self._holds, self._fulls = 0, 0
        self._well_since_s = -inf
        self._settle()

    @property
    def well(self) -> bool:
        """Whether it is up and has not failed lately."""
        return self.rank == 0 and self._hold is None and self._failing < WELL

    @property
    def slow(self) -> bool:
        """Whether looks are not answered in time."""
        return bool(self._slow)

    @property
    def held(self) -> bool:
        """Whether it is kept from new requests, or its trial is due or under way."""
        return self._hold is not None

    @property
    def untouched(self) -> bool:
        """Whether one more good answer changes nothing: so it nearly always is."""
        return not self._failing and self._hold is None and not self._fulls

    # What looks at it tell.

    def answered(self) -> None:
        """It answers looks: it serves."""
        if self._lost:
            self._hold, self._failing = None, 0.0
        self._lost, self._slow, self._misses = "", "", 0
        self._settle()

    def missed(self, why: str) -> None:
        """A look was not answered in time, and nothing else came meanwhile."""
        self._misses += 1
        if self._misses >= MISSES:
            self.silent(why)

    def silent(self, why: str) -> None:
        """It should have told something of itself, more than once."""
        self._slow = why
        self._settle()

    def lost(self, why: str) -> None:
        """It cannot be reached, or does not serve."""
        self._lost, self._slow, self._hold, self._misses = why, "", None, 0
        self._settle()

    # What requests tell; `trial`: what `sent` said of the request.

    def sent(self) -> bool:
        """It is sent a request; whether that is its trial."""
        hold = self._hold
        if hold is None or not hold.due:
            return False
        hold.due, hold.sent = False, True
        self._settle()
        return True

    def spoke(self) -> None:
        """Bytes come: it is not silent."""
        self._misses = 0
        if self._hold is not None and self._hold.standing is Standing.SUSPECT:
            self._hold = None
        self._slow = ""
        self._settle()

    def served(self, now: float, *, trial: bool = False) -> None:
        """It has begun to answer a request well."""
        self._failing *= 1.0 - WEIGHT
        if self._failing < WELL / 100:
            self._failing = 0.0
        if trial or self._hold is None:
            self._fulls = 0
        if trial and self._hold is not None:
            self._failing, self._well_since_s = min(self._failing, PROBATION), now
            self._hold = None
        self.spoke()

    def failed(self, now: float, why: str, *, trial: bool = False, begun: bool = False) -> None:
        """A request has failed there, and not by its own fault; `begun`: it counted as served."""
        if begun:
            self._failing = min(1.0, self._failing / (1.0 - WEIGHT))
        self._fails(now, why, trial=trial)

    def overdue(self, now: float, why: str, *, trial: bool = False) -> None:
        """A request has waited for several times what was predicted, and nothing came at all."""
        if not self._fails(now, why, trial=trial) and self._hold is None:
            self._hold_back(now, Standing.SUSPECT, why)

    def busy(
        self, now: float, why: str, for_s: float | None = None, *, trial: bool = False
    ) -> None:
        """It takes nothing for `for_s` seconds, or until a moment has passed: it is full."""
        hold = self._hold
        if hold is not None and not trial:  # of many that were sent together the first counts
            if hold.standing is Standing.UP and not (hold.due or hold.sent):
                hold.until_s = max(hold.until_s, now + min(LONGEST_BUSY_S, for_s or 0.0))
                self._settle()
            return
        if for_s is None:
            for_s = min(LONGEST_FULL_S, FIRST_FULL_S * 2**self._fulls)
        until_s = now + min(LONGEST_BUSY_S, for_s)
        self._fulls += 1
        standing = Standing.UP if hold is None else hold.standing
        self._hold = _Hold(standing, why, until_s)
        self._settle()

    def stand(self, odd: str, more: float) -> None:
        """How it stands out, if it does, and how much `more` it may be sent before others are."""
        self._odd, self._more = odd, more
        self._settle()

    def left(self, now: float, *, trial: bool) -> None:
        """A request has left it: a trial that has told nothing is due again."""
        if trial and self._hold is not None and self._hold.sent:
            self._hold.sent, self._hold.until_s = False, now
            self.wake(now)

    def wake(self, now: float) -> None:
        """Time has passed: perhaps the trial is due."""
        hold = self._hold
        if hold is not None and not hold.sent and now >= hold.until_s:
            hold.due = True
        self._settle()

    def _fails(self, now: float, why: str, *, trial: bool) -> bool:
        """Count a failure; whether it is ejected for it, or has been."""
        self._failing += WEIGHT * (1.0 - self._failing)
        hold = self._hold
        if trial and hold is not None and hold.standing is Standing.UP:
            hold = self._hold = None  # its queue is not full: it has taken the request
            self._settle()
        ejected = hold is not None and hold.standing is Standing.EJECTED
        if self._lost or (ejected and not trial):
            return True
        if not (self._failing >= MOST_FAILING or (trial and hold is not None)):
            return False
        self._hold_back(now, Standing.EJECTED, why)
        return True

    def _hold_back(self, now: float, standing: Standing, why: str) -> None:
        if now - self._well_since_s > FORGIVEN_S and self._hold is None:
            self._holds = 0
        for_s = min(LONGEST_HOLD_S, FIRST_HOLD_S * 2**self._holds)
        self._holds += 1
        self._hold = _Hold(standing, why, now + for_s)
        self._settle()

    def _settle(self) -> None:
        hold = self._hold
        self.standing, self.reason = Standing.UP, ""
        self.places, self.until_s, self.open = inf, inf, not self._lost
        if self._lost:
            self.standing, self.reason, self.places = Standing.DOWN, self._lost, 0.0
        elif hold is not None:
            self.standing, self.reason = hold.standing, hold.why
            self.places = self._places(hold)
            if not hold.due and not hold.sent:
                self.until_s, self.open = hold.until_s, hold.standing is not Standing.UP
        if self._slow and self.standing is Standing.UP:
            self.standing, self.reason = Standing.SUSPECT, self._slow
        self.rank = _RANKS[self.standing]
        if hold is not None and hold.due and not self._slow:
            self.rank = 0
        self.reason = self.reason or self._odd
        if self._more < 1 and self.rank == 0:
            self.rank = _RANKS[Standing.SUSPECT]
        elif self._more >= 1:
            self.places = min(self.places, self._more)

    @staticmethod
    def _places(hold: _Hold) -> float:
        if hold.due:
            return 1.0
        return 0.0 if hold.sent or hold.standing is Standing.UP else inf
