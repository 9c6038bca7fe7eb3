"""What a backlog of bulk work promises: every line once, plans above their bounds, late binding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.cost.profiles import PROFILES
from solver.routing.backlog import Backlog
from solver.routing.bulk_plan import bound
from solver.routing.dispatchers import dispatcher
from solver.routing.kinds import Eligible, Kind, Length
from solver.routing.pieces import Piece, apart, gathered
from solver.routing.pooling import pooled
from solver.routing.problem import WorkerView
from solver.sim.bulk import WithBacklog
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.report import report
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from tests.bench import bench_batch_plan as bench

COST = PROFILES["llama-2-70b-a100-tp4"].cost


@dataclass(frozen=True)
class Line:
    number: int
    kind: Kind


def view(speed: float = 1.0, slots: int = 8, backlog_s: float = 0.0) -> WorkerView:
    return WorkerView(COST.scaled(1 / speed), slots, 0, backlog_s, 0.0, None, room=slots)


kinds = st.builds(
    Kind,
    batch=st.sampled_from("ab"),
    prompt_tokens=st.integers(20, 900),
    due_s=st.sampled_from((inf, 100.0)),
    prefix=st.sampled_from((None, "p", "q")),
    shared_tokens=st.just(0),
    label=st.integers(1, 3),
).map(lambda kind: replace(kind, shared_tokens=kind.prompt_tokens // 2 if kind.prefix else 0))
loads = st.dictionaries(kinds, st.integers(1, 40), min_size=1, max_size=12)
fleets = st.lists(
    st.builds(view, st.sampled_from((0.5, 1.0, 2.0)), st.integers(1, 16), st.floats(0, 50)),
    min_size=1,
    max_size=6,
)


def expected(kind: Kind) -> Length:
    return Length(100.0 * int(str(kind.label)), 50.0)


def taken_by(
    worker: int, room: int, backlog: Backlog[Line], fleet: Sequence[WorkerView]
) -> list[Line]:
    rooms = [room if j == worker else 0 for j in range(len(fleet))]
    found = list(backlog.take(rooms, fleet, 0.0))
    assert all(j == worker for j, _ in found)
    return [line for _, line in found]


def lines_of(load: dict[Kind, int]) -> list[Line]:
    every = [kind for kind, count in load.items() for _ in range(count)]
    return [Line(k, kind) for k, kind in enumerate(every)]


@given(loads, fleets)
@settings(max_examples=60)
def test_pieces_hold_every_line_once_and_no_two_batches(
    load: dict[Kind, int], fleet: list[WorkerView]
) -> None:
    found: Counter[Kind] = Counter()
    for piece in gathered(load, fleet, expected):
        found.update(piece.kinds)
        assert len({kind.batch for kind in piece.kinds}) == 1
        assert piece.lines > 0
    assert found == Counter(load)


@given(loads, fleets, st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=60))
@settings(max_examples=80)
def test_every_line_is_taken_once_whoever_asks(
    load: dict[Kind, int], fleet: list[WorkerView], asked: list[tuple[int, int]]
) -> None:
    backlog: Backlog[Line] = Backlog()
    lines = lines_of(load)
    backlog.add(lines[::2])
    backlog.plan(fleet, expected, 0.0)
    backlog.add(lines[1::2])  # these come after the plan
    taken: list[Line] = []
    for j, room in asked:
        got = taken_by(j % len(fleet), room, backlog, fleet)
        assert len(got) <= room
        taken += got
    while len(backlog):  # somebody idle always takes what is left
        got = [line for _, line in backlog.take([5] * len(fleet), fleet, 0.0)]
        assert got
        taken += got
    assert sorted(line.number for line in taken) == list(range(len(lines)))


def test_a_fast_worker_takes_all_that_a_slow_one_leaves_to_it() -> None:
    fleet, backlog = [view(2.0, slots=4), view(0.1)], Backlog[Line]()
    backlog.add(lines_of({Kind("a", 9000, prefix=k, shared_tokens=8900): 40 for k in range(4)}))
    backlog.plan(fleet, lambda _: Length(100.0), 0.0)
    while len(backlog):
        assert taken_by(0, 1, backlog, fleet)


@given(loads, fleets)
@settings(max_examples=60)
def test_no_plan_is_told_to_end_before_its_bound(
    load: dict[Kind, int], fleet: list[WorkerView]
) -> None:
    backlog: Backlog[Line] = Backlog()
    backlog.add(lines_of(load))
    backlog.plan(fleet, expected, 0.0)
    whole = backlog.outlook(0.0)
    assert whole is not None
    assert whole.finish_s >= whole.bound_s >= max(one.backlog_s for one in fleet)
    for batch in {kind.batch for kind in load}:
        own = backlog.outlook(0.0, batch)
        assert own is not None
        assert 0 < own.bound_s <= own.finish_s <= whole.finish_s * (1 + 1e-9)


def test_who_is_due_first_runs_first_and_a_batch_that_is_dropped_is_gone() -> None:
    backlog: Backlog[Line] = Backlog()
    late, soon = Kind("late", 100, 900.0, label=3), Kind("soon", 100, 60.0, label=1)
    backlog.add(lines_of({late: 20, soon: 20}))
    backlog.plan([view()], expected, 0.0)
    first = taken_by(0, 20, backlog, [view()])
    assert {line.kind.batch for line in first} == {"soon"}
    sooner, later = backlog.outlook(0.0, "soon"), backlog.outlook(0.0, "late")
    assert sooner is not None
    assert later is not None
    assert sooner.finish_s < later.finish_s
    backlog.drop("late")
    assert (len(backlog), taken_by(0, 5, backlog, [view()])) == (0, [])


def run(
    requests: list[Request],
    speeds: tuple[float, ...],
    slots: int,
    lengths: str = "predicted",
    cached: bool = False,
) -> tuple[Fleet, WithBacklog]:
    setting = WorkerSetting(slots, 400_000, prefix_cache=cached)
    workers = [
        Worker(f"w{j}", COST.scaled(1 / speed), setting, POLICIES["adaptive"]())
        for j, speed in enumerate(speeds)
    ]
    chosen = WithBacklog(dispatcher("least-requests", Random(0)))
    fleet = Fleet(requests, workers, chosen, length_forecaster(lengths, 0))
    fleet.run()
    return fleet, chosen


def batch(count: int, seed: int = 1, prefixes: int = 0) -> list[Request]:
    rng = Random(seed)
    found = []
    for k in range(count):
        blocks = (rng.randrange(prefixes), 1000 + k) if prefixes else ()
        prompt = rng.randint(40, 120) + (512 if prefixes else 0)
        tokens = max(4, min(512, round(rng.lognormvariate(5.0, 0.8))))
        found.append(Request(f"b{k}", prompt, tokens, 0.0, blocks, Priority.BULK))
    return found


@pytest.mark.parametrize("speeds", [(1.0, 1.0), (1.5, 0.5), (2.0, 1.0, 0.5)])
def test_a_batch_ends_close_to_its_bound_on_equal_and_unequal_workers(
    speeds: tuple[float, ...],
) -> None:
    fleet, chosen = run(batch(600), speeds, 16)
    found = report(fleet)
    assert 1.0 <= found.makespan_s / found.lower_bound_s < 1.2  # lengths are unknown, and differ
    assert chosen.first is not None
    assert len(chosen.backlog) == 0


def test_known_lengths_need_no_more_than_a_hundredth_above_the_bound() -> None:
    fleet, chosen = run(batch(600), (1.5, 0.5), 16, "known")
    found = report(fleet)
    assert found.makespan_s / found.lower_bound_s < 1.025
    assert chosen.first is not None
    _, planned_s, bound_s = chosen.first
    assert bound_s <= found.makespan_s * (1 + 1e-9)
    assert planned_s == pytest.approx(found.makespan_s, rel=0.03)


def test_lines_that_begin_alike_run_on_one_worker() -> None:
    requests = batch(400, prefixes=20)
    fleet, _ = run(requests, (1.0, 1.0), 16, cached=True)
    places: dict[int, set[int]] = {}
    for request, j in zip(fleet.requests, fleet.placed.tolist(), strict=True):
        places.setdefault(request.hash_ids[0], set()).add(j)
    alone = sum(len(workers) == 1 for workers in places.values())
    assert alone >= 12  # but for those that are shared so that both end together
    most = 512 * (len(requests) - 20) / sum(request.prompt_tokens for request in requests)
    assert report(fleet).cache_hit_ratio > 0.9 * most  # the first few come in together


def bound_s(
    load: dict[Kind, int], fleet: list[WorkerView], eligible: Eligible | None = None
) -> float:
    backlog: Backlog[Line] = Backlog()
    backlog.add(lines_of(load))
    asked = backlog.ask(fleet, lambda _: Length(10.0), 0.0, eligible=eligible)
    assert asked is not None
    return bound(asked, asked.counts)


def test_the_bound_counts_what_lines_begin_with_once() -> None:
    alone = Kind("a", 700, prefix=None)
    shared = Kind("a", 700, prefix="p", shared_tokens=600)
    fleet = [view(), view()]
    saved = 49 * 600 * min(COST.beta_p_s, COST.beta_mp_s or inf) / 2
    assert bound_s({alone: 50}, fleet) - bound_s({shared: 50}, fleet) == pytest.approx(
        saved, rel=0.01
    )


def test_the_bound_knows_that_only_some_workers_have_a_model() -> None:
    load = {Kind("a", 700, model="here"): 100, Kind("b", 700, model="there"): 10}
    fleet, alone = [view()] * 4, bound_s({Kind("a", 700): 100}, [view()])
    found = bound_s(load, fleet, lambda model: frozenset({0} if model == "here" else {1, 2, 3}))
    assert found == pytest.approx(alone)
    assert found > 3 * bound_s(load, fleet)


unshared = st.dictionaries(
    kinds.map(lambda kind: replace(kind, prefix=None, shared_tokens=0)),
    st.integers(1, 60),
    min_size=1,
    max_size=12,
)


@given(unshared, fleets, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_what_shares_nothing_waits_for_all_longest_first_and_each_has_its_seconds(
    load: dict[Kind, int], fleet: list[WorkerView], random: Random
) -> None:
    lists: list[list[Piece]] = [[] for _ in fleet]
    for piece in gathered(load, fleet, expected):
        lists[random.randrange(len(fleet))].append(piece)
    found = pooled(lists)
    pools = {id(piece): piece for pieces in found for piece in pieces}.values()
    every: Counter[Kind] = Counter()
    for piece in pools:
        every.update(piece.kinds)
        tokens = [expected(kind).tokens for kind in piece.kinds]
        assert tokens == sorted(tokens, reverse=True)
    assert every == Counter(load)
    for j, pieces in enumerate(found):
        assert {id(piece) for piece in pieces} == {id(piece) for piece in pools}
        assert sum(piece.cost_s(j) for piece in pieces) == pytest.approx(
            sum(piece.cost_s(j) for piece in lists[j]), rel=1e-6
        )
    assert len(pools) == len({apart(piece.next_kind) for piece in pools})


@given(unshared, st.integers(1, 4), st.lists(st.integers(0, 7), min_size=1, max_size=30))
@settings(max_examples=40)
def test_none_begins_a_line_while_a_longer_one_waits_for_who_is_alike(
    load: dict[Kind, int], workers: int, rooms: list[int]
) -> None:
    fleet, backlog = [view()] * workers, Backlog[Line]()
    one = {replace(kind, batch="a", due_s=inf): count for kind, count in load.items()}
    backlog.add(lines_of(one))
    backlog.plan(fleet, expected, 0.0)
    tokens: list[float] = []
    for k, room in enumerate(rooms):
        tokens += [expected(o.kind).tokens for o in taken_by(k % workers, room, backlog, fleet)]
    assert tokens == sorted(tokens, reverse=True)


def test_those_with_room_begin_as_many_long_lines_each() -> None:
    long, short = Kind("a", 100, label=3), Kind("a", 100, label=1)
    fleet, backlog = [view()] * 4, Backlog[Line]()
    backlog.add(lines_of({short: 100, long: 16}))
    backlog.plan(fleet, expected, 0.0)
    taken = list(backlog.take([8] * 4, fleet, 0.0))
    assert Counter(j for j, line in taken if line.kind is long) == dict.fromkeys(range(4), 4)


def test_a_slow_worker_begins_long_lines_only_while_fast_ones_have_enough_to_do() -> None:
    long, short = Kind("a", 100, label=3), Kind("a", 100, label=1)
    fleet, backlog = [view(2.0), view(0.5)], Backlog[Line]()
    backlog.add(lines_of({short: 400, long: 100}))
    backlog.plan(fleet, expected, 0.0)
    assert [line.kind for line in taken_by(1, 2, backlog, fleet)] == [long, long]
    assert [line.kind for line in taken_by(0, 90, backlog, fleet)] == [long] * 90
    assert [line.kind for line in taken_by(1, 2, backlog, fleet)] == [short, short]
    while len(backlog):  # what is left is the fast one's, to the last
        assert taken_by(0, 50, backlog, fleet)


def test_who_is_hardly_faster_takes_hardly_anything_off_a_slow_one() -> None:
    def begins_with(lines: int, speeds: Sequence[float]) -> bool:
        fleet, backlog = [view(speed) for speed in speeds], Backlog[Line]()
        backlog.add(lines_of({Kind("a", 100, label=3): lines}))
        backlog.plan(fleet, expected, 0.0)
        return bool(taken_by(len(speeds) - 1, 1, backlog, fleet))

    alone = next(n for n in range(1, 500) if begins_with(n, (2.0, 0.5)))
    beside = next(n for n in range(1, 500) if begins_with(n, (2.0, 0.51, 0.5)))
    assert 20 < alone <= beside <= alone + 2


def test_no_worker_ends_with_a_wave_of_long_lines_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = Random(1)
    lines = [
        Request(str(k), rng.randint(40, 110), min(450, max(16, round(rng.gauss(300, 110)))))
        for k in range(1319)
    ]
    monkeypatch.setitem(bench.LOADS, "drawn", lambda: lines)
    finish_s, bound_s, _ = bench.run(bench.Case("drawn", "8 equal", "planned", lengths="known"))
    assert finish_s / bound_s < 1.045  # 1.06 with such a wave


@pytest.mark.parametrize(("weight", "share"), [(1.0, 1 / 2), (3.0, 3 / 4)])
def test_tenants_take_turns_by_weight_whoever_came_first(weight: float, share: float) -> None:
    fleet = [view(), view()]
    backlog: Backlog[Line] = Backlog({"light": 1.0, "heavy": weight}.__getitem__)
    early = Kind("one", 100, tenant="light", label=2)
    backlog.add(lines_of({early: 200}))
    backlog.plan(fleet, expected, 0.0)
    began = taken_by(0, 40, backlog, fleet)  # it has been alone, and owes nothing for that
    assert len(began) == 40
    backlog.add([Line(1000 + k, replace(early, batch="two", tenant="heavy")) for k in range(200)])
    backlog.plan(fleet, expected, 0.0)
    taken = [line for _ in range(20) for _, line in backlog.take([2, 2], fleet, 0.0)]
    found = sum(line.kind.tenant == "heavy" for line in taken)
    assert found == pytest.approx(share * len(taken), abs=2)
    one, two = (backlog.outlook(0.0, name) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert (two.finish_s < one.finish_s) == (weight > 1)


@given(st.permutations([f"tenant-{k}" for k in range(8)]), st.sampled_from((inf, 100.0)))
def test_before_there_is_a_plan_lines_go_in_the_order_in_which_they_came(
    tenants: list[str], due_s: float
) -> None:
    """Whatever they are called: names in sets stand in an order of chance."""
    backlog = Backlog[Line]()
    for k, tenant in enumerate(tenants):
        own = Kind(f"batch-{k}", 100, due_s, tenant=tenant, label=1)
        backlog.add([Line(k, own), Line(k, replace(own, prompt_tokens=50)), Line(k, own)])
    taken = taken_by(0, 24, backlog, [view(slots=24)])
    assert [line.kind.tenant for line in taken[:8]] == tenants
    assert [line.kind.prompt_tokens for line in taken] == [100] * 16 + [50] * 8
