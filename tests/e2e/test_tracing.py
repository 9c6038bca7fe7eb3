"""Traces of real requests through real processes, as a collector gets them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests import http
from tests.e2e.test_gateway import MODEL
from tests.e2e.test_sidecar import PLAIN, Plain, lasting, mortal, plain, sidecar, url_of
from tests.helpers import Fleet, Process
from tests.otlp_sink import Got, Sink
from tests.ports import free_ports
from tests.waiting import eventually

__all__ = ["lasting", "mortal", "plain"]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TEXT = {"model": MODEL, "prompt": "How many?", "max_tokens": 12, "ignore_eos": True}
TALK = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "How many clips?"}],
    "max_tokens": 9,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}
CLIENT = "00f067aa0ba902b7"
# The gateway's spans of a request that one worker answers, and that worker's.
GATEWAY, AGENT = ("window", "plan", "dispatch"), ("queue", "prefill", "decode")


@pytest.fixture(scope="module", autouse=True)
def soon() -> Iterator[None]:
    """Batches go out at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(sink: Sink) -> Iterator[Fleet]:
    flags = ("--speed", "20", "--faults", "--log-format", "json", "--log-level", "debug")
    with Fleet(*flags, "--otel-endpoint", sink.url) as running:
        yield running


@contextmanager
def gateway(worker: str, *flags: str) -> Iterator[tuple[Process, str]]:
    with Process("gateway", "--port", "0", "--worker", worker, *flags) as running:
        url = running.wait_for(r"listening.*url=(\S+)")
        eventually(lambda: http.get(url + "/ready").status_code == 200)
        yield running, url


def new_trace() -> str:
    return secrets.token_hex(16)


