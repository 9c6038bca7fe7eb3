"""A gateway and two agents, real processes, as their users meet them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from openai import NotFoundError, OpenAI

from solver.routing.objective import TERMS
from tests import http
from tests.helpers import Fleet, asking, scrape
from tests.waiting import PATIENCE_S, eventually

MODEL = "llama-65b"
TEXT: dict[str, object] = {
    "model": MODEL,
    "prompt": "How many clips did Natalia sell?",
    "max_tokens": 12,
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet("--speed", "20", "--max-body-bytes", "100000") as running:
        yield running


def post(
    fleet: Fleet, body: object, path: str = "/v1/completions", **headers: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post(fleet.url + path, content=content, headers=names)


def agents_running(fleet: Fleet) -> int:
    workers = fleet.get("/makespan/v1/workers").json()["workers"]
    return sum(w["agent"]["running"] + w["agent"]["queued"] for w in workers)


def in_flight(fleet: Fleet) -> int:
    workers = fleet.get("/makespan/v1/workers").json()["workers"]
    return sum(worker["in_flight"] for worker in workers)


def test_json_answer_and_headers(fleet: Fleet) -> None:
    answer = post(fleet, TEXT, x_request_id="my-id.1")
    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "text_completion"
    assert body["system_fingerprint"] == "makespan-emulated"
    assert len(body["choices"][0]["text"].split()) == 12
    assert body["usage"]["completion_tokens"] == 12
    assert answer.headers["x-request-id"] == "my-id.1"
    assert answer.headers["x-makespan-worker"] in ("agent-0", "agent-1")
    took_ms = answer.elapsed.total_seconds() * 1000
    assert 0 < float(answer.headers["x-makespan-overhead-ms"]) < took_ms


def test_the_printed_curl_line_works_as_pasted(fleet: Fleet) -> None:
    line = fleet.wait_for(r"^ *(curl .*)$")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 32


def test_faults_are_off_unless_asked_for(fleet: Fleet) -> None:
    assert post(fleet, TEXT, x_makespan_fault="status=500").status_code == 200


def test_unusable_request_ids_are_replaced(fleet: Fleet) -> None:
    answer = post(fleet, TEXT, x_request_id="a b" * 100)
    assert answer.headers["x-request-id"].startswith("req-")


def test_sse_with_usage_and_done(fleet: Fleet) -> None:
    body = {**TEXT, "stream": True, "stream_options": {"include_usage": True}}
    answer = post(fleet, body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert [len(chunk["choices"]) for chunk in chunks] == [1] * 12 + [0]
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


def test_sse_without_usage(fleet: Fleet) -> None:
    answer = post(fleet, {**TEXT, "stream": True})
    assert answer.text.count("data: ") == 13
    assert "usage" not in answer.text


def test_official_client(fleet: Fleet) -> None:
    client = OpenAI(base_url=fleet.url + "/v1", api_key="-", max_retries=0)
    assert [model.id for model in client.models.list()] == [MODEL]
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hi"}],
        n=2,
        max_completion_tokens=5,
        extra_body={"guided_json": {"type": "object"}},
    )
    texts = [choice.message.content or "" for choice in answer.choices]
    assert [len(text.split()) for text in texts] == [5, 5]
    batch = client.completions.create(model=MODEL, prompt=["a", "b", "c"], max_tokens=3)
    assert [choice.index for choice in batch.choices] == [0, 1, 2]
    with pytest.raises(NotFoundError, match="'gpt' does not exist"):
        client.completions.create(model="gpt", prompt="a")


def test_books_are_balanced_after_both_endpoints_and_many_choices(fleet: Fleet) -> None:
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 30}
    asks: list[tuple[dict[str, object], str]] = [
        ({**TEXT, "n": 40, "ignore_eos": True, "max_tokens": 100}, "/v1/completions"),
        *[(chat, "/v1/chat/completions"), (TEXT, "/v1/completions")] * 20,
    ]
    with ThreadPoolExecutor(len(asks)) as pool:
        answers = list(pool.map(lambda ask: post(fleet, *ask), asks))
    assert {answer.status_code for answer in answers} == {200}
    usage = answers[0].json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 4000)
    alone = fleet.get("/makespan/v1/workers").json()["workers"]
    assert [(worker["in_flight"], worker["backlog_s"]) for worker in alone] == [(0, 0.0)] * 2


def test_a_learnt_ratio_never_refuses_a_prompt(fleet: Fleet) -> None:
    for _ in range(30):
        post(fleet, {**TEXT, "prompt": "hi", "n": 128, "max_tokens": 1})
    assert post(fleet, {**TEXT, "prompt": "word " * 280}).status_code == 200


def test_stop_strings_end_the_answer(fleet: Fleet) -> None:
    free = post(fleet, {**TEXT, "max_tokens": 40, "ignore_eos": True}).json()["choices"][0]
    stop = free["text"].split()[5]
    cut = post(fleet, {**TEXT, "max_tokens": 40, "ignore_eos": True, "stop": stop}).json()
    assert stop not in cut["choices"][0]["text"].split()
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] <= 5


BAD: list[tuple[object, str, int, str | None]] = [
    (b"{nonsense", "/v1/completions", 400, None),
    (b"[]", "/v1/completions", 400, None),
    (b"", "/v1/chat/completions", 400, None),
    (b"\xff\xfe", "/v1/chat/completions", 400, None),
    ({**TEXT, "max_tokens": "many"}, "/v1/completions", 400, "max_tokens"),
    ({**TEXT, "stream": 1}, "/v1/completions", 400, "stream"),
    ({"model": MODEL, "messages": "hi"}, "/v1/chat/completions", 400, "messages"),
    ({**TEXT, "model": "gpt"}, "/v1/completions", 404, "model"),
    ({**TEXT, "max_tokens": 5000}, "/v1/completions", 400, "prompt"),
    ({**TEXT, "prompt": "word " * 10_000}, "/v1/completions", 400, "prompt"),
    ({**TEXT, "prompt": [1] * 2040}, "/v1/completions", 400, "prompt"),
    ({**TEXT, "prompt": "x" * 100_001}, "/v1/completions", 413, None),
    (TEXT, "/v1/embeddings", 404, None),
]


@pytest.mark.parametrize(("body", "path", "status", "param"), BAD)
def test_bad_input_gets_its_error_and_the_process_goes_on(
    fleet: Fleet, body: object, path: str, status: int, param: str | None
) -> None:
    answer = post(fleet, body, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"]
    assert post(fleet, TEXT).status_code == 200


def test_long_prompts_of_text_are_the_engines_to_refuse(fleet: Fleet) -> None:
    """The gateway only estimates tokens; the engine counts them."""
    answer = post(fleet, {**TEXT, "prompt": "word " * 1450})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "x-makespan-worker" in answer.headers


@pytest.mark.parametrize("hint", ["0", "-3", "many", "nan", "1e300"])
def test_bad_hints_are_refused(fleet: Fleet, hint: str) -> None:
    answer = post(fleet, TEXT, x_makespan_expected_tokens=hint)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-makespan-expected-tokens"


def test_wrong_method_and_broken_http(fleet: Fleet) -> None:
    assert fleet.get("/v1/completions").status_code == 405
    host, port = fleet.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as raw:
        raw.sendall(b"NONSENSE\r\n\r\n")
        assert b"400" in raw.recv(1000)
    assert post(fleet, TEXT).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/models"])
def test_head_answers_as_get_does_without_the_body(fleet: Fleet, path: str) -> None:
    for url in (fleet.url, fleet.agents[0]):
        head, get = (http.request(method, url + path) for method in ("HEAD", "GET"))
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]


def test_a_slash_at_the_end_makes_no_difference(fleet: Fleet) -> None:
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert post(fleet, TEXT, "/v1/completions/").status_code == 200
    assert post(fleet, chat, "/v1/chat/completions/").status_code == 200
    assert fleet.get("/v1/models/").json() == fleet.get("/v1/models").json()


def test_one_model(fleet: Fleet) -> None:
    (entry,) = fleet.get("/v1/models").json()["data"]
    assert fleet.get(f"/v1/models/{MODEL}").json() == entry
    missing = fleet.get("/v1/models/some/other")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
    assert missing.json()["error"]["message"].startswith("The model 'some/other' does not exist")


def test_agents_tell_of_their_model_as_the_gateway_does(fleet: Fleet) -> None:
    with OpenAI(base_url=fleet.agents[0] + "/v1", api_key="none", max_retries=0) as client:
        assert client.models.retrieve(MODEL) == client.models.list().data[0]
        with pytest.raises(NotFoundError, match="'some/other' does not exist"):
            client.models.retrieve("some/other")
    assert http.get(fleet.agents[0] + "/v1/models/").json()["data"][0]["id"] == MODEL


def test_a_body_sent_in_chunks_is_read_and_limited(fleet: Fleet) -> None:
    def chunks(count: int) -> Iterator[bytes]:
        yield b'{"model": "llama-65b", "max_tokens": 2, "prompt": "'
        yield from (b"x" * 1000 for _ in range(count))
        yield b'"}'

    for count, status in ((3, 200), (200, 413)):
        answer = http.post(fleet.url + "/v1/completions", content=chunks(count))
        assert answer.status_code == status


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_engine(fleet: Fleet, stream: bool) -> None:
    body = {**TEXT, "max_tokens": 1900, "ignore_eos": True, "stream": stream}

    def cancelled() -> list[float]:
        name = 'makespan_requests_total{model="llama-65b",outcome="cancelled"}'
        gateway, *agents = (scrape(url).total(name) for url in (fleet.url, *fleet.agents))
        return [gateway, sum(agents)]

    before = cancelled()
    with asking(fleet.url + "/v1/completions", body):
        eventually(lambda: agents_running(fleet) == 1)
    eventually(lambda: agents_running(fleet) == 0)
    eventually(lambda: cancelled() == [count + 1 for count in before])
    assert in_flight(fleet) == 0


def test_the_explanation_adds_up(fleet: Fleet) -> None:
    with ThreadPoolExecutor(40) as pool:
        bodies = [{**TEXT, "max_tokens": 20 + 10 * k, "ignore_eos": True} for k in range(40)]
        ids = [f"explain-{k}" for k in range(40)]
        list(pool.map(lambda k: post(fleet, bodies[k], x_request_id=ids[k]), range(40)))
    for name in ids:
        told = fleet.get(f"/makespan/v1/requests/{name}").json()
        choice, times = told["choice"], told["times"]
        for row in choice["candidates"]:
            assert set(row["terms_s"]) == set(TERMS)
            assert row["cost_s"] == pytest.approx(sum(row["terms_s"].values()))
        chosen = next(row for row in choice["candidates"] if row["chosen"])
        rival = next(row for row in choice["candidates"] if not row["chosen"])
        assert told["worker"] == choice["chosen"] == chosen["worker"]
        assert choice["runner_up"] == rival["worker"]
        assert choice["predicted_s"] == chosen["finish_s"]
        assert (choice["cost_s"], choice["runner_up_cost_s"]) == (chosen["cost_s"], rival["cost_s"])
        assert choice["actual_s"] == pytest.approx(times["ended_at"] - times["planned_at"])
        assert choice["error_s"] == pytest.approx(choice["actual_s"] - choice["predicted_s"])
        assert choice["regret_s"] == pytest.approx(choice["actual_s"] - rival["finish_s"])
        assert told["outcome"] == "completed"
        assert told["output_tokens"] == told["expected_tokens"]
    assert fleet.get("/makespan/v1/requests/never-seen").status_code == 404


def test_the_latest_plan_is_in_the_open(fleet: Fleet) -> None:
    answer = post(fleet, TEXT, x_request_id="planned")
    plan = fleet.get("/makespan/v1/plans/latest").json()
    assert plan["assignment"] == {"planned": answer.headers["x-makespan-worker"]}
    assert plan["makespan_s"] >= plan["lower_bound_s"] > 0
    assert plan["gap_ratio"] == pytest.approx(plan["makespan_s"] / plan["lower_bound_s"] - 1)
    assert plan["cost_s"] >= plan["cost_bound_s"] > 0
    assert plan["held_back"] == []


def test_health_and_ready_but_no_docs_unless_asked_for(fleet: Fleet) -> None:
    assert fleet.get("/health").json() == {"status": "ok"}
    assert fleet.get("/ready").status_code == 200
    assert fleet.get("/openapi.json").status_code == fleet.get("/docs").status_code == 404


def test_both_agents_get_work(fleet: Fleet) -> None:
    with ThreadPoolExecutor(32) as pool:
        body = {**TEXT, "max_tokens": 60, "ignore_eos": True}
        answers = list(pool.map(lambda _: post(fleet, body), range(64)))
    workers = [answer.headers["x-makespan-worker"] for answer in answers]
    assert min(workers.count("agent-0"), workers.count("agent-1")) >= 20
