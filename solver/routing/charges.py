"""What requests that run have been charged, and how much of it they have not had yet.

Rules:
- a request is charged as it is expected to be when it is sent, and settled when it has left;
- until then it has had its prompt's part, and of its answer's as much as of the time that the
  answer should take has passed; the rest is *to come*. Sums by tenant are kept, so that asking
  costs the same however many run;
- when that time is over it is looked at: who has made more than was expected, as far as its tokens
  are seen, is charged for `AGAIN` times what it has made, and so on. So nobody runs for nothing,
  whatever was thought of its answer's length.

Must not know: clocks, workers, levels. Slot-seconds here do not fade.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from solver.cost.model import CostModel, request_s

# Of what has been made, as much is expected: the rest of a request that has outlived its prediction
# is half as long again.
AGAIN = 1.5
# Nothing is looked at sooner than after so long.
LEAST_S = 0.5
# Ends of requests that have left are kept until there are so many, and more than of others.
MOST_GONE = 64


def slot_seconds(cost: CostModel, slots: int, prompt: float, output: float, n: int = 1) -> float:
    """Slot-seconds that a request of so many uncached prompt and output tokens takes, in n answers.

    Engine seconds at full slots, times these: a prefill stalls them all, a decode round is shared.
    """
    return n * slots * request_s(cost, prompt / n, output / n, slots)


class Size(NamedTuple):
    """A request as shares count it: uncached prompt and output tokens, in so many answers."""

    cost: CostModel
    slots: int
    prompt: float
    output: float
    answers: int = 1

    @property
    def slot_s(self) -> float:
        """See `slot_seconds`."""
        return slot_seconds(*self)

    @property
    def answer_slot_s(self) -> float:
        """Of that, what its answers take."""
        return self.slot_s - self.become(self.prompt, 0.0).slot_s

    @property
    def lasts_s(self) -> float:
        """Seconds for which it has slots, of a worker that is full of its like.

        There its answers stand still for as many prefills as it makes others stand still for.
        """
        return self.slot_s / min(self.answers, self.slots)

    def become(self, prompt: float, output: float) -> Size:
        """It turned out otherwise."""
        return self._replace(prompt=prompt, output=output)


@dataclass(slots=True)
class _Charge:
    """Of one request: what is to come of it at `rate` a second until `ends_s`.

    `serial` tells that end from earlier ones; 0: nothing is to come.
    """

    tenant: str
    size: Size
    made: Callable[[], float | None]
    sent_s: float
    serial: int = 0
    rate: float = 0.0
    ends_s: float = 0.0


class _ToCome:
    """A tenant's, of all that run: at `rate` a second, each until its own end."""

    __slots__ = ("at_ends", "count", "rate")

    def __init__(self) -> None:
        self.count, self.rate, self.at_ends = 0, 0.0, 0.0

    def add(self, rate: float, ends_s: float) -> None:
        self.count += 1
        self.rate += rate
        self.at_ends += rate * ends_s

    def remove(self, rate: float, ends_s: float) -> None:
        self.count -= 1
        self.rate -= rate
        self.at_ends -= rate * ends_s

    def by(self, now: float) -> float:
        return max(0.0, self.at_ends - self.rate * now)


class Charges:
    """See the module."""

    def __init__(self) -> None:
        self._all: dict[Hashable, _Charge] = {}
        self._to_come: dict[str, _ToCome] = {}
        self._ends: list[tuple[float, int, Hashable]] = []
        self._serial = 0

    def add(
        self,
        request: Hashable,
        tenant: str,
        size: Size,
        now: float,
        lasts_s: float,
        made: Callable[[], float | None],
    ) -> None:
        """It is sent; `made` tells its output tokens so far, None where nobody sees them."""
        self._all[request] = one = _Charge(tenant, size, made, now)
        self._expect(request, one, size.answer_slot_s, now, lasts_s)

    def pop(self, request: Hashable) -> tuple[str, Size] | None:
        """It has left; whose it was, and what it is charged as; None: it is unknown."""
        one = self._all.pop(request, None)
        if one is None:
            return None
        self._forget(one)
        if len(self._ends) > MOST_GONE + 2 * len(self._all):
            self._ends = [end for end in self._ends if self._is_due(*end[1:])]
            heapify(self._ends)
        return one.tenant, one.size

    def to_come(self, tenant: str, now: float) -> float:
        """Slot-seconds that it has been charged and not had, as of the last `outlived`."""
        found = self._to_come.get(tenant)
        return 0.0 if found is None else found.by(now)

    def outlived(self, now: float) -> Iterator[tuple[str, float]]:
        """Of those that run longer than they should by now: tenant, and how much more it is."""
        while self._ends and self._ends[0][0] <= now:
            _, serial, request = heappop(self._ends)
            if self._is_due(serial, request):
                one = self._all[request]
                self._forget(one)
                more = self._again(request, one, now)
                if more > 0:
                    yield one.tenant, more

    def _is_due(self, serial: int, request: Hashable) -> bool:
        """Whether an end is still that of a request that runs."""
        return request in self._all and self._all[request].serial == serial

    def _again(self, request: Hashable, one: _Charge, now: float) -> float:
        """Its time is over; by what it is charged more."""
        since_s, before, made = now - one.sent_s, one.size, one.made()
        if made is None:
            return 0.0
        if made >= before.output:
            one.size = before.become(before.prompt, AGAIN * made)
        left = one.size.output - made  # its worker may be slower than was thought
        to_come = one.size.slot_s - one.size.become(before.prompt, made).slot_s
        self._expect(request, one, to_come, now, since_s * min(1.0, left / max(1.0, made)))
        return one.size.slot_s - before.slot_s

    def _expect(
        self, request: Hashable, one: _Charge, slot_s: float, now: float, lasts_s: float
    ) -> None:
        """So much is still to come, over so long."""
        self._serial += 1
        lasts_s = max(LEAST_S, lasts_s)
        one.serial, one.rate, one.ends_s = self._serial, slot_s / lasts_s, now + lasts_s
        heappush(self._ends, (one.ends_s, self._serial, request))
        self._to_come.setdefault(one.tenant, _ToCome()).add(one.rate, one.ends_s)

    def _forget(self, one: _Charge) -> None:
        """Nothing is to come of it any more."""
        if one.serial:
            one.serial, sums = 0, self._to_come[one.tenant]
            sums.remove(one.rate, one.ends_s)
            if not sums.count:  # rounding must not add up
                del self._to_come[one.tenant]
