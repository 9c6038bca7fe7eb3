"""Each dispatcher does what its name says, and places every request once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from solver.batching.policies import POLICIES
from solver.cost.profiles import PROFILES
from solver.lengths.distribution import BINS, LengthDistribution, bin_of
from solver.routing.dispatchers import DISPATCHERS, dispatcher
from solver.routing.dispatchers.base import Arrival, Dispatcher, Immediate
from solver.routing.dispatchers.makespan import Makespan
from solver.routing.dispatchers.prefix_aware import IMBALANCE_REQUESTS
from solver.routing.rolling import LEAD, WINDOW_WAIT_S
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from tests.solver.sim.drive import Way, simulate

COST = PROFILES["llama-65b-ascend"].cost
SLOTS = 8


def worker(*prompts: int, cached: Sequence[int] = (), speed: float = 1.0) -> Worker:
    """One that has been given requests with these prompts, and holds the blocks `cached`."""
    one = Worker(
        "", COST.scaled(1 / speed), WorkerSetting(SLOTS, prefix_cache=True), POLICIES["adaptive"]()
    )
    for k, prompt in enumerate(prompts):
        one.submit(Request(f"old {k}", prompt, 50), k, 50.0, 0.0)
    cache = one.batcher.cache
    assert cache is not None
    cache.store(tuple(cached), 512 * len(cached), 10**9)
    return one


def arrivals(count: int, prompt: int = 100, hash_ids: tuple[int, ...] = ()) -> list[Arrival]:
    return [Arrival(number, 0.0, prompt, 50.0, hash_ids) for number in range(count)]


def place(
    by: Dispatcher, requests: Sequence[Arrival], workers: Sequence[Worker], now: float = 0.0
) -> list[int]:
    """Where each goes at once; -1 for those that wait. Workers get what they are sent."""
    for arrival in requests:
        by.arrive(arrival, now)
    placed = dict.fromkeys((arrival.number for arrival in requests), -1)
    for arrival, j in by.poll(now, workers):
        assert placed[arrival.number] == -1
        placed[arrival.number] = j
        request = Request(f"new {arrival.number}", arrival.prompt_tokens, 50)
        workers[j].submit(request, arrival.number, arrival.expected_tokens, now)
    return list(placed.values())


def by_name(name: str, seed: int = 0) -> Dispatcher:
    return dispatcher(name, random.Random(seed))


AT_ONCE = [name for name in DISPATCHERS if isinstance(by_name(name), Immediate)]


def test_round_robin_takes_turns_whatever_the_load() -> None:
    fleet = [worker(), worker(*[10] * 50), worker()]
    assert place(by_name("round-robin"), arrivals(5), fleet) == [0, 1, 2, 0, 1]


def test_random_spreads_evenly() -> None:
    count = Counter(place(by_name("random"), arrivals(3000), [worker() for _ in range(3)]))
    assert count.keys() == {0, 1, 2}
    assert min(count.values()) > 900


def test_least_requests_counts_requests_and_the_first_of_equals_wins() -> None:
    fleet = [worker(10, 10), worker(5000), worker(5000)]
    assert place(by_name("least-requests"), arrivals(4), fleet) == [1, 2, 0, 1]


def test_least_tokens_counts_tokens_and_the_first_of_equals_wins() -> None:
    fleet = [worker(10, 10, 10, 10), worker(200), worker(40)]
    assert place(by_name("least-tokens"), arrivals(3), fleet) == [0, 2, 0]


def test_power_of_two_compares_two_at_random() -> None:
    """The fullest of three is chosen never, the emptiest two times in three."""
    count: Counter[int] = Counter()
    for seed in range(600):
        fleet = [worker(1, 1, 1), worker(1), worker(1, 1)]
        count.update(place(by_name("power-of-two", seed), arrivals(1), fleet))
    assert count[0] == 0
    assert count[1] / 600 == pytest.approx(2 / 3, abs=0.08)
    assert place(by_name("power-of-two"), arrivals(2), [worker()]) == [0, 0]


BLOCKS = (1, 2, 3, 4)


def prefix_aware(fleet: list[Worker], hash_ids: tuple[int, ...] = BLOCKS) -> int:
    return place(by_name("prefix-aware"), arrivals(1, 512 * len(BLOCKS), hash_ids), fleet)[0]


def test_prefix_aware_goes_where_most_of_the_prompt_is_cached() -> None:
    fleet = [worker(), worker(1, cached=BLOCKS[:2]), worker(1, 1, cached=BLOCKS[:3])]
    assert prefix_aware(fleet) == 2
    assert prefix_aware(fleet, (1, 2, 9, 9)) == 1  # they hold the same; the less loaded
    assert prefix_aware(fleet, (1, 9, 9, 9)) == 0  # a quarter is not worth it: the least loaded
    assert prefix_aware(fleet, ()) == 0


def test_prefix_aware_gives_up_when_the_fleet_is_out_of_balance() -> None:
    """Both by number and by ratio, as SGLang's router has it."""
    loads = [IMBALANCE_REQUESTS, IMBALANCE_REQUESTS + 1]
    chosen = [prefix_aware([worker(), worker(*[1] * n, cached=BLOCKS)]) for n in loads]
    assert chosen == [1, 0]
    many = [1] * 1000
    more = [1] * (1000 + IMBALANCE_REQUESTS + 1)  # not half as many again
    assert prefix_aware([worker(*many), worker(*more, cached=BLOCKS)]) == 1


