"""``makespan simulate``: one run, its figures, its schedule, its picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import orjson
from tqdm import tqdm

from router.files import writable
from router.lab.pictures.gantt import fleet_gantt, gantt
from router.lab.simulation.run import Choice, fleet, load, setting
from router.settings.simulate import SimulateSettings
from solver.sim.report import Report, report
from solver.sim.schedule import ScheduleLine


def simulate(settings: SimulateSettings) -> None:
    """Run it; print the figures, and write what was asked for.

    Raises:
        BadSettings: if the trace is wrong, or a file cannot be written.
        ProblemError: if a request fits into no worker.
    """
    requests = load(settings, tell=True)
    choice = Choice(settings.policy, settings.dispatch, settings.workers)
    lines: list[ScheduleLine] = []
    with ExitStack() as files:  # which complain before the work, not after
        picture = settings.gantt and files.enter_context(writable(settings.gantt))
        record = _stage_sink(settings, lines, files)
        run = fleet(settings, requests, choice, record)
        with progress(len(requests), "requests") as advanced:
            run.run(advanced)
        result = report(run, settings.weight)
        if picture:
            picture.write(_gantt(settings, lines, result).encode())
    out = result.to_json() | {"seed": settings.seed, "policy": choice.policy}
    out |= {"dispatch": choice.dispatch, "workers": choice.workers, "lengths": settings.lengths}
    print(orjson.dumps(out).decode() if settings.json else _table(settings, result))


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; takes how many are done."""
    with tqdm(total=total, unit=f" {unit}", disable=None, leave=False) as bar:

        def advanced(done: int) -> None:
            bar.update(done - bar.n)

        yield advanced


def _stage_sink(
    settings: SimulateSettings, lines: list[ScheduleLine], files: ExitStack
) -> Callable[[ScheduleLine], None] | None:
    """What to do with each stage; None if nobody wants them."""
    sinks: list[Callable[[ScheduleLine], None]] = []
    if settings.schedule is not None:
        file = files.enter_context(writable(settings.schedule))
        sinks.append(lambda line: _write(file, line))
    if settings.gantt is not None:
        sinks.append(lines.append)
    if not sinks:
        return None

    def record(line: ScheduleLine) -> None:
        for sink in sinks:
            sink(line)

    return record


def _write(file: IO[bytes], line: ScheduleLine) -> None:
    file.write(orjson.dumps(line.to_json(), option=orjson.OPT_APPEND_NEWLINE))


def _gantt(settings: SimulateSettings, lines: list[ScheduleLine], result: Report) -> str:
    slots = setting(settings, []).slots
    title = f"{settings.requests.name}: {settings.policy}, lengths {settings.lengths}"
    bound = result.lower_bound_s
    if settings.workers == 1:
        return gantt(lines, slots=slots, title=title, bound_s=bound)
    workers = {f"w{j}": slots for j in range(settings.workers)}
    return fleet_gantt(lines, workers, title=title, bound_s=bound)


def _table(settings: SimulateSettings, result: Report) -> str:
    """For people."""
    workers = f"{settings.workers} worker" + ("s" if settings.workers > 1 else "")
    cost = settings.cost if not settings.cost.startswith("{") else "a custom cost model"
    rows = [
        f"{result.requests:,} requests of {settings.requests.name} on {workers} ({cost})",
        f"policy {settings.policy}, dispatch {settings.dispatch}, order {settings.order}, "
        f"lengths {settings.lengths}, arrivals {settings.arrivals}, seed {settings.seed}",
        "",
        f"makespan        {result.makespan_s:12.2f} s",
        f"lower bound     {result.lower_bound_s:12.2f} s   (makespan {result.gap_ratio:.2%} above)",
        f"arrivals        {result.arrivals_s:12.2f} s   (until the last request came)",
        f"utilization     {result.utilization:12.2%}",
        f"generation      {result.generation_tokens_per_s:12.1f} tokens/s",
        f"iterations      {result.prefill_stages:12,} prefill, {result.decode_rounds:,} decode, "
        f"{result.mixed_iterations:,} mixed",
        f"cache hits      {result.cache_hit_ratio:12.2%}   (of prompt tokens)",
        f"preemptions     {result.preemptions:12,}",
        f"goodput         {result.goodput:12.2%}   (of the requests kept both of their targets)",
        "",
        "seconds                 mean      p50      p95      p99",
    ]
    for name, spread in (
        ("time to first token", result.ttft_s),
        ("per output token", result.tpot_s),
        ("longest stall", result.stall_s),
        ("end to end", result.e2e_s),
    ):
        values = "".join(f"{spread[q]:9.3f}" for q in ("mean", "p50", "p95", "p99"))
        rows.append(f"{name:<19}{values}")
    return "\n".join([*rows, "", *_by_length(result), *by_tenant(result)])


def by_tenant(result: Report) -> list[str]:
    """Lines of each tenant, and how evenly they were served; none where there is but one."""
    if not result.tenants:
        return []
    spent = sum(each["slot_s"] for each in result.tenants.values())
    return [
        "",
        f"{'tenant':<19}{'slot-s':>9}{'share':>9}{'TTFT p50':>11}{'p99':>9}",
        *(
            f"{name or '(none named)':<19}{each['slot_s']:>9.0f}{each['slot_s'] / spent:>9.1%}"
            f"{each['ttft_p50_s']:>9.3f} s{each['ttft_p99_s']:>7.2f} s"
            for name, each in result.tenants.items()
        ),
        f"largest difference of those who waited: {result.largest_difference_slot_s:.0f} "
        f"slot-seconds by weight; Jain's index {result.jain_index:.3f}",
    ]


def _by_length(result: Report) -> list[str]:
    quarters = result.service_by_length.values()
    ends = "".join(f"{quarter['e2e_s']:9.3f}" for quarter in quarters)
    served = "".join(f"{quarter['service_ratio']:9.1%}" for quarter in quarters)
    return [
        "answers            shortest   second    third  longest   (quarters of the requests)",
        f"end to end         {ends}",
        f"of that in service {served}   (since its prefill began)",
    ]
