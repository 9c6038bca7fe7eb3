"""What a real vLLM has told is understood: a recording of one that evicts, played again.

`tests/engines/record_cache_events.py` makes it, from a server with a tiny model and room for 4,096
tokens, whose requests were named as a gateway names them.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.gateway.fleet.kv.sources import read_vllm
from router.gateway.fleet.kv.stream import Knowledge, Stream
from router.kv_wire import read_batch, read_session, tail_of

FILE = Path(__file__).parents[3] / "engines" / "recorded" / "vllm.jsonl.gz"


def lines() -> Iterator[dict[str, Any]]:
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def joined() -> Stream:
    stream = Stream(1 << 20, replays=True)
    stream.linked()
    stream.ask()
    list(stream.replay_ended())
    return stream


def messages() -> list[tuple[int, bytes]]:
    return [
        (line["number"], base64.b64decode(line["payload"])) for line in lines() if "number" in line
    ]


def test_where_it_publishes_is_understood() -> None:
    (source,) = read_vllm(next(lines())["sources"], "10.0.0.5")
    assert source.endpoint.startswith("tcp://10.0.0.5:")
    assert source.replay is not None


def test_what_is_known_before_a_request_is_what_vllm_finds() -> None:
    """A request's events come after its line."""
    stream, predicted, found, requests = joined(), 0.0, 0, 0
    for line in lines():
        if "number" in line:
            list(stream.live(line["number"], base64.b64decode(line["payload"])))
        elif "request" in line:
            request, prompt = line["request"], read_session(line["request"]["name"])
            assert prompt is not None
            known = min(stream.cache.held_tokens(prompt.marks), request["prompt_tokens"] - 1)
            # Until two have shown where a document ends in blocks of 32 tokens, one is in doubt.
            assert abs(known - request["cached"]) <= 32
            predicted += known
            found += request["cached"]
            requests += 1
    assert requests >= 100
    assert found > 0
    assert stream.knowledge is Knowledge.EXACT
    assert predicted == pytest.approx(found, rel=0.01)


def test_evictions_are_among_what_it_has_told() -> None:
    events = [one for _, payload in messages() for one in read_batch(payload) if one]
    kinds = {type(event).__name__ for event in events}
    assert {"Stored", "Removed"} <= kinds
    assert all(event.block_tokens == 32 for event in events if hasattr(event, "block_tokens"))


@pytest.mark.parametrize("lost", [1, 5, 40])
def test_a_loss_is_seen_and_made_good(lost: int) -> None:
    told, stream, whole = messages(), joined(), joined()
    for number, payload in told:
        list(whole.live(number, payload))
        if not 50 <= number < 50 + lost:
            list(stream.live(number, payload))
    known: list[Knowledge] = [stream.knowledge]
    while stream.wanted is not None:
        for number, payload in told[stream.ask() :]:
            list(stream.replayed(number, payload))
        list(stream.replay_ended())
    assert [*known, stream.knowledge] == [Knowledge.DEGRADED, Knowledge.EXACT]
    names = [line["request"]["name"] for line in lines() if "request" in line]
    for name in names:
        prompt = read_session(name)
        assert prompt is not None
        tail = tail_of(name.split("|")[1])
        now = stream.cache.held_tokens(prompt.marks, tail)
        assert now == whole.cache.held_tokens(prompt.marks, tail)