@pytest.mark.parametrize("name", AT_ONCE)
@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 4))
@settings(max_examples=30)
def test_others_place_every_request_at_once(name: str, groups: list[int], size: int) -> None:
    by, fleet, done = by_name(name), [worker() for _ in range(size)], 0
    for count in groups:
        requests = [replace(arrival, number=done + arrival.number) for arrival in arrivals(count)]
        assert all(0 <= j < size for j in place(by, requests, fleet))
        assert by.next_deadline() is None
        done += count
    assert sum(one.in_flight for one in fleet) == done


@pytest.mark.parametrize("name", sorted(DISPATCHERS.keys() - set(AT_ONCE)))
def test_who_lets_requests_wait_sends_what_there_is_room_for(name: str) -> None:
    by, fleet = by_name(name), [worker(), worker()]
    placed = place(by, arrivals(5 * SLOTS), fleet)
    assert [one.in_flight for one in fleet] == [room()] * 2
    assert placed.count(-1) == 5 * SLOTS - 2 * room()


# Ours.


def room() -> int:
    return SLOTS + int(LEAD * SLOTS)


def test_ours_sends_nothing_to_a_full_worker() -> None:
    full = worker(*[10] * room())
    assert place(Makespan(), arrivals(3), [full, worker()]) == [1, 1, 1]
    memory = Worker("", COST, WorkerSetting(SLOTS, kv_tokens=500), POLICIES["adaptive"]())
    memory.submit(Request("old", 499, 1), 0, 1.0, 0.0)
    assert sorted(place(Makespan(), arrivals(1), [memory, worker()])) == [1]


def test_ours_gives_a_single_worker_everything() -> None:
    assert place(Makespan(), arrivals(100), [worker()]) == [0] * 100


def test_ours_gathers_a_window_while_nobody_is_free() -> None:
    by, full = Makespan(), [worker(*[10] * room()), worker(*[10] * room())]
    assert place(by, arrivals(3), full) == [-1] * 3
    assert by.next_deadline() == pytest.approx(WINDOW_WAIT_S)
    assert list(by.poll(WINDOW_WAIT_S, full)) == []
    assert by.next_deadline() is None  # it is closed, and will be sent when a worker has room
    fleet = [worker(), worker()]
    assert len(list(by.poll(1.0, fleet))) == 3


def test_ours_gives_a_faster_worker_more() -> None:
    fleet = [worker(), worker(speed=3.0)]
    count = Counter(place(Makespan(), arrivals(9), fleet))
    assert count[1] > count[0]


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(1, 60), st.floats(0, 0.5)),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 4),
    st.sampled_from([(1.0,), (1.0, 4.0)]),
    st.sampled_from([400, 2000]),
)
@settings(max_examples=40)
def test_ours_places_everybody_in_the_end(
    load: list[tuple[int, int, float]], workers: int, speeds: tuple[float, ...], kv_tokens: int
) -> None:
    now, requests = 0.0, list[Request]()
    for k, (prompt, output, gap) in enumerate(load):
        now += gap
        requests.append(Request(str(k), prompt, output, now))
    way = Way(COST.to_ms(), 3, workers=workers, speeds=speeds, kv_tokens=kv_tokens)
    run = simulate(requests, way)
    run.check()
    assert set(run.fleet.placed) <= set(range(workers))