def parent(trace_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{CLIENT}-{flags}", "tracestate": "a=1"}


def post(url: str, body: object, headers: dict[str, str]) -> httpx.Response:
    return http.post(url, json=body, headers=headers)


def tree(spans: Sequence[Got]) -> tuple[Got, dict[str, list[Got]]]:
    """The span that the client's is the parent of, and each span's children by time."""
    (root,) = [span for span in spans if span.parent_id == CLIENT]
    children: dict[str, list[Got]] = {}
    for span in sorted(spans, key=lambda span: (span.start_ns, span.end_ns)):
        children.setdefault(span.parent_id, []).append(span)
    return root, children


def check_nesting(root: Got, children: dict[str, list[Got]]) -> None:
    """Every span lies within its parent, and those of one parent follow each other."""
    for span in children.get(root.id, ()):
        assert root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns, (root, span)
        check_nesting(span, children)
    for before, after in pairwise(children.get(root.id, ())):
        assert before.end_ns <= after.start_ns, (before, after)


def names(spans: Sequence[Got]) -> list[str]:
    return [span.name for span in spans]


@pytest.mark.parametrize("body", [TALK, TEXT], ids=["streamed chat", "whole completion"])
def test_one_trace_from_the_client_to_the_last_token(
    fleet: Fleet, sink: Sink, body: dict[str, Any]
) -> None:
    chat = "messages" in body
    trace_id, path = new_trace(), CHAT if chat else COMPLETIONS
    headers = {**parent(trace_id), "x-request-id": f"id-{chat}", "x-makespan-tenant": "ann"}
    answer = post(fleet.url + path, body, headers)
    assert answer.status_code == 200
    spans = sink.trace(trace_id, 8)
    root, children = tree(spans)
    assert len(spans) == 8
    check_nesting(root, children)

    assert root.name == ("chat" if chat else "text_completion") + f" {MODEL}"
    assert (root.kind, root.service, root.failed) == ("SERVER", "makespan-gateway", False)
    told = root.attributes
    assert told["gen_ai.operation.name"] == ("chat" if chat else "text_completion")
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == MODEL
    assert told["gen_ai.request.max_tokens"] == body["max_tokens"]
    assert told["gen_ai.usage.output_tokens"] == body["max_tokens"]
    assert told["gen_ai.usage.input_tokens"] > 0
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert told["gen_ai.response.id"].startswith("chatcmpl-" if chat else "cmpl-")
    assert told["makespan.outcome"] == "completed"
    assert told["makespan.tenant"] == "ann"
    assert told["makespan.predicted_tokens"] == body["max_tokens"]
    assert told["makespan.worker"] == answer.headers["x-makespan-worker"]
    assert ("gen_ai.response.time_to_first_chunk" in told) == chat

    window, plan, dispatch = children[root.id]
    assert names((window, plan, dispatch)) == list(GATEWAY)
    assert window.attributes["makespan.window.requests"] == 1
    assert plan.attributes["makespan.plan.method"] == "in_turn"
    assert plan.attributes["makespan.worker"] == told["makespan.worker"]
    assert plan.attributes["makespan.plan.workers"] == 2
    assert dispatch.kind == "CLIENT"
    address = f"http://{dispatch.attributes['server.address']}:{dispatch.attributes['server.port']}"
    assert address in fleet.agents
    assert dispatch.attributes["makespan.predicted_s"] > 0

    (agent,) = children[dispatch.id]
    assert (agent.kind, agent.service, agent.name) == ("SERVER", "makespan-agent", root.name)
    assert agent.attributes["makespan.request_id"] == told["makespan.request_id"] == f"id-{chat}"
    assert agent.attributes["gen_ai.usage.output_tokens"] == body["max_tokens"]
    assert agent.attributes["gen_ai.response.id"] == told["gen_ai.response.id"]
    assert names(children[agent.id]) == list(AGENT)
    assert all(span.end_ns > span.start_ns for span in children[agent.id][1:])


def test_the_explanation_and_the_log_name_the_trace(fleet: Fleet, sink: Sink) -> None:
    trace_id, name = new_trace(), "explained"
    post(fleet.url + COMPLETIONS, TEXT, {**parent(trace_id), "x-request-id": name})
    sink.trace(trace_id, 8)
    assert fleet.get(f"/makespan/v1/requests/{name}").json()["trace_id"] == trace_id
    line = json.loads(fleet.wait_for(rf'(.*"request ended".*{trace_id}.*)'))
    assert (line["request"], line["trace_id"], line["outcome"]) == (name, trace_id, "completed")
    assert line["output_tokens"] == TEXT["max_tokens"]
    assert 0 <= line["sent_after_s"] <= line["first_byte_after_s"] <= line["ended_after_s"]


def test_a_request_without_a_trace_begins_one(fleet: Fleet, sink: Sink) -> None:
    before = {span.trace_id for span in sink.spans}
    post(fleet.url + COMPLETIONS, TEXT, {"traceparent": "00-nonsense", "x-request-id": "fresh"})
    trace_id = fleet.get("/makespan/v1/requests/fresh").json()["trace_id"]
    spans = sink.trace(trace_id, 8)
    assert trace_id not in before
    assert [span.name for span in spans if not span.parent_id] == [f"text_completion {MODEL}"]


def test_a_client_that_leaves_ends_its_spans(fleet: Fleet, sink: Sink) -> None:
    trace_id = new_trace()
    body = {**TALK, "max_tokens": 1500}
    with http.stream("POST", fleet.url + CHAT, json=body, headers=parent(trace_id)) as answer:
        next(answer.iter_lines())
    root, children = tree(sink.trace(trace_id, 8))
    assert root.failed
    assert root.attributes["error.type"] == root.attributes["makespan.outcome"] == "cancelled"
    dispatch = children[root.id][-1]
    assert (dispatch.name, dispatch.failed) == ("dispatch", True)
    (agent,) = children[dispatch.id]
    assert (agent.failed, agent.attributes["error.type"]) == (True, "cancelled")
    assert [span.failed for span in children[agent.id]] == [False, False, True]


def test_a_refusal_and_a_retry_are_seen(fleet: Fleet, sink: Sink) -> None:
    trace_id = new_trace()
    headers = {**parent(trace_id), "x-makespan-fault": "status=500"}
    assert post(fleet.url + COMPLETIONS, TEXT, headers).status_code == 500
    root, children = tree(sink.trace(trace_id, 9))
    check_nesting(root, children)
    assert names(children[root.id]) == [*GATEWAY, *GATEWAY]
    assert root.failed
    first, second = (span for span in children[root.id] if span.name == "dispatch")
    assert first.failed
    assert second.failed
    assert first.attributes["makespan.ended_by"] == "The worker answered 500."
    assert first.attributes["makespan.worker"] != second.attributes["makespan.worker"]
    assert [len(children[span.id]) for span in (first, second)] == [1, 1]
    assert children[first.id][0].message == "Injected fault: status 500."


def test_what_nobody_could_serve_has_a_span_alone(fleet: Fleet, sink: Sink) -> None:
    trace_id = new_trace()
    answer = post(fleet.url + COMPLETIONS, {**TEXT, "model": "none"}, parent(trace_id))
    assert answer.status_code == 404
    (span,) = sink.trace(trace_id, 1)
    assert (span.name, span.attributes["gen_ai.request.model"]) == ("text_completion other", "none")
    assert span.attributes["makespan.outcome"] == "rejected_invalid"
    assert "error.type" not in span.attributes
    assert span.attributes["http.response.status_code"] == 404
    assert not span.failed  # the client's error is none of the server's


def test_what_is_not_sampled_is_passed_on_and_not_recorded(sink: Sink, plain: Plain) -> None:
    with gateway(plain.url, "--otel-endpoint", sink.url, "--otel-sample-ratio", "0") as (_, url):
        quiet, loud = new_trace(), new_trace()
        post(url + COMPLETIONS, PLAIN, parent(quiet, "00"))
        seen = plain.seen()["headers"]
        assert seen["traceparent"] == f"00-{quiet}-{CLIENT}-00"
        post(url + COMPLETIONS, PLAIN, {"x-request-id": "own"})
        own = plain.seen()["headers"]["traceparent"].split("-")
        assert own[3] == "00"
        assert own[1] == http.get(url + "/makespan/v1/requests/own").json()["trace_id"]
        post(url + COMPLETIONS, PLAIN, parent(loud))
        _, children = tree(sink.trace(loud, 4))
        (dispatch,) = [s for group in children.values() for s in group if s.name == "dispatch"]
        seen = plain.seen()["headers"]
        assert seen["traceparent"] == f"00-{loud}-{dispatch.id}-01"
        assert seen["tracestate"] == "a=1"
    assert {quiet, own[1]}.isdisjoint(span.trace_id for span in sink.spans)


def test_without_tracing_headers_pass_as_they_came(mortal: Plain) -> None:
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    flags = ("--log-format", "text", "--wait-for-worker-s", "0.5")
    with gateway(f"{mortal.url},{dead}", *flags) as (running, url):
        trace_id = new_trace()
        headers = {**parent(trace_id), "x-request-id": "off"}
        assert post(url + COMPLETIONS, PLAIN, headers).status_code == 200
        seen = mortal.seen()["headers"]
        assert (seen["traceparent"], seen["tracestate"]) == (headers["traceparent"], "a=1")
        bad = {"traceparent": "00-what-is-this", "tracestate": "a=1"}
        assert post(url + COMPLETIONS, PLAIN, bad).status_code == 200
        assert mortal.seen()["headers"]["traceparent"] == bad["traceparent"]
        mortal.kill()
        assert post(url + COMPLETIONS, PLAIN, headers).status_code in (502, 503)
        running.wait_for(rf"(request ended).* request=off trace_id={trace_id}")


def test_a_sidecar_goes_on_with_the_trace(sink: Sink, plain: Plain) -> None:
    with sidecar(plain.url, "--otel-endpoint", sink.url) as agent:
        url = url_of(agent)
        for stream, phases in ((True, AGENT), (False, ("queue", "engine"))):
            trace_id = new_trace()
            body = {**PLAIN, "stream": stream}
            assert post(url + COMPLETIONS, body, parent(trace_id)).status_code == 200
            root, children = tree(sink.trace(trace_id, 1 + len(phases)))
            check_nesting(root, children)
            assert names(children[root.id]) == list(phases)
            assert plain.seen()["headers"]["traceparent"] == f"00-{trace_id}-{root.id}-01"
            assert root.attributes["gen_ai.request.model"] == "plain"
        assert root.attributes["gen_ai.usage.output_tokens"] == PLAIN["max_tokens"]


def test_a_collector_that_is_down_is_named_once_and_harms_nobody(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    with gateway(plain.url, "--otel-endpoint", dead, "--drain-s", "1") as (running, url):
        for _ in range(5):
            assert post(url + COMPLETIONS, PLAIN, {}).status_code == 200
            running.wait_for("(spans are not exported) why=")
        assert running.stop() == 0
    said = [line for line in running.lines if "export" in line]
    assert len([line for line in said if "spans are not exported" in line]) == 1
    assert not any("Traceback" in line for line in running.lines)


def test_what_is_left_goes_out_at_shutdown(
    sink: Sink, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)  # OpenTelemetry's own name for it
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-router")
    trace_id = new_trace()
    with gateway(plain.url) as (running, url):
        assert post(url + COMPLETIONS, PLAIN, parent(trace_id)).status_code == 200
        assert running.stop() == 0
    spans = sink.trace(trace_id, 4)
    assert {span.service for span in spans} == {"my-router"}
