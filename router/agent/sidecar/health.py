"""When a server that is only silent counts as down.

A dead server refuses connections, which is seen at once. Of a frozen one the system still accepts
them, and of one that computes a long prompt, too, so only answers tell. It is probed for its models
again and again; log lines call a probe a look. Rules:

- a server that sends tokens lives, whether it answers probes or not;
- vLLM, SGLang and llama.cpp answer from a process or thread of their own, whatever they compute; so
  one that has answered its last `PROVEN` probes at work within `QUICK_S` each is down once it fails
  `QUICK_THRESHOLD` in a row;
- so is one that has nothing to do, as nothing could keep it;
- any other may be one that cannot answer beside a long prompt, or that is short of processor time:
  it is down once it fails `SLOW_THRESHOLD`. Whoever answers late, or again after a failure, is of
  this kind until it has shown otherwise.

Two are the least: one may fail because the sidecar itself was held up.

Must not know: connections, clocks.
"""

from __future__ import annotations

# How long a probe waits, and one that follows a failure: 1.5 s for `QUICK_THRESHOLD` of them, 5 s
# for `SLOW_THRESHOLD`.
PROBE_TIMEOUT_S, REPROBE_TIMEOUT_S = 1.0, 0.5
QUICK_THRESHOLD, SLOW_THRESHOLD = 2, 9
QUICK_S = 0.1
PROVEN = 6


class HealthCheck:
    """Counts probes of one server.

    Attributes:
        failures: probes in a row that it did not answer, nor sent a byte meanwhile.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._quick = 0
        self._idle = False

    @property
    def unhealthy_threshold(self) -> int:
        """The failures in a row at which it is down."""
        return QUICK_THRESHOLD if self._idle or self._quick >= PROVEN else SLOW_THRESHOLD

    def answered(self, after_s: float, *, working: bool) -> None:
        """A probe was answered; `working`: one and the same request was under way all the time."""
        if self.failures or (working and after_s > QUICK_S):
            self._quick = 0
        elif working:
            self._quick += 1
        self.failures = 0

    def failed(self, *, bytes_seen: bool, idle: bool) -> bool:
        """A probe was not answered; whether the server is down.

        `bytes_seen`: some have come later than it should have been answered. `idle`: no request
        was under way at its begin, nor at its end.
        """
        if bytes_seen:
            self.failures = self._quick = 0
            return False
        if not self.failures:
            self._idle = idle
        self.failures += 1
        return self.failures >= self.unhealthy_threshold