def lone_slots(*speeds: float) -> list[Worker]:
    """Workers that serve one request at a time."""
    return [
        Worker("", COST.scaled(1 / s), WorkerSetting(1), POLICIES["adaptive"]()) for s in speeds
    ]


def test_a_worker_of_one_slot_is_sent_one_request_at_a_time() -> None:
    """Also while the queue is so long that only workers with room are planned for."""
    fleet = lone_slots(1.0, 1.0)
    placed = place(Makespan(), arrivals(5), fleet)
    assert [one.in_flight for one in fleet] == [1, 1]
    assert placed.count(-1) == 3
    by, fleet = Makespan(), lone_slots(1.0, 1.0, 1.0)
    fleet[0].submit(Request("old", 100, 50), 0, 50.0, 0.0)
    fleet[1].submit(Request("older", 100, 50), 0, 50.0, 0.0)
    assert sum(j >= 0 for j in place(by, arrivals(3000), fleet)) == 1
    assert fleet[2].in_flight == 1


def test_a_slow_worker_is_not_sent_what_would_outlast_the_queue() -> None:
    fleet = lone_slots(1.0, 0.0001)
    fleet[0].submit(Request("old", 100, 50), 0, 50.0, 0.0)
    placed = place(Makespan(), arrivals(3000), fleet)
    assert set(placed) == {-1}


def test_what_is_left_of_a_request_is_predicted_again_while_it_runs() -> None:
    """Half the requests make 10 tokens, half 1000: after 100 tokens it is one of the long ones."""
    lengths = LengthDistribution.of(two_lengths(10, 1000))
    one = lone_slots(1.0)[0]
    one.submit(Request("old", 100, 1000), 0, lengths.mean, 0.0, lengths)
    one.start(0.0)
    prefilled = one.stage_end_s
    one.finish()
    one.start(prefilled)
    before = one.view(one._start_s).backlog_s
    after = one.view(one._start_s + 100.5 * one.round_s).backlog_s
    assert before == pytest.approx(lengths.mean * one.round_s, rel=0.05)
    assert after == pytest.approx(lengths.remaining(100).mean * one.round_s, rel=0.05)
    assert after > 1.5 * before


def two_lengths(*tokens: int) -> NDArray[np.float64]:
    weights = np.full(BINS, 1e-9)
    weights[[bin_of(length) for length in tokens]] = 0.5
    return weights


LONG = tuple(range(100, 108))  # eight blocks, 4,096 tokens


def test_ours_goes_where_the_prompt_is_cached_if_loads_are_alike() -> None:
    fleet = [worker(10, 10), worker(10, 10, cached=LONG)]
    assert place(Makespan(), arrivals(1, 512 * len(LONG), LONG), fleet) == [1]
    fleet = [worker(10), worker(10, 10, cached=LONG)]  # nor does one request drive it away
    assert place(Makespan(), arrivals(1, 512 * len(LONG), LONG), fleet) == [1]


def test_no_worker_is_overloaded_for_the_sake_of_its_cache() -> None:
    """A hundred prompts that one worker holds: the others take their share, and keep the prefix."""
    requests = [Request(str(k), 512 * len(LONG), 50, 0.02 * k, LONG) for k in range(100)]
    way = Way(COST.to_ms(), 16, workers=4, prefix_cache=True)
    run = simulate(requests, way)
    counts = np.bincount(run.fleet.placed, minlength=4)
    assert counts.max() <= 40
    assert run.report.cache_hit_ratio > 0.7


def test_locality_survives_rebalancing() -> None:
    """Eight conversations, twelve turns each, two workers that must share them: a turn mostly finds
    its past, as at prefix-aware's, and none of the workers has much more to do."""
    requests, rng, now = list[Request](), random.Random(0), 0.0
    for turn in range(12):
        for talk in rng.sample(range(8), 8):
            now += 0.6
            blocks = tuple(1000 * talk + k for k in range(turn + 2))
            requests.append(Request(f"{talk}.{turn}", 512 * len(blocks), 60, now, blocks))
    way = Way(COST.to_ms(), 16, kv_tokens=200_000, workers=2, prefix_cache=True)
    run = simulate(requests, way)
    rival = simulate(requests, replace(way, dispatch="prefix-aware"))
    assert run.report.cache_hit_ratio >= rival.report.cache_hit_ratio - 0.02
    assert np.bincount(run.fleet.placed).max() <= 0.7 * len(requests)
