"""What is taken for a trace, who is sampled, and what log lines and answers say."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.agent.request_trace import RequestTimings
from router.http.apis import COMPLETIONS
from router.http.errors import Headers, Outcome
from router.http.outline import outline
from router.http.usage import JsonMeter, ResponseInfo, StreamMeter
from router.observe import tracing
from router.observe.genai import answer_attributes, error_of, request_attributes
from router.observe.logs import JsonFormatter, bind_request, configure
from router.observe.spans import Span, TraceContext
from router.observe.tracing import Tracing, open_tracing, read_traceparent
from router.settings.agent import AgentSettings
from router.settings.base import BadSettings
from router.settings.commands import load

ID, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{ID}-{CLIENT}-01"


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[TraceContext, Span]] = []
        self.closed_s: float | None = None

    def send(self, trace: TraceContext, root: Span) -> None:
        self.got.append((trace, root))

    def close(self, seconds: float) -> None:
        self.closed_s = seconds


def heads(*values: str) -> Headers:
    return [(b"accept", b"*/*"), *((b"traceparent", value.encode()) for value in values)]


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (GOOD, 1),
        (f"00-{ID}-{CLIENT}-00", 0),
        (f"00-{ID}-{CLIENT}-03", 3),
        (f"00-{ID}-{CLIENT}-f9", 1),  # flags that are not known are not passed on
        (f"cc-{ID}-{CLIENT}-01", 1),
        (f"cc-{ID}-{CLIENT}-01-what-the-future-holds", 1),
    ],
)
def test_a_traceparent_is_read(value: str, flags: int) -> None:
    assert read_traceparent(heads(value)) == TraceContext(ID, CLIENT, None, flags)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"ff-{ID}-{CLIENT}-01",
        f"00-{'0' * 32}-{CLIENT}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID.upper()}-{CLIENT}-01",
        f"00-{ID[:-1]}-{CLIENT}-01",
        f"00-{ID}-{CLIENT}-1",
        f"00-{ID}-{CLIENT}-01-more",
        f"00-{ID}-{CLIENT}-01\n",
        f"cc-{ID}-{CLIENT}-01.more",
        f" {GOOD}",
    ],
)
def test_what_is_none_is_ignored(value: str) -> None:
    assert read_traceparent(heads(value)) is None


def test_two_are_none() -> None:
    assert read_traceparent(heads(GOOD, GOOD)) is None
    assert read_traceparent(heads()) is None


@given(st.binary(max_size=80))
def test_no_header_is_an_error(value: bytes) -> None:
    found = read_traceparent([(b"traceparent", value)])
    assert found is None or len(found.id) == 32


def test_off_a_trace_is_known_and_its_headers_left_alone() -> None:
    headers = [*heads(GOOD), (b"tracestate", b"a=1")]
    trace = Tracing().begin(headers)
    assert trace is not None
    assert (trace.id, trace.recorded, trace.outgoing()) == (ID, False, {})
    assert trace.keep(headers) is headers
    assert Tracing().begin(heads()) is None


def test_the_client_decides_and_else_the_ratio() -> None:
    for ratio in (0.0, 1.0):
        on = Tracing(Kept(), ratio)
        sampled, quiet, own = on.begin(heads(GOOD)), on.begin(heads(GOOD[:-1] + "0")), on.begin([])
        assert sampled is not None
        assert quiet is not None
        assert own is not None
        assert sampled.recorded
        assert not quiet.recorded
        assert own.recorded == (ratio == 1.0)
        assert own.outgoing()["traceparent"].endswith("01" if ratio else "00")
    half = Tracing(Kept(), 0.5)
    share = sum(trace.recorded for _ in range(2000) if (trace := half.begin([])) is not None)
    assert 800 < share < 1200


def test_a_recorded_trace_takes_the_place_of_the_clients_headers() -> None:
    on, state = Tracing(Kept()), (b"tracestate", b"a=1")
    good, bad = on.begin(heads(GOOD)), on.begin(heads("bad"))
    assert good is not None
    assert bad is not None
    assert good.keep([*heads(GOOD), state]) == [*heads(), state]
    assert bad.keep([*heads("bad"), state]) == heads()  # a state without its trace means nothing
    assert good.outgoing("1" * 16) == {"traceparent": f"00-{ID}-{'1' * 16}-01"}
    assert read_traceparent(heads(bad.outgoing()["traceparent"])) is not None


def test_spans_are_handed_over_under_their_own_parents() -> None:
    sink = Kept()
    on = Tracing(sink)
    trace = on.begin(heads(GOOD))
    assert trace is not None
    root = Span("root", 1.0, 4.0, children=[Span("a", 1.0, 2.0, children=[Span("b", 1.0, 1.5)])])
    on.end(trace, root)
    ((_, got),) = sink.got
    assert got.id == trace.span_id
    parents = {span.name: parent for span, parent in got.walk(CLIENT)}
    assert parents == {"root": CLIENT, "a": root.id, "b": root.children[0].id}
    asyncio.run(on.close(3.0))
    assert sink.closed_s == 3.0


@pytest.mark.parametrize("outcome", list(Outcome))
def test_what_is_an_error_says_why(outcome: Outcome) -> None:
    failed = error_of(outcome, None) is not None
    ours = {Outcome.CANCELLED, Outcome.EXPIRED, Outcome.FAILED, Outcome.REJECTED_NO_CAPACITY}
    assert failed == (outcome in ours)
    assert error_of(outcome, "because") in (None, "because")


@pytest.mark.parametrize("outcome", list(Outcome))
def test_attributes_name_an_error_where_there_is_one(outcome: Outcome) -> None:
    found = answer_attributes(None, outcome, 200, None, None)
    assert found.get("error.type") == (outcome.value if error_of(outcome, None) else None)


def test_reasons_are_told_for_all_choices_or_none() -> None:
    request = outline(b'{"model": "m", "prompt": ["a", "b"], "n": 1}', COMPLETIONS)
    for reasons in (("stop",), ("stop", "length")):
        response_info = ResponseInfo("x", "m", reasons)
        found = answer_attributes(request, Outcome.COMPLETED, 200, None, response_info)
        told = found.get("gen_ai.response.finish_reasons")
        assert told == (reasons if len(reasons) == request.choices else None)


def test_only_a_stream_says_that_it_is_one() -> None:
    for stream in ("true", "false"):
        body = f'{{"model": "m", "prompt": "a", "stream": {stream}}}'.encode()
        found = request_attributes(outline(body, COMPLETIONS), chat=False)
        assert found.get("gen_ai.request.stream") == (True if stream == "true" else None)


def test_phases_follow_each_other_and_stay_within_their_request() -> None:
    timings = RequestTimings(queued_s=1.0)
    timings.begin(2.0)
    timings.begin(2.5)  # a second choice of the same request
    timings.prefilled(3.0)
    timings.end(9.0, 0, "stop")
    spans = timings.spans(100.0, 108.0)
    assert [(span.name, span.start_s, span.end_s) for span in spans] == [
        ("queue", 101.0, 102.0),
        ("prefill", 102.0, 103.0),
        ("decode", 103.0, 108.0),
    ]
    waiting = RequestTimings(queued_s=1.0).spans(100.0, 104.0)
    assert [(span.name, span.start_s, span.end_s) for span in waiting] == [("queue", 101.0, 104.0)]
    assert RequestTimings().spans(100.0, 104.0) == []


def test_without_the_extra_an_endpoint_stops_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_installed", lambda: False)
    settings = load(AgentSettings, ["--otel-endpoint", "http://127.0.0.1:4318"])
    with pytest.raises(BadSettings, match=r"otel_endpoint: .*pip install '\.\[otel\]'"):
        open_tracing(settings, "agent")


def test_without_the_extra_a_variable_alone_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "_installed", lambda: False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert open_tracing(load(AgentSettings, []), "agent").begin([]) is None
    assert "an extra is missing" in caplog.text
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    caplog.clear()
    assert open_tracing(load(AgentSettings, []), "agent").begin([]) is None
    assert not caplog.text


def test_off_nothing_of_the_sdk_is_imported() -> None:
    code = (
        "import sys, router.gateway.app, router.agent.app, router.agent.sidecar.app;"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lines_of_a_request_say_which(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure("json", "info")
        log = logging.getLogger("test")

        async def answer(request: str, trace_id: str | None) -> None:
            bind_request(request, trace_id)
            await asyncio.sleep(0)
            log.warning("odd", extra={"why": request})

        async def both() -> None:
            await asyncio.gather(answer("a", ID), answer("b", None))
            log.warning("nobody's")

        asyncio.run(both())
        lines = [orjson.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        root.handlers, root.level = before
    told = [(line.get("request"), line.get("trace_id")) for line in lines]
    assert told == [("a", ID), ("b", None), (None, None)]
    assert "request" not in orjson.loads(
        JsonFormatter().format(logging.makeLogRecord({"msg": "bare"}))
    )


def test_answers_say_why_they_ended() -> None:
    stream = StreamMeter()
    for index, reason in ((1, "stop"), (0, "length")):
        event = {"id": "x", "model": "m", "choices": [{"index": index, "finish_reason": reason}]}
        stream.feed(b"data: " + orjson.dumps(event) + b"\n\n")
    stream.feed(b'data: {"choices":[],"usage":null}\n\ndata: [DONE]\n\n')
    assert stream.response_info() == ResponseInfo("x", "m", ("length", "stop"))
    whole = JsonMeter()
    whole.feed(b'{"id": "x", "model": 3, "choices": [{"finish_reason": "stop"}, {}, 4]}')
    assert whole.response_info() == ResponseInfo("x", None, ("stop",))


@given(st.binary(max_size=200))
def test_no_answer_is_an_error(data: bytes) -> None:
    for meter in (JsonMeter(), StreamMeter()):
        meter.feed(b"data: " * isinstance(meter, StreamMeter) + data)
        meter.response_info()
