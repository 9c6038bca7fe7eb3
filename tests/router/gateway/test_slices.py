"""What an API server says of EndpointSlices, and the workers that come of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.fleet.discovery.slices import Slices, SlicesError, VersionGone
from router.gateway.fleet.discovery.source import Endpoint, merge
from tests.k8s.api import (
    OURS,
    Json,
    endpoint_slice,
    error,
    listing,
    modified,
    pod,
    read,
    streams,
)


def told(slices: Slices, *events: Json) -> dict[str, bool]:
    """Each worker's URL, and whether it drains."""
    for event in events:
        slices.apply(json.dumps(event).encode())
    return {one.url: one.draining for one in slices.endpoints}


def relisted(version: int, *items: Json, port: int | str = "http") -> Slices:
    slices = Slices(port)
    slices.relist(json.dumps(listing(version, items)).encode())
    return slices


def test_our_stream_step_by_step() -> None:
    slices, steps = Slices("http"), []
    for event in read(OURS):
        urls = told(slices, event)
        steps.append((slices.version, {url[14]: draining for url, draining in urls.items()}))
    assert steps == [
        ("10", {"1": False, "2": False}),
        ("12", {"1": False, "2": False}),
        ("15", {"1": False, "2": False}),  # the third is not ready
        ("18", {"1": False, "2": False, "3": False}),
        ("21", {"1": True, "2": False, "3": False}),
        ("22", {"1": True, "2": False, "3": False}),  # the first fails its probes while it drains
        ("25", {"2": False, "3": False}),
        ("31", {"2": False, "3": False}),
    ]


