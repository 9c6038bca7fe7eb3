"""Parts of pictures of time: areas of slot-time, where it went in words, marks of what it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from router.lab.pictures.segments import STATES, Segment, State
from router.lab.pictures.svg import (
    Scale,
    box,
    element,
    legend,
    line,
    number,
    percent,
    rounded_up,
    text,
    width_of,
)

WIDTH, LEFT, RIGHT = 1000.0, 64.0, 20.0
KEYS = 62.0  # top of the legend, under title and subtitle
MARKS = 40.0  # room for the labels of makespan and bound over a plot
AXIS = 46.0  # room for ticks and label under it
TICKS = 10  # about so many on the time axis
WORDS: Mapping[State, str] = {
    "prefill": "prefill",
    "decode": "decode",
    "stalled": "stalled by another's prefill",
}

Rectangle = tuple[int, float, float]  # slot, start, end
Shares = Mapping[str, tuple[str, float]]  # words -> class, share of all slot-time


def of_state(parts: Iterable[Segment], state: State) -> Iterable[Rectangle]:
    """The slot-time in one state."""
    return ((part.slot, part.start_s, part.end_s) for part in parts if part.state == state)


def shares(seconds: Mapping[State, float], capacity_s: float, waited_s: float | None) -> Shares:
    """What part of all slot-time went where; idle time told apart where `waited_s` is known."""
    busy = {WORDS[state]: (str(state), seconds[state] / capacity_s) for state in STATES}
    idle = max(1 - sum(seconds.values()) / capacity_s, 0.0)
    if waited_s is None:
        return busy | {"idle": ("plot", idle)}
    queued = waited_s / capacity_s
    none = max(idle - queued, 0.0)
    return busy | {
        "idle, requests queued": ("waiting", queued),
        "idle, none queued": ("plot", none),
    }


def share_legend(parts: Shares) -> list[str]:
    """Rows of a legend that also says each share."""
    entries = [
        (box(0, 0, 16, 10, kind), f"{words} {percent(share)}")
        for words, (kind, share) in parts.items()
    ]
    return legend(entries, LEFT, KEYS, WIDTH - LEFT - RIGHT)


def shares_in_words(parts: Shares) -> str:
    """The shares as a sentence."""
    words = (f"{words} {percent(share)}" for words, (_, share) in parts.items())
    return "Of all slot-time: " + "; ".join(words) + "."


def subtitle(makespan_s: float, bound_s: float | None, used: float) -> str:
    """Makespan, distance from the bound, utilization."""
    words = [f"makespan {makespan_s:,.1f} s", f"utilization {percent(used)}"]
    if bound_s:
        over = makespan_s / bound_s - 1
        words.insert(1, f"{percent(over)} over the lower bound of {bound_s:,.1f} s")
    return ", ".join(words)


def heading(title: str, words: str) -> str:
    """Title and subtitle."""
    return text(LEFT, 26, title, "title") + text(LEFT, 46, words[0].upper() + words[1:], "note")


def time_scale(makespan_s: float, bound_s: float | None, left: float, right: float) -> Scale:
    """From 0 to a round time after makespan and bound."""
    return Scale(0.0, rounded_up(max(makespan_s, bound_s or 0.0), TICKS), left, right)


def marks(time: Scale, top: float, bottom: float, makespan_s: float, bound_s: float | None) -> str:
    """The lower bound, dashed, and the makespan; on two heights, since both may be close."""
    places = [(makespan_s, f"makespan {makespan_s:,.1f} s", "done", "", 24)]
    if bound_s:
        places.append((bound_s, f"lower bound {bound_s:,.1f} s", "bound", "bound", 8))
    parts = []
    for at, words, kind, label, up in places:
        if not time.low <= at <= time.high:
            continue
        x, y = time(at), top - up
        parts += [line(x, y, x, bottom, "halo"), line(x, y, x, bottom, kind)]
        left = x - 10 > width_of(words)  # of the line, unless that has no room
        parts.append(
            text(x - 5 if left else x + 5, y + 4, words, f"{label} end" if left else label)
        )
    return "".join(parts)


def area(
    kind: str,
    rectangles: Iterable[Rectangle],
    time: Scale,
    top: float,
    row: float,
    least: float = 0.0,
) -> str:
    """Slot-time as one path, `row` pixels a slot and at least `least` wide.

    What begins and ends together on neighbouring slots is joined, so that a stage which stalls two
    hundred slots takes a few strokes.
    """
    by_time: dict[tuple[float, float], list[int]] = {}
    for slot, start_s, end_s in rectangles:
        seen = max(start_s, time.low), min(end_s, time.high)
        if seen[0] < seen[1]:
            by_time.setdefault(seen, []).append(slot)
    strokes = []
    for (start_s, end_s), slots in by_time.items():
        x = time(start_s)
        width = number(max(time(end_s) - x, least))
        for first, count in _runs(sorted(slots)):
            y, height = number(top + first * row), number(count * row)
            strokes.append(f"M{number(x)} {y}h{width}v{height}h-{width}z")
    return element("path", d="".join(strokes), class_=kind) if strokes else ""


def _runs(slots: Sequence[int]) -> Iterable[tuple[int, int]]:
    """First and length of each run of consecutive numbers."""
    first, count = slots[0], 0
    for slot in slots:
        if slot != first + count:
            yield first, count
            first, count = slot, 0
        count += 1
    yield first, count


def mean_slots(rectangles: Iterable[Rectangle], bin_s: float, count: int) -> list[float]:
    """How many slots the rectangles hold, averaged over each of the first `count` bins."""
    edge = [0.0] * (count + 1)  # of bins held in part
    step = [0.0] * (count + 1)  # changes of the number of slots that hold a whole bin
    for _, start_s, end_s in rectangles:
        first, last = start_s / bin_s, end_s / bin_s
        i, j = min(int(first), count), min(int(last), count)
        edge[i] -= first - i
        edge[j] += last - j
        step[i] += 1
        step[j] -= 1
    return [part + whole for part, whole in zip(edge, accumulate(step), strict=True)][:count]


def staircase(
    kind: str, levels: Sequence[float], left: float, bin_px: float, base: float, unit: float
) -> str:
    """A filled staircase over `base`, `unit` pixels a slot."""
    strokes, before = [f"M{number(left)} {number(base)}"], number(base)
    for index, level in enumerate(levels):
        y = number(base - level * unit)
        if y != before:
            strokes.append(f"H{number(left + index * bin_px)}V{y}")
            before = y
    strokes.append(f"H{number(left + len(levels) * bin_px)}V{number(base)}z")
    return element("path", d="".join(strokes), class_=kind)
