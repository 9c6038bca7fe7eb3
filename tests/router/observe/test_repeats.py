"""Whatever others do, and however often: it is said, counted, and fills no disk."""

from __future__ import annotations

import logging

import pytest

from router.observe import repeats
from router.observe.repeats import EVERY_S, Repeats

WARNING = logging.WARNING


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said(clock: Clock) -> Repeats:
    return Repeats(logging.getLogger("test"), clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object, object]]:
    found = [
        (one.message, getattr(one, "who", None), getattr(one, "times", 1)) for one in caplog.records
    ]
    caplog.clear()
    return found


def test_it_is_said_once_and_then_counted(
    said: Repeats, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for k in range(1000):
        clock.now = k * 0.125
        said.say(WARNING, "bad", "a", {"who": "a"})
    assert lines(caplog) == [("bad", "a", 1), ("bad", "a", 480), ("bad", "a", 480)]
    clock.now += 2 * EVERY_S
    said.say(WARNING, "bad", "a", {"who": "a"})
    assert lines(caplog) == [("bad", "a", 40)]


def test_of_each_and_of_each_kind(said: Repeats, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        for who in "ab":
            for what in ("bad", "worse"):
                said.say(WARNING, what, who, {"who": who})
    assert sorted(lines(caplog)) == [
        ("bad", "a", 1),
        ("bad", "b", 1),
        ("worse", "a", 1),
        ("worse", "b", 1),
    ]


def test_what_is_new_each_time_is_said_some_times(
    said: Repeats, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        for k in range(50):
            said.say(WARNING, "bad", "a", {"who": k}, most=3)
        clock.now += EVERY_S
    firsts = [("bad", 0, 48), ("bad", 1, 1), ("bad", 2, 1)]
    assert lines(caplog) == [("bad", 0, 1), *firsts[1:], *firsts]


def test_no_more_are_remembered_than_are_of_use(
    said: Repeats, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "REMEMBERED", 10)
    for k in range(100):
        said.say(WARNING, "bad", "always", {"who": "always"})
        said.say(WARNING, "bad", str(k), {"who": k})
    assert len(said._said) == 10
    assert len(lines(caplog)) == 101
