"""Publishers are found by what engines say of them, at no other host than the worker's own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from router.gateway.fleet.kv.sources import (
    MOST_RANKS,
    Source,
    count_sglang,
    count_vllm,
    find_sources,
    read_sglang,
    read_vllm,
)
from router.http.connections import Connections
from tests.faulty_server import Call, FaultyServer, good

VLLM = {
    "enable_kv_cache_events": True,
    "publisher": "zmq",
    "endpoint": "tcp://*:5557",
    "replay_endpoint": "tcp://*:5558",
    "buffer_steps": 10_000,
    "topic": "kv@pod",
}
SGLANG = {
    "publisher": "zmq",
    "endpoint_host": "*",
    "endpoint_port_base": 5557,
    "replay_endpoint_port_base": 5600,
    "load_endpoint_port_base": 5700,
    "topic": "",
    "block_size": 64,
    "dp_size": 2,
}


def test_each_rank_of_vllm() -> None:
    page = {"1": {**VLLM, "endpoint": "tcp://*:5559", "replay_endpoint": None}, "0": VLLM}
    assert read_vllm(page, "10.0.0.5") == [
        Source(0, "tcp://10.0.0.5:5557", "tcp://10.0.0.5:5558", "kv@pod", reports=True, keeps=True),
        Source(1, "tcp://10.0.0.5:5559", None, "kv@pod", reports=True, keeps=True),
    ]


def test_who_keeps_nothing_replays_nothing() -> None:
    """It answers as one that has sent nothing would, and would be believed."""
    (vllm,) = read_vllm({"0": {**VLLM, "buffer_steps": 0}}, "10.0.0.5")
    sglang = read_sglang({"kv_events": {**SGLANG, "buffer_steps": 0}}, "10.0.0.5")
    assert {one.replay for one in (vllm, *sglang)} == {None}


@pytest.mark.parametrize(("steps", "keeps"), [(10_000, True), (None, False), ("many", False)])
def test_who_does_not_say_that_it_keeps_something_may_keep_nothing(
    steps: object, keeps: bool
) -> None:
    (vllm,) = read_vllm({"0": {**VLLM, "buffer_steps": steps}}, "10.0.0.5")
    sglang = read_sglang({"kv_events": {**SGLANG, "buffer_steps": steps}}, "10.0.0.5")
    assert {(one.replay is not None, one.keeps) for one in (vllm, *sglang)} == {(True, keeps)}


@pytest.mark.parametrize(
    ("statuses", "found"),
    [
        ({}, []),
        ({"/kv_event_sources": 503}, None),
        ({"/kv_event_sources": 429}, None),
        ({"/server_info": 500}, None),
        ({"/kv_event_sources": 401, "/server_info": 403}, []),
        ({"/kv_event_sources": 200}, [read_vllm({"0": VLLM}, "127.0.0.1")[0]]),
        ({"/kv_event_sources": 200, "/server_info": 500}, [read_vllm({"0": VLLM}, "127.0.0.1")[0]]),
    ],
)
def test_who_cannot_answer_now_is_told_from_who_has_none(
    statuses: dict[str, int], found: list[Source] | None
) -> None:
    async def others(call: Call) -> None:
        status = statuses.get(call.path, 404)
        page = json.dumps({"0": VLLM}).encode() if status == 200 else b""
        await call.answer(status, page, content_type="application/json")

    async def look(url: str) -> list[Source] | None:
        connections = Connections()
        connections.open()
        try:
            return await find_sources(connections, url, agent=False)
        finally:
            await connections.close()

    with FaultyServer(good, others=others) as server:
        assert asyncio.run(look(server.url)) == found
    assert asyncio.run(look(server.url)) is None, "nobody is there"


def test_ranks_are_counted_from_the_first_at_each_address() -> None:
    """Of four ranks on two servers, these are the second's; one publishes nothing."""
    page = {"3": VLLM, "2": {**VLLM, "enable_kv_cache_events": False}}
    assert [source.rank for source in read_vllm(page, "10.0.0.5")] == [1]
    assert count_vllm(page) == 2


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ({"dp_size": 4, "tp_size": 8}, 4),
        ({"kv_events": SGLANG}, 2),
        ({"dp_size": 1, "kv_events": None}, 1),
        ({"dp_size": "4"}, 0),
        ({"dp_size": True}, 0),
        ({"dp_size": -4}, 0),
        ({"dp_size": 0, "kv_events": []}, 0),
        ({"kv_events": {"dp_size": 1.5}}, 0),
        ({"vllm_config": "parallel_config: 4"}, 0),
        ({}, 0),
    ],
)
def test_how_many_ranks_sglang_has(page: dict[str, Any], count: int) -> None:
    assert count_sglang(page) == count


def test_each_rank_of_sglang() -> None:
    assert read_sglang({"kv_events": SGLANG}, "fd00::5") == [
        Source(0, "tcp://[fd00::5]:5557", "tcp://[fd00::5]:5600", "", "tcp://[fd00::5]:5700"),
        Source(1, "tcp://[fd00::5]:5558", "tcp://[fd00::5]:5601", "", "tcp://[fd00::5]:5701"),
    ]


@pytest.mark.parametrize(
    "endpoint", ["tcp://169.254.169.254:80", "tcp://other.host:5557", "tcp://0.0.0.0:5557"]
)
def test_a_worker_cannot_send_us_to_another_host(endpoint: str) -> None:
    page = {"0": {**VLLM, "endpoint": endpoint, "replay_endpoint": endpoint}}
    (found,) = read_vllm(page, "10.0.0.5")
    assert found.endpoint.startswith("tcp://10.0.0.5:")
    assert found.replay is not None
    assert found.replay.startswith("tcp://10.0.0.5:")
    (found, _) = read_sglang({"kv_events": {**SGLANG, "endpoint_host": endpoint}}, "10.0.0.5")
    assert found.endpoint == "tcp://10.0.0.5:5557"


@pytest.mark.parametrize(
    "page",
    [
        None,
        [],
        {},
        {"0": None},
        {"0": {}},
        {"0": {**VLLM, "enable_kv_cache_events": False}},
        {"0": {**VLLM, "endpoint": "ipc:///tmp/secret"}},
        {"0": {**VLLM, "endpoint": "tcp://*:0"}},
        {"0": {**VLLM, "endpoint": "tcp://*:99999"}},
        {"0": {**VLLM, "endpoint": 5557}},
        {"rank": VLLM},
        {"-1": VLLM},
        {"99999999": VLLM},
        {"9" * 5000: VLLM},
        {"detail": "Not Found"},
        {"kv_events": None},
        {"kv_events": {**SGLANG, "endpoint_port_base": "5557"}},
        {"kv_events": {**SGLANG, "endpoint_port_base": 65_600}},
    ],
)
def test_pages_that_tell_of_none(page: object) -> None:
    assert read_vllm(page, "10.0.0.5") == []
    assert read_sglang(page, "10.0.0.5") == []


def test_no_more_ranks_than_there_can_be() -> None:
    assert len(read_sglang({"kv_events": {**SGLANG, "dp_size": 10**9}}, "h")) == MOST_RANKS
