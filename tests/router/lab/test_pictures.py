"""Pictures show the schedule they are made from, and nothing but; a report needs only itself."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.lab.pictures.charts import Bar, Series, bars, lines_chart
from router.lab.pictures.gantt import fleet_gantt, gantt
from router.lab.pictures.segments import (
    Segment,
    State,
    held,
    queued,
    segments,
    slot_seconds,
    utilization,
    waiting,
)
from router.lab.pictures.svg import log_ticks, rounded_up, ticks
from router.lab.pictures.timeline import mean_slots, of_state
from router.lab.reports.report import Run, Traffic, report
from router.lab.reports.words import summary
from router.lab.simulation.runs import ordered
from router.look.palette import COLOURS, DARK, LIGHT
from solver.cost.model import Action
from solver.sim.report import QUARTERS
from solver.sim.schedule import ScheduleLine

NASTY = "a<b> & \"c\" 'd' </svg><script>alert(1)</script>"
SVG = "{http://www.w3.org/2000/svg}"

Load = Sequence[tuple[int, int]]  # prompt and output tokens


def line(
    start_s: float,
    end_s: float,
    prefill: Mapping[str, int] | None = None,
    decode: Sequence[str] = (),
    slots: Mapping[str, int] | None = None,
    worker: str = "w",
) -> ScheduleLine:
    """A line whose requests are on the slots that end their names, unless told otherwise."""
    prefill = prefill or {}
    kind = Action.MIXED if prefill and decode else Action.PREFILL if prefill else Action.DECODE
    slots = slots or {name: int(name[1:]) for name in (*prefill, *decode)}
    return ScheduleLine(worker, kind, start_s, end_s, 1, prefill, tuple(decode), slots, {})


def schedule(load: Load, slots: int, least: int = 1, worker: str = "w") -> list[ScheduleLine]:
    """Prefill once `least` slots are free, else decode until one is."""
    queue = [(f"{worker}{index}", *tokens) for index, tokens in enumerate(load)]
    free, left, at = list(range(slots)), dict[str, int](), dict[str, int]()
    lines, now = [], 0.0
    while queue or left:
        if queue and (len(free) >= min(least, len(queue)) or not left):
            batch, queue = queue[: len(free)], queue[len(free) :]
            for name, _, output in batch:
                left[name], at[name] = output, free.pop(0)
            took_s = 0.025 + 0.00013 * sum(prompt for _, prompt, _ in batch)
            prompts = {name: prompt for name, prompt, _ in batch}
            place = {name: at[name] for name in prompts}
            lines.append(
                ScheduleLine(worker, Action.PREFILL, now, now + took_s, 1, prompts, (), place, {})
            )
        else:
            rounds = min(left.values())
            took_s = rounds * (0.029 + 0.00021 * len(left))
            place = {name: at[name] for name in left}
            lines.append(
                ScheduleLine(
                    worker, Action.DECODE, now, now + took_s, rounds, {}, tuple(left), place, {}
                )
            )
            left = {name: tokens - rounds for name, tokens in left.items()}
            free += [at[name] for name, tokens in left.items() if not tokens]
            left = {name: tokens for name, tokens in left.items() if tokens}
        now += took_s
    return lines


def counted(lines: Sequence[ScheduleLine]) -> dict[State, float]:
    """Slot-seconds by state, stage by stage: who holds a slot, and who takes part."""
    ends = {name: line.end_s for line in lines for name in (*line.prefill, *line.decode)}
    begins: dict[str, float] = {}
    for each in lines:
        for name in each.prefill:
            begins.setdefault(name, each.start_s)
    seconds: dict[State, float] = {"prefill": 0.0, "decode": 0.0, "stalled": 0.0}
    for each in lines:
        took_s = each.end_s - each.start_s
        holders = sum(begins[n] <= each.start_s and each.end_s <= ends[n] for n in begins)
        seconds["prefill"] += took_s * len(each.prefill)
        seconds["decode"] += took_s * len(each.decode)
        seconds["stalled"] += took_s * (holders - len(each.prefill) - len(each.decode))
    return seconds


loads = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 60)), min_size=1, max_size=25)


@given(load=loads, slots=st.integers(1, 9), least=st.integers(1, 9))
def test_segments_hold_all_of_a_schedules_slot_time(load: Load, slots: int, least: int) -> None:
    lines = schedule(load, slots, least)
    parts = segments(lines, slots)
    expected = counted(lines)
    assert slot_seconds(parts) == pytest.approx(expected)
    makespan_s = lines[-1].end_s
    useful = expected["prefill"] + expected["decode"]
    assert utilization(parts, slots, makespan_s) == pytest.approx(useful / slots / makespan_s)


@given(load=loads, slots=st.integers(1, 9), least=st.integers(1, 9))
def test_no_slot_is_in_two_states(load: Load, slots: int, least: int) -> None:
    parts = segments(schedule(load, slots, least), slots)
    for one, other in pairwise(parts):
        assert one.start_s < one.end_s
        assert one.slot < other.slot or one.end_s <= other.start_s


@given(load=loads, slots=st.integers(1, 9), least=st.integers(1, 9))
def test_the_drawing_covers_the_time_of_each_state(load: Load, slots: int, least: int) -> None:
    lines = schedule(load, slots, least)
    bound_s = 0.9 * lines[-1].end_s
    drawn = areas(gantt(lines, slots=slots, title="t", bound_s=bound_s))
    expected = counted(lines)
    row = max(1, min(16, 400 // slots))
    second = 916 / rounded_up(lines[-1].end_s, 10) * row  # square pixels of a slot-second
    # Coordinates are rounded to a hundredth of a pixel, which the many short stages notice.
    rounding = 0.01 * row * slots * len(lines)
    assert drawn["stalled"] == pytest.approx(expected["stalled"] * second, abs=rounding)
    assert drawn["decode"] == pytest.approx(sum(expected.values()) * second, abs=rounding)
    assert drawn["prefill"] >= expected["prefill"] * second - rounding


def areas(svg: str) -> dict[str, float]:
    """Square pixels of the rectangles of each class of path."""
    sums: defaultdict[str, float] = defaultdict(float)
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        for width, height in re.findall(r"h([\d.]+)v([\d.]+)h-", path.attrib["d"]):
            sums[path.attrib.get("class", "")] += float(width) * float(height)
    return sums


@given(
    spans=st.lists(st.tuples(st.floats(0, 90), st.floats(0.001, 10)), max_size=20),
    count=st.integers(1, 60),
)
def test_strips_of_a_fleet_keep_the_slot_time(spans: list[tuple[float, float]], count: int) -> None:
    rectangles = [(0, start_s, start_s + took_s) for start_s, took_s in spans]
    bin_s = 100 / count
    levels = mean_slots(rectangles, bin_s, count)
    assert len(levels) == count
    assert sum(levels) * bin_s == pytest.approx(sum(took_s for _, took_s in spans), abs=1e-9)
    assert all(level >= -1e-9 for level in levels)


def test_a_request_stalls_where_it_takes_no_part() -> None:
    lines = [
        line(0, 1, {"r0": 10}),
        line(1, 3, decode=["r0"]),
        line(3, 4, {"r1": 10}),
        line(4, 6, decode=["r0", "r1"]),
        line(6, 7, decode=["r1"]),
    ]
    assert segments(lines, 2) == [
        Segment(0, "prefill", 0, 1),
        Segment(0, "decode", 1, 3),
        Segment(0, "stalled", 3, 4),
        Segment(0, "decode", 4, 6),
        Segment(1, "prefill", 3, 4),
        Segment(1, "decode", 4, 7),
    ]
    assert list(held(segments(lines, 2))) == [(0, 0, 6), (1, 3, 7)]


def test_one_iteration_may_prefill_and_decode() -> None:
    lines = [line(0, 1, {"r0": 10}), line(1, 2, {"r1": 5}, ["r0"]), line(2, 3, {"r1": 5}, ["r0"])]
    assert segments(lines, 2) == [
        Segment(0, "prefill", 0, 1),
        Segment(0, "decode", 1, 3),
        Segment(1, "prefill", 1, 3),
    ]


def test_a_preempted_request_leaves_a_gap() -> None:
    lines = [
        line(0, 1, {"r0": 10}),
        line(1, 2, decode=["r0"]),
        line(2, 3, {"r1": 10}),
        line(3, 4, decode=["r1"]),
        line(4, 5, {"r0": 11}),
        line(5, 6, decode=["r0"]),
    ]
    of_first = [part for part in segments(lines, 2) if part.slot == 0]
    assert [(part.state, part.start_s, part.end_s) for part in of_first] == [
        ("prefill", 0, 1),
        ("decode", 1, 2),
        ("prefill", 4, 5),
        ("decode", 5, 6),
    ]


def test_idle_time_waits_only_while_requests_are_queued() -> None:
    lines = [line(0, 1, {"r0": 10}), line(1, 9, decode=["r0"]), line(9, 10, {"r1": 10})]
    spans = queued(lines, {"r0": 0.0, "r1": 4.0})
    assert spans == [(4.0, 9)]
    assert list(waiting(segments(lines, 2), 2, spans)) == [(1, 4.0, 9)]
    svg = gantt(lines, slots=2, title="t", arrivals={"r0": 0.0, "r1": 4.0})
    assert "idle, requests queued 25.0" in svg


def test_a_big_schedule_makes_a_small_picture() -> None:
    load = [(20 + index * 37 % 120, 40 + index * 211 % 472) for index in range(800)]
    lines = schedule(load, 200)
    svg = gantt(lines, slots=200, title="t")
    assert len(lines) > 1000
    assert len(svg) < 500_000
    assert len(list(of_state(segments(lines, 200), "stalled"))) > 0


def test_pictures_are_well_formed_whatever_the_names() -> None:
    lines = schedule([(50, 9), (60, 20), (70, 5)], 2, worker=NASTY)
    pictures = (
        gantt(lines, slots=2, title=NASTY, bound_s=0.5),
        gantt(lines, slots=2, title=NASTY, zoom_s=(0.1, 0.3)),
        fleet_gantt(lines, {NASTY: 2, "idle": 4}, title=NASTY, bound_s=0.5),
        chart([Series(NASTY, [(0, 1), (1, 2)], key=NASTY, marked=True)]),
        bars([Bar(NASTY, 2.0, 1.0)], x_label=NASTY, title=NASTY),
    )
    for svg in pictures:
        root = ElementTree.fromstring(svg)
        assert NASTY in (root.findtext(f"{SVG}title") or "")
        assert root.findtext(f"{SVG}desc")
        assert not list(root.iter(f"{SVG}script"))
        only_itself(svg)


def chart(series: Sequence[Series]) -> str:
    return lines_chart(series, x_label=NASTY, y_label=NASTY, title=NASTY)


def only_itself(page: str) -> None:
    """Nothing that a browser would fetch."""
    rest = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\b(src|href)=", rest)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no lines"):
        gantt([], slots=2, title="t")
    with pytest.raises(ValueError, match="no lines"):
        fleet_gantt([], {"w": 2}, title="t")
    with pytest.raises(ValueError, match="no series"):
        chart([])
    with pytest.raises(ValueError, match="no bars"):
        bars([], x_label="s", title="t")
    with pytest.raises(ValueError, match="at least one run"):
        report("t", [], traffic=TRAFFIC, settings={}, command="c")


def test_a_picture_names_what_does_not_fit() -> None:
    lines = [line(0, 1, {"r0": 10}), line(0, 1, {"s1": 10}, worker="v")]
    with pytest.raises(ValueError, match=r"several workers \(v, w\)"):
        gantt(lines, slots=2, title="t")
    with pytest.raises(ValueError, match="no lines of worker 'x'"):
        gantt(lines, slots=2, title="t", worker="x")
    with pytest.raises(ValueError, match="slot 1 at 0 s, but the worker has 1 slots"):
        gantt(lines, slots=1, title="t", worker="v")
    with pytest.raises(ValueError, match="worker 'v', who is not named"):
        fleet_gantt(lines, {"w": 2}, title="t")
    with pytest.raises(ValueError, match="65 workers are too many"):
        fleet_gantt(lines, {str(index): 2 for index in range(65)}, title="t")


@given(low=st.floats(0, 1e5), span=st.floats(1e-3, 1e5), count=st.integers(3, 12))
def test_ticks_are_few_round_and_inside(low: float, span: float, count: int) -> None:
    values = ticks(low, low + span, count)
    assert 1 <= len(values) <= count + 2
    slack = 1e-6 * (low + span)
    assert all(low - slack <= value <= low + span + slack for value in values)
    assert values == sorted(set(values))


def test_ticks_of_a_logarithmic_axis() -> None:
    assert log_ticks(0.5, 20) == pytest.approx([0.5, 1, 2, 5, 10, 20])
    assert log_ticks(1, 1e5) == pytest.approx([1, 10, 100, 1000, 1e4, 1e5])


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_stand_out(palette: Mapping[str, str]) -> None:
    for ground in ("surface", "plot"):
        assert contrast(palette["ink"], palette[ground]) >= 4.5
        assert contrast(palette["c2"], palette[ground]) >= 4.5  # the best, in bold, in tables
        for name in ("prefill", "decode", "bound"):
            assert contrast(palette[name], palette[ground]) >= 3
    assert contrast(palette["muted"], palette["surface"]) >= 4.5
    assert contrast(palette["stalled"], palette["decode"]) >= 2
    for index in range(COLOURS):
        assert contrast(palette[f"c{index}"], palette["surface"]) >= 3


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours."""
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


