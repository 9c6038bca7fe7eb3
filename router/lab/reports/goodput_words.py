"""Who keeps how many targets at which load, in words and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from router.lab.pictures.svg import figure, percent
from router.lab.reports.words import NBSP
from router.lab.simulation.goodput import ENOUGH, Answer, Found, answers, load_of
from router.lab.simulation.runs import by_kind, count, kind_name


def in_short(found: Found) -> Iterator[tuple[str, str]]:
    """The answer for each policy and dispatcher, the bound, and how it was found."""
    runs = found.runs
    yield (
        "Asked",
        f"how much load {count(runs[0].workers)} take while {ENOUGH:.0%} of the requests keep both "
        f"targets; a load of {_load(100)} is {_rate(found, 100)}.",
    )
    for answer in answers(runs):
        yield kind_name(answer.runs[0], runs), _words(found, answer)
    top = max(found.bounds)
    most = f"at most {percent(found.bounds[top])} can keep them at {_load(top)}"
    yield "Whoever routes", f"{most}: no order, placement or iterations let more."
    loads = ", ".join(map(str, sorted(found.bounds)))
    yield "Simulated", f"loads of {loads}{NBSP}%, {len(runs)} runs in all."


def _words(found: Found, answer: Answer) -> str:
    if answer.kept is None:
        least = answer.runs[0]
        share = percent(least.goodput)
        return f"at no load that was simulated; at {_load(load_of(least))}, {share} do."
    load = load_of(answer.kept)
    kept, most = percent(answer.kept.goodput), percent(found.bounds[load])
    words = f"up to {_load(load)}, {_rate(found, load)}: {kept} do there, and at most {most} could"
    if answer.missed is None:
        return f"{words}. More was not asked for, and may do."
    return f"{words}; at {_load(load_of(answer.missed))} it is {percent(answer.missed.goodput)}."


def _load(load: int) -> str:
    return f"{load}{NBSP}%"


def _rate(found: Found, load: int) -> str:
    return f"{figure(found.rate(load))}{NBSP}requests/s"


def rows(found: Found) -> list[str]:
    """A table: a row a load, a column a policy and dispatcher, and the bound."""
    kinds = by_kind(found.runs)
    names = [kind_name(ours[0], found.runs) for ours in kinds.values()]
    heads = "".join(f"{name:>{_width(name)}}" for name in names)
    lines = [f"{'load':>7}{'requests/s':>12}{'bound':>10}{heads}"]
    for load, bound in sorted(found.bounds.items()):
        cells = [
            next((f"{run.goodput:.2%}" for run in ours if run.load == load), "")
            for ours in kinds.values()
        ]
        shown = "".join(f"{cell:>{_width(name)}}" for cell, name in zip(cells, names, strict=True))
        lines.append(f"{load:>5} %{found.rate(load):>12.3f}{bound:>10.2%}{shown}".rstrip())
    return lines


def _width(name: str) -> int:
    return max(len(name), len("100.00%")) + 2
