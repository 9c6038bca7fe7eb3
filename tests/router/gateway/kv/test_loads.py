"""Load that is pushed: prefills time themselves, and silence means that nothing is known."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from router.gateway.fleet.kv.loads import LEAST_PREFILLED, SILENT_S, Loads, Prefilled
from router.gateway.fleet.reports import PlainLook
from router.gateway.fleet.worker import Worker
from router.kv_wire import Load, WireError, read_load
from router.observe.engine_metrics import Signals
from solver.cost.profiles import PROFILES
from solver.routing.slots import Known, PlainSlots

ROW = ["LoadStat", 3, 2, 5000, 100_000, 0, 700, 9000, 16, 12_000, 3_500_000]
LOAD = Load(3, 2, 5000, 100_000, 16, 12_000, 3.5)


@pytest.mark.parametrize("more", [[], ["of a version to come", {}]])
def test_a_load_is_read(more: list[object]) -> None:
    assert read_load(msgspec.msgpack.encode([*ROW, *more])) == LOAD


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        ROW[:5],
        ["OtherStat", *ROW[1:]],
        [*ROW[:3], -1, *ROW[4:]],
        [*ROW[:3], 1 << 60, *ROW[4:]],
        [*ROW[:3], 1.5, *ROW[4:]],
        [*ROW[:3], "many", *ROW[4:]],
    ],
)
def test_what_is_no_load_is_an_error(row: object) -> None:
    with pytest.raises(WireError):
        read_load(msgspec.msgpack.encode(row))


def test_nor_is_what_is_nested_thousands_deep() -> None:
    with pytest.raises(WireError):
        read_load(b"\x9c\xa8LoadStat" + bytes(10) + b"\x91" * 5000 + b"\xc0")


def test_two_messages_tell_how_fast_prompts_are_prefilled() -> None:
    loads = Loads()
    assert loads.push(0, LOAD, 0.0) is None
    few = replace(LOAD, uncached=LOAD.uncached + LEAST_PREFILLED - 1, uncached_s=3.6)
    assert loads.push(0, few, 0.1) is None
    more = replace(LOAD, uncached=LOAD.uncached + 1000, uncached_s=4.0)
    assert loads.push(0, more, 0.2) == Prefilled(1000, 0.5)
    assert loads.push(0, more, 1.2) is None
    assert loads.push(0, replace(LOAD, uncached=0, uncached_s=0.0), 2.0) is None, "it restarted"


def test_ranks_add_up_until_one_is_silent() -> None:
    loads = Loads()
    assert loads.now(0.0) is None
    loads.push(0, LOAD, 0.0)
    loads.push(1, LOAD, 1.0)
    both = loads.now(1.0)
    assert both is not None
    assert (both.running, both.waiting, both.slots, both.kv_tokens) == (6, 4, 32, 200_000)
    assert loads.now(SILENT_S + 0.1) is None


def test_what_is_not_pushed_any_more_is_not_believed_any_more() -> None:
    """Though nobody asks its metrics, as it has nothing to do."""
    worker = Worker("http://w:8000", PlainSlots(64, 256), PROFILES["llama-65b-ascend"].cost)
    assumed = worker.kv_free
    worker.push_load(0, LOAD, 0.0)
    worker.update_plain(PlainLook({}), SILENT_S)
    assert (worker.slots_known, worker.kv_free) == (Known.ENGINE, 100_000)
    worker.update_plain(PlainLook({}), SILENT_S + 0.1)
    assert (worker.slots_known, worker.slots, worker.kv_free) == (Known.LEARNT, 16, assumed)
    polled = Signals(running=3, waiting=0, slots=48, kv_tokens=5_000)
    worker.update_plain(PlainLook({}, polled), SILENT_S + 1.0)
    assert (worker.slots_known, worker.slots, worker.kv_free) == (Known.ENGINE, 48, 5_000)
    worker.push_load(0, LOAD, 10.0)
    assert (worker.slots_known, worker.slots, worker.kv_free) == (Known.ENGINE, 16, 100_000)


def test_a_plain_worker_follows_what_its_engine_pushes() -> None:
    worker = Worker("http://w:8000", PlainSlots(64), PROFILES["llama-65b-ascend"].cost)
    assert worker.slots_known is Known.ASSUMED
    worker.push_load(0, LOAD, 0.0)
    assert (worker.slots, worker.slots_known) == (16, Known.ENGINE)
    assert worker.kv_free == 100_000
    slow_s = 3 * worker.base_cost.beta_p_s * 50_000
    for k in range(1, 20):
        pushed = replace(
            LOAD, uncached=LOAD.uncached + 50_000 * k, uncached_s=LOAD.uncached_s + slow_s * k
        )
        worker.push_load(0, pushed, float(k))
    assert worker.speed.factors[1] > 1.5, "prefills take three times as long"