TRAFFIC = Traffic(NASTY, 1319, 90_258, 454_838)
LATENCY = {"mean": 1.0, "p50": 0.9, "p95": 2.0, "p99": 3.0}


def run(policy: str, workers: int = 1, makespan_s: float = 100.0, p99: float = 3.0) -> Run:
    bound_s = 90.0 / workers
    return Run(
        policy=policy,
        dispatch="round-robin",
        workers=workers,
        makespan_s=makespan_s,
        lower_bound_s=bound_s,
        gap_ratio=makespan_s / bound_s - 1,
        utilization=80.0 / makespan_s,
        generation_tokens_per_s=1e5 / makespan_s,
        ttft_s=LATENCY | {"p99": p99},
        e2e_s=LATENCY,
        tpot_s={name: value / 100 for name, value in LATENCY.items()},
        stall_s=LATENCY,
        goodput=0.97,
        service_by_length={q: {"e2e_s": 1.0, "service_ratio": 0.9} for q in QUARTERS},
        ttft_curve=[0.5, 0.9, 2.0, p99],
        requests=1319,
        arrivals_s=0.0,
        prefill_stages=20,
        decode_rounds=900,
        mixed_iterations=0,
        cache_hit_ratio=0.0,
        preemptions=0,
        slot_seconds={},
        prompt_tokens=90_258,
        output_tokens=454_838,
        tenants={},
        largest_difference_slot_s=0.0,
        jain_index=1.0,
    )


