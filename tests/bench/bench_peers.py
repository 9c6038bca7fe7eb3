"""Makespan and other routers, live: the same requests through each, to the same emulated engines.

Each run starts four agents on emulated engines (a calibrated profile, `mixed`), one router as
people would set it up, and an open-loop client that does not know how long answers will be. Runs
take turns: all routers once, then all again. What a router needs is looked for on this machine, or
else fetched by its name into a cache folder; who cannot be had is left out, with a line that says
so. Told are medians and, in brackets, the least and the most of all repetitions; `level` means that
these ranges meet. Goodput is the share of requests that keep the default targets.

Engines take real time: let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from tqdm import tqdm

from solver.errors import ProblemError
from tests.bench.peers.figures import report
from tests.bench.peers.packages import NotHadError, program
from tests.bench.peers.records import RecordError, keep, recorded
from tests.bench.peers.routers import ROUTERS, Router
from tests.bench.peers.runs import Run, run
from tests.bench.peers.traffic import SITUATIONS, Setting
from tests.helpers import ROOT
from tests.readme import marks

PAGE = ROOT / "tests/bench/README.md"
TABLES = "peers"  # what the marks in the page are called
# By name only: each does nearly what another of the same kind does.
UNUSUAL = ("sglang-round-robin", "haproxy")


def measured(
    setting: Setting, situations: Sequence[str], routers: Sequence[str], repetitions: int
) -> Iterator[Run]:
    """All runs, in turn."""
    had = available(routers)
    kinds = [pair for pair in product(situations, had) if fits(had[pair[1]], pair[0])]
    asks = {name: SITUATIONS[name].asks(setting) for name in situations}
    for situation, router in tqdm(kinds * repetitions, "runs", disable=None):
        try:
            yield run(situation, router, setting, asks[situation])
        except AssertionError as error:  # the others go on
            print(f"no run of {router}, {situation}: {error}")


def available(names: Sequence[str]) -> dict[str, Router]:
    """Those whose programs are here; told is who is left out."""
    found: dict[str, Router] = {}
    reasons: dict[str, str] = {}
    for name in names:
        router = ROUTERS[name]
        if router.program and router.program not in reasons:
            try:
                program(router.program)
                reasons[router.program] = ""
            except NotHadError as error:
                reasons[router.program] = str(error)
        if reason := reasons.get(router.program):
            print(f"left out {name}: {reason}")
        else:
            found[name] = router
    return found


def fits(router: Router, situation: str) -> bool:
    """Whether it differs there from a router that is told no speeds."""
    return not router.told_speeds or len(set(SITUATIONS[situation].speeds)) > 1


def write_page(tables: str) -> None:
    """Put the tables between their marks."""
    first, last = marks(TABLES)
    text = PAGE.read_text(encoding="utf-8")
    pattern = f"(?<={re.escape(first)}\n).*?(?={re.escape(last)})"
    PAGE.write_text(re.sub(pattern, lambda _: tables + "\n", text, flags=re.DOTALL))


def named(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    """A reader of names by comma."""

    def read(text: str) -> list[str]:
        found = [part for part in text.split(",") if part]
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of: {', '.join(known)}")
        return found

    return read


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(description=first, epilog=rest, formatter_class=form)
    usual, standard = [name for name in ROUTERS if name not in UNUSUAL], Setting()
    found.add_argument(
        "--situations",
        type=named(SITUATIONS),
        default=[*SITUATIONS],
        help=f"by comma, of {', '.join(SITUATIONS)}",
    )
    found.add_argument(
        "--routers",
        type=named(ROUTERS),
        default=usual,
        help=f"by comma, of {', '.join(ROUTERS)}; all but {', '.join(UNUSUAL)}",
    )
    found.add_argument("--repetitions", type=int, default=3, help="of each; default %(default)s")
    for name, kind, meaning in (
        ("seconds", float, "for how long requests arrive"),
        ("load", float, "share of what the fleet can do at most"),
        ("speed", float, "how many times faster than their profile the engines run"),
        ("profile", str, "the engines' model and hardware"),
        ("slots", int, "requests that each engine runs at once"),
        ("seed", int, "another stretch of the trace, other sessions"),
    ):
        default = getattr(standard, name)
        words = f"{meaning}; default %(default)s"
        found.add_argument(f"--{name}", type=kind, default=default, help=words)
    found.add_argument(
        "--out", type=Path, help="add each run to this file of JSON lines, and tell of all in it"
    )
    found.add_argument("--read", type=Path, help="run nothing, tell of the runs in this file")
    found.add_argument("--page", action="store_true", help="put the tables into the page")
    return found


def runs(arguments: argparse.Namespace) -> list[Run]:
    """Those that the tables are to tell of."""
    if arguments.read:
        return recorded(arguments.read)
    fields = ("profile", "slots", "speed", "seconds", "load", "seed")
    setting = Setting(**{name: getattr(arguments, name) for name in fields})
    path = arguments.out
    found = recorded(path, setting) if path and path.exists() else []
    chosen = arguments.situations, arguments.routers, arguments.repetitions
    for one in measured(setting, *chosen):
        found.append(one)
        if path:
            keep(path, one)
    return found


def main() -> None:
    """Measure, and print the tables."""
    arguments = parser().parse_args()
    try:
        found = runs(arguments)
    except (RecordError, ProblemError) as error:
        raise SystemExit(str(error)) from error
    if not found:
        raise SystemExit("there is no run to tell of")
    tables = report(found)
    print(tables)
    if arguments.page:
        write_page(tables)


if __name__ == "__main__":
    main()