@pytest.mark.parametrize("path", streams(), ids=lambda path: path.parent.parent.name)
def test_recorded_streams_are_followed_to_the_letter(path: Path) -> None:
    slices, seen = Slices("http"), 0
    for event in read(path):
        now = told(slices, event)
        assert slices.version == event["object"]["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            continue
        (port,) = (one["port"] for one in event["object"]["ports"])
        rows = ((one["addresses"][0], one["conditions"]) for one in event["object"]["endpoints"])
        assert now == {
            f"http://{address}:{port}": state["terminating"]
            for address, state in rows
            if state["ready"] or state["terminating"]
        }
        seen += 1
    assert seen >= 6


def test_conditions_that_are_not_told_count_as_usual() -> None:
    bare: Json = {"addresses": ["10.0.0.1"]}
    silent: Json = {"addresses": ["10.0.0.2"], "conditions": {}}
    unknown = pod("10.0.0.3")
    unknown["conditions"] = {"ready": None, "serving": None, "terminating": None}
    slices = relisted(1, endpoint_slice(1, [bare, silent, unknown]))
    assert told(slices) == {f"http://10.0.0.{k}:8100": False for k in (1, 2, 3)}


def test_not_ready_is_no_worker_and_terminating_drains_even_if_it_is_called_ready() -> None:
    pods = [pod("10.0.0.1", ready=False), pod("10.0.0.2", ready=True, terminating=True)]
    assert told(relisted(1, endpoint_slice(1, pods))) == {"http://10.0.0.2:8100": True}


def test_ports_by_number_and_by_name() -> None:
    told_of = endpoint_slice(1, [pod("10.0.0.1")], port=9000)
    assert list(told(relisted(1, told_of))) == ["http://10.0.0.1:9000"]
    assert list(told(relisted(1, told_of, port=8100))) == ["http://10.0.0.1:8100"]
    lacking = relisted(1, told_of, port="grpc")
    assert (told(lacking), lacking.portless) == ({}, ["agents-1"])


def test_a_pod_with_an_address_of_each_family_is_one_worker() -> None:
    old, new = pod("10.0.0.1", "a"), pod("fd00::1", "a")
    pair = [endpoint_slice(1, [new], "s6", "IPv6"), endpoint_slice(2, [old], "s4")]
    assert told(relisted(2, *pair)) == {"http://10.0.0.1:8100": False}
    assert told(relisted(1, pair[0])) == {"http://[fd00::1]:8100": False}
    names = endpoint_slice(3, [pod("agents.example")], "sf", "FQDN")
    assert told(relisted(3, names)) == {}


def test_a_pod_that_moves_between_slices_is_one_worker_and_drains_if_one_says_so() -> None:
    here = endpoint_slice(1, [pod("10.0.0.1", "a")], "s1")
    there = endpoint_slice(2, [pod("10.0.0.1", "a", ready=False, terminating=True)], "s2")
    assert told(relisted(2, here, there)) == {"http://10.0.0.1:8100": True}


def test_an_address_that_another_pod_has_taken_does_not_drain() -> None:
    pods = [pod("10.0.0.1", "old", terminating=True), pod("10.0.0.1", "new")]
    assert told(relisted(1, endpoint_slice(1, pods))) == {"http://10.0.0.1:8100": False}


def test_a_pod_that_is_back_with_another_address_is_another_worker() -> None:
    slices = relisted(1, endpoint_slice(1, [pod("10.0.0.1", "first"), pod("10.0.0.2")]))
    goes = endpoint_slice(2, [pod("10.0.0.1", "first", terminating=True), pod("10.0.0.2")])
    back = endpoint_slice(3, [pod("10.0.0.9", "second"), pod("10.0.0.2")])
    one, two, nine = (f"http://10.0.0.{k}:8100" for k in (1, 2, 9))
    assert told(slices, modified(goes)) == {one: True, two: False}
    assert told(slices, modified(back)) == {nine: False, two: False}


def test_a_list_replaces_everything_and_a_deleted_slice_takes_its_workers_along() -> None:
    one = endpoint_slice(1, [pod("10.0.0.1")], "s1")
    two = endpoint_slice(2, [pod("10.0.0.2")], "s2")
    slices = relisted(2, one, two)
    assert list(told(slices, {"type": "DELETED", "object": one})) == ["http://10.0.0.2:8100"]
    slices.relist(json.dumps(listing(9, [one])).encode())
    assert list(told(slices)) == ["http://10.0.0.1:8100"]
    assert slices.version == "9"


def test_after_an_error_what_was_known_stands() -> None:
    slices = relisted(1, endpoint_slice(1, [pod("10.0.0.1")]))
    with pytest.raises(VersionGone):
        told(slices, error(410, "Expired"))
    with pytest.raises(SlicesError, match="500 InternalError: so it is"):
        told(slices, error(500, "InternalError"))
    assert told(slices) == {"http://10.0.0.1:8100": False}


@pytest.mark.parametrize(
    "line",
    [
        b"<html>",
        b"{}",
        b'{"type":"MODIFIED"}',
        b'{"type":"RENAMED","object":{}}',
        b'{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"1"}}}',
        b'{"type":"BOOKMARK","object":{"metadata":{}}}',
    ],
)
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(SlicesError, match="not an event"):
        Slices("http").apply(line)


def test_what_is_no_list_is_refused() -> None:
    with pytest.raises(SlicesError, match="not a list"):
        Slices("http").relist(b'{"kind":"Status"}')


pods = st.builds(
    lambda k, ready, terminating: pod(f"10.0.0.{k}", ready=ready, terminating=terminating),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
slices_of = st.builds(
    lambda name, rows: endpoint_slice(1, rows, name),
    st.sampled_from(["s1", "s2", "s3"]),
    st.lists(pods, max_size=4),
)


@given(st.lists(st.tuples(st.sampled_from(["MODIFIED", "DELETED"]), slices_of)))
def test_events_one_by_one_end_where_a_list_of_what_is_left_begins(
    events: list[tuple[str, Json]],
) -> None:
    heard, left = Slices("http"), dict[str, Json]()
    for kind, one in events:
        heard.apply(json.dumps({"type": kind, "object": one}).encode())
        left.pop(one["metadata"]["name"], None)
        if kind == "MODIFIED":
            left[one["metadata"]["name"]] = one
    assert heard.endpoints == relisted(1, *left.values()).endpoints
    again = [modified(one) for one in reversed(left.values())]
    assert told(heard, *again) == {one.url: one.draining for one in heard.endpoints}
    rows = [row for one in left.values() for row in one["endpoints"]]
    urls = {one.url for one in heard.endpoints}
    assert urls == {
        f"http://{row['addresses'][0]}:8100"
        for row in rows
        if row["conditions"]["ready"] or row["conditions"]["terminating"]
    }


@given(st.lists(st.builds(Endpoint, st.sampled_from(["a", "b", "c"]), st.booleans())))
def test_merged_each_worker_is_there_once_and_drains_only_if_all_say_so(
    named: list[Endpoint],
) -> None:
    merged = merge(named)
    assert [one.url for one in merged] == list(dict.fromkeys(one.url for one in named))
    for one in merged:
        assert one.draining == all(other.draining for other in named if other.url == one.url)