def page(runs: Sequence[Run]) -> str:
    return report(NASTY, runs, traffic=TRAFFIC, settings={NASTY: NASTY}, command=f"x {NASTY}")


class Outline(HTMLParser):
    """The open elements, checked to close in order, and a list of all."""

    VOID = frozenset({"meta", "br", "input", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        # HTML ignores the slash: only void elements and those within an SVG may carry it.
        assert tag in self.VOID or "svg" in self.open, f"<{tag}/>"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.words.append(data)


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return parser


REPLAYS = {
    "one": [run("only")],
    "timed": [replace(run(f"p{index}", n), arrivals_s=80.0) for index in (0, 1) for n in (1, 4)],
    "two": [run("base"), run("better", makespan_s=95.0)],
    "many": [run(f"p{index}", n, (100.0 + index) / n) for index in range(9) for n in (1, 2, 16)],
    "unknown": [replace(run("unknown"), ttft_s={}, ttft_curve=[], e2e_s={"p99": float("nan")})],
}


@pytest.mark.parametrize("runs", REPLAYS.values(), ids=REPLAYS.keys())
def test_a_report_needs_nothing_else(runs: list[Run]) -> None:
    html = page(runs)
    seen = outline(html)
    only_itself(html.replace("default-src", ""))
    assert [tag for tag, _ in seen.seen].count("script") == 1  # none came in by a name
    assert NASTY in "".join(seen.words)
    assert len(html) < 1_000_000


def test_a_report_shows_the_schedules_given() -> None:
    lines = schedule([(50, 9), (60, 20), (70, 5)], 2)
    drawn = gantt(lines, slots=2, title="the schedule")
    html = page([run("base"), replace(run("drawn"), gantt_svg=drawn)])
    assert html.count(drawn) == 1
    assert "Schedules" in outline(html).words


def test_the_summary_compares_runs_on_as_many_workers() -> None:
    runs = [
        run("base", 1, 100.0, p99=3.0),
        run("quick", 1, 90.9, p99=4.0),
        run("base", 2, 50.0),
        run("quick", 2, 46.0),
    ]
    said = {lead: words.replace("\N{NO-BREAK SPACE}", " ") for lead, words in summary(runs)}
    assert said["1 worker"] == (
        "quick finishes soonest, in 90.9 s, 1.0 % over the lower bound of 90.0 s. "
        "The baseline, base, takes 100.0 s, 10.0 % longer. "
        "The best p99 time to first token is 3.00 s, with base, against 4.00 s."
    )
    assert said["2 workers"].startswith("quick finishes soonest, in 46.0 s, 2.2 % over")
    assert said["1 to 2 workers"].endswith("2 times the workers, 2.0 times the speed.")


def timed(
    policy: str, makespan_s: float, goodput: float, e2e_s: Mapping[str, float] = LATENCY
) -> Run:
    """Its last request comes near the end of what no schedule beats."""
    one = run(policy, 1, makespan_s)
    return replace(one, arrivals_s=80.0, goodput=goodput, e2e_s=e2e_s)


def test_of_a_timed_trace_the_makespan_ranks_nobody() -> None:
    """The first is done soonest; the second keeps more targets, the third as many, and quicker."""
    runs = [
        timed("soon", 91.0, 0.80),
        timed("kept", 95.0, 0.97),
        timed("quick", 99.0, 0.9699, {"p50": 0.7, "p99": 2.5}),  # shown as 97.0 %, too
    ]
    assert [each.policy for each in ordered(runs)] == ["quick", "kept", "soon"]
    ((_, said),) = summary(runs)
    assert said.replace("\N{NO-BREAK SPACE}", " ") == (
        "quick serves best: with 97.0 % goodput, end to end p50 0.700 s and p99 2.50 s, "
        "first token p99 3.00 s. The baseline, soon, has 80.0 % goodput, end to end p50 0.900 s "
        "and p99 3.00 s, first token p99 3.00 s. Requests came for 80.0 s of the 90.0 s that no "
        "schedule beats: the makespan follows the trace's own length, and ranks nobody."
    )
    html = page(runs)
    heads = re.findall("<h2>(.*?)</h2>", html)
    assert "Goodput and latency" in heads
    assert "Makespan" not in heads
    bars = re.findall(r"<title>Goodput</title>.*?</svg>", html, re.DOTALL)[0]
    assert bars.index("quick") < bars.index("kept") < bars.index("soon")
    table = html.split("<table>")[1].split("</table>")[0]
    marked = re.findall(r"<strong>([^<]*)<span class=\"unseen\"> \(best\)", table)
    assert set(marked) == {"97.0\N{NO-BREAK SPACE}%", "0.700", "2.50"}


@pytest.mark.parametrize(
    ("share", "timed"), [(0.0, False), (0.05, False), (0.1, False), (0.11, True), (0.99, True)]
)
def test_a_burst_comes_within_a_tenth_of_what_it_takes(share: float, timed: bool) -> None:
    one = replace(run("p"), arrivals_s=share * 90.0)
    assert one.timed is timed
    assert one.ranked_by == ("goodput, then latency" if timed else "makespan")


def test_a_trace_may_be_a_burst_for_few_workers_and_timed_for_many() -> None:
    runs = [replace(run(name, n, 100.0 / n), arrivals_s=8.0) for name in "ab" for n in (1, 16)]
    heads = re.findall("<h2>(.*?)</h2>", page(runs))
    assert {"Goodput and latency", "Makespan"} <= set(heads)
    said = dict(summary(runs))
    assert "over the lower bound" in said["1 worker"]
    assert "ranks nobody" in said["16 workers"]


def test_the_summary_ranks_no_equals() -> None:
    ((_, said),) = summary([run("one"), run("other")])
    assert said.startswith("one and 1 more finish in 100.0")
    assert "longer" not in said


def test_the_best_of_a_column_is_marked_among_peers() -> None:
    runs = [run("base", 1, 100.0), run("quick", 1, 91.0), run("base", 2, 47.0), run("quick", 2, 50)]
    table = page(runs).split("<table>")[1].split("</table>")[0]
    rows = re.findall(r"<tr><td data-value.*?</tr>", table)
    best = [re.sub("<.*?>", "", cell) for row in rows for cell in re.findall("<td.*?</td>", row)]
    marked = [cell.removesuffix(" (best)") for cell in best if cell.endswith("(best)")]
    assert "91.0" in marked
    assert "47.0" in marked
    assert "50.0" not in marked
    assert not {"3.00"} & set(marked)  # the same for all


def test_every_column_can_be_sorted_from_the_keyboard() -> None:
    seen = outline(page([run("base"), run("better", makespan_s=95.0)])).seen
    heads = [attributes for tag, attributes in seen if tag == "th" and "aria-sort" in attributes]
    buttons = [attributes for tag, attributes in seen if tag == "button"]
    sorting = [each for each in buttons if (each.get("aria-label") or "").startswith("Sort by")]
    assert len(heads) == len(sorting) > 10
    assert {each["aria-sort"] for each in heads} == {"none"}


def test_many_curves_begin_with_few() -> None:
    runs = [run(f"p{index}", n, (100.0 + index) / n) for index in range(9) for n in (1, 2)]
    boxes = [attributes for tag, attributes in outline(page(runs)).seen if tag == "input"]
    shown = {each["value"] for each in boxes if "checked" in each}
    assert len({each["value"] for each in boxes}) == 9
    assert shown == {"kind0"}  # the baseline, which is also the best here
