"""When a server that is only silent counts as down.

A dead server refuses connections, which is seen at once. Of a frozen one the system still accepts
them, and of one that computes a long prompt, too, so only answers tell. It is asked for its models
again and again: looks. Rules:

- a server that sends tokens lives, whether it answers looks or not;
- vLLM, SGLang and llama.cpp answer from a process or thread of their own, whatever they compute; so
  one that has answered its last `PROVEN` looks at work within `QUICK_S` each is down once it misses
  `SURE` in a row;
- so is one that has nothing to do, as nothing could keep it;
- any other may be one that cannot answer beside a long prompt, or that is short of processor time:
  it is down once it misses `MOST`. Whoever answers late, or again after a miss, is of this kind
  until it has shown otherwise.

Two are the least: one may be missed because the sidecar itself was held up.

Must not know: connections, clocks.
"""

from __future__ import annotations

# How long a look waits, and one that follows a miss: 1.5 s for `SURE` of them, 5 s for `MOST`.
LOOK_S, AGAIN_S = 1.0, 0.5
SURE, MOST = 2, 9
QUICK_S = 0.1
PROVEN = 6


class Silence:
    """Counts looks at one server.

    Attributes:
        misses: looks in a row that it did not answer, nor sent a byte meanwhile.
    """

    def __init__(self) -> None:
        self.misses = 0
        self._quick = 0
        self._idle = False

    @property
    def most(self) -> int:
        """The misses in a row at which it is down."""
        return SURE if self._idle or self._quick >= PROVEN else MOST

    def answered(self, after_s: float, *, working: bool) -> None:
        """A look was answered; `working`: one and the same request was under way all the time."""
        if self.misses or (working and after_s > QUICK_S):
            self._quick = 0
        elif working:
            self._quick += 1
        self.misses = 0

    def missed(self, *, heard: bool, idle: bool) -> bool:
        """A look was not; whether it is down.

        `heard`: bytes have come later than it should have been answered. `idle`: no request was
        under way at its begin, nor at its end.
        """
        if heard:
            self.misses = self._quick = 0
            return False
        if not self.misses:
            self._idle = idle
        self.misses += 1
        return self.misses >= self.most
