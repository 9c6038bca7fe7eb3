"""Pictures of a schedule: one worker slot by slot, or a fleet in strips.

Both are drawn from the schedule's lines alone. Time that is too short for a pixel still shows by
its share of the pixel's colour; only prefills, where requests begin, are widened to a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.lab.pictures.segments import (
    STATES,
    Segment,
    held,
    queued,
    segments,
    slot_seconds,
    utilization,
    waiting,
)
from router.lab.pictures.svg import (
    ROW,
    Scale,
    box,
    element,
    number,
    percent,
    picture,
    rounded_up,
    text,
    tick_label,
    width_of,
    x_axis,
)
from router.lab.pictures.timeline import (
    AXIS,
    KEYS,
    LEFT,
    MARKS,
    RIGHT,
    TICKS,
    WIDTH,
    area,
    heading,
    marks,
    mean_slots,
    of_state,
    share_legend,
    shares,
    shares_in_words,
    staircase,
    subtitle,
    time_scale,
)
from solver.sim.schedule import ScheduleLine

MOST_WORKERS = 64
BIN = 2.0  # pixels of a fleet's strip over which slots are averaged
CUT = "\N{HORIZONTAL ELLIPSIS}"


def gantt(
    lines: Sequence[ScheduleLine],
    *,
    slots: int,
    title: str,
    worker: str | None = None,
    bound_s: float | None = None,
    arrivals: Mapping[str, float] | None = None,
    zoom_s: tuple[float, float] | None = None,
) -> str:
    """What each slot of one worker did when, as an SVG file.

    Args:
        lines: the schedule; the makespan is that of all its workers.
        slots: how many the worker has.
        title: first words of the heading.
        worker: whose lines to draw; may be left out where there is only one.
        bound_s: a lower bound of the makespan, marked if given.
        arrivals: when each request came. Given these, idle time with requests queued is told from
            idle time with none.
        zoom_s: draw only from here to there; the figures in words stay those of the whole.

    Raises:
        ValueError: nothing to draw, or not clear which worker's.
    """
    own, makespan_s = _lines_of(lines, worker), _makespan(lines)
    parts = segments(own, slots)
    waits = list(waiting(parts, slots, queued(own, arrivals))) if arrivals else []
    time = time_scale(makespan_s, bound_s, LEFT, WIDTH - RIGHT)
    if zoom_s:
        time = Scale(*zoom_s, time.start, time.end)
    waited_s = sum(end_s - start_s for _, start_s, end_s in waits) if arrivals else None
    went = shares(slot_seconds(parts), slots * makespan_s, waited_s)
    keys = share_legend(went)
    row = float(max(1, min(16, 400 // slots)))
    top = KEYS + ROW * len(keys) + MARKS
    bottom = top + row * slots
    words = subtitle(makespan_s, bound_s, utilization(parts, slots, makespan_s))
    return picture(
        WIDTH,
        bottom + AXIS,
        f"{title}: {words}",
        f"Time runs to the right, one row for each of {slots} slots. {shares_in_words(went)}",
        heading(title, words),
        *keys,
        box(LEFT, top, WIDTH - LEFT - RIGHT, bottom - top, "plot"),
        x_axis(time, top, bottom, "time, s", time.ticks(TICKS)),
        area("waiting", waits, time, top, row),
        # Decoding is painted under the rest, all along a request: at the edge between two areas the
        # background would shine through, and stages are far shorter than a pixel.
        area("decode", held(parts), time, top, row),
        area("stalled", of_state(parts, "stalled"), time, top, row),
        area("prefill", of_state(parts, "prefill"), time, top, row, least=1.0),
        _separators(slots, top, row),
        _slot_axis(slots, top, row),
        marks(time, top, bottom, makespan_s, bound_s),
    )


def fleet_gantt(
    lines: Sequence[ScheduleLine],
    workers: Mapping[str, int],
    *,
    title: str,
    bound_s: float | None = None,
) -> str:
    """How many slots of each worker were in which state when, as an SVG file of one strip each.

    Args:
        lines: the schedule.
        workers: slots of each worker, in the order to draw them; at most 64.
        title: first words of the heading.
        bound_s: a lower bound of the makespan, marked if given.

    Raises:
        ValueError: nothing to draw, too many workers, or lines of a worker that is not named.
    """
    own, makespan_s = _by_worker(lines, workers), _makespan(lines)
    parts = {name: segments(own[name], slots) for name, slots in workers.items()}
    slots = sum(workers.values())
    seconds = slot_seconds(segment for one in parts.values() for segment in one)
    went = shares(seconds, slots * makespan_s, None)
    keys = share_legend(went)
    time = time_scale(makespan_s, bound_s, 120.0, WIDTH - 60)
    top = KEYS + ROW * len(keys) + MARKS
    height = float(max(14, min(56, 640 // len(workers))))
    pitch = height + (2 if height < 30 else 6)
    bottom = top + pitch * len(workers)
    used = (seconds["prefill"] + seconds["decode"]) / (slots * makespan_s)
    words = subtitle(makespan_s, bound_s, used)
    return picture(
        WIDTH,
        bottom + AXIS,
        f"{title}: {words}",
        f"Time runs to the right, one strip for each of {len(workers)} workers. "
        f"{shares_in_words(went)}",
        heading(title, words),
        *keys,
        x_axis(time, top, bottom, "time, s", time.ticks(TICKS)),
        *(
            _strip(parts[name], workers[name], time, top + index * pitch, height)
            + _strip_words(
                name,
                utilization(parts[name], workers[name], makespan_s),
                time,
                top + index * pitch + height / 2 + 4,
            )
            for index, name in enumerate(workers)
        ),
        marks(time, top, bottom, makespan_s, bound_s),
    )


def _lines_of(lines: Sequence[ScheduleLine], worker: str | None) -> list[ScheduleLine]:
    if not lines:
        raise ValueError("the schedule has no lines: there is nothing to draw")
    names = sorted({line.worker for line in lines})
    if worker is None and len(names) > 1:
        raise ValueError(f"the schedule has several workers ({', '.join(names)}): name one")
    own = [line for line in lines if worker in (None, line.worker)]
    if not own:
        raise ValueError(f"the schedule has no lines of worker {worker!r}")
    return own


def _by_worker(
    lines: Sequence[ScheduleLine], workers: Mapping[str, int]
) -> dict[str, list[ScheduleLine]]:
    if not lines or not workers:
        raise ValueError("the schedule has no lines or no workers: there is nothing to draw")
    if len(workers) > MOST_WORKERS:
        raise ValueError(f"{len(workers)} workers are too many to draw; at most {MOST_WORKERS}")
    own: dict[str, list[ScheduleLine]] = {name: [] for name in workers}
    for line in lines:
        if line.worker not in own:
            raise ValueError(f"the schedule has lines of worker {line.worker!r}, who is not named")
        own[line.worker].append(line)
    return own


def _makespan(lines: Sequence[ScheduleLine]) -> float:
    makespan_s = max(line.end_s for line in lines)
    if makespan_s <= 0:
        raise ValueError("the schedule takes no time: there is nothing to draw")
    return makespan_s


def _separators(slots: int, top: float, row: float) -> str:
    """Fine lines between rows, where rows are high enough to lose a pixel."""
    if row < 6:
        return ""
    across = f"H{number(WIDTH - RIGHT)}"
    strokes = (f"M{number(LEFT)} {number(top + slot * row)}{across}" for slot in range(1, slots))
    return element("path", d="".join(strokes), stroke="var(--surface)", fill="none")


def _slot_axis(slots: int, top: float, row: float) -> str:
    every = max(1, int(rounded_up(max(slots / 5, 14 / row), 1)))
    numbers = [
        text(LEFT - 6, top + (slot + 0.5) * row + 4, tick_label(slot), "tick end")
        for slot in range(0, slots, every)
    ]
    middle = top + slots * row / 2
    turned = f"rotate(-90 14 {number(middle)})"
    return "".join(numbers) + text(14, middle + 4, "slot", "note middle", transform=turned)


def _strip(parts: Sequence[Segment], slots: int, time: Scale, top: float, height: float) -> str:
    """One worker of a fleet: its busy slots over time, stacked by state; full height is all."""
    width = time.end - time.start
    count = int(width / BIN)
    bin_s = (time.high - time.low) / count
    prefill, decode, stalled = (
        mean_slots(of_state(parts, state), bin_s, count) for state in STATES
    )
    started = [sum(both) for both in zip(prefill, decode, strict=True)]
    taken = [sum(both) for both in zip(started, stalled, strict=True)]
    stack = {"stalled": taken, "prefill": started, "decode": decode}  # painted back to front
    return box(time.start, top, width, height, "plot") + "".join(
        staircase(kind, levels, time.start, BIN, top + height, height / slots)
        for kind, levels in stack.items()
    )


def _strip_words(name: str, used: float, time: Scale, baseline: float) -> str:
    """The worker's name, cut to fit, and its utilization, on either side of its strip."""
    label = name
    while width_of(label) > time.start - 12:
        label = label.rstrip(CUT)[:-1] + CUT
    return text(time.start - 6, baseline, label, "tick end") + text(
        time.end + 6, baseline, percent(used), "tick"
    )
