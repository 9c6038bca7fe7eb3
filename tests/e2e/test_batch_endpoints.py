"""Lines of every endpoint, at an engine that is not always well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from router.gateway.batches.inside import TRIES
from tests import http
from tests.e2e.batch_gateway import Gateway
from tests.engine_server import EngineServer
from tests.helpers import scrape
from tests.waiting import eventually

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "clips"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "clips"}]},
    "/v1/responses": {"input": "clips"},
    "/v1/embeddings": {"input": "clips"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[EngineServer]:
    with EngineServer("m") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(server: EngineServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    flags = ("--wait-for-worker-s", "0.1", "--retries", "0")
    with Gateway([server.url], str(tmp_path_factory.mktemp("batches")), *flags) as running:
        yield running


def create(gateway: Gateway, endpoint: str) -> str:
    line = {"custom_id": "a", "method": "POST", "url": endpoint}
    file = gateway.upload([line | {"body": {"model": "m", **BODIES[endpoint]}}])
    asked = {"input_file_id": file, "endpoint": endpoint, "completion_window": "1h"}
    answer = http.post(gateway.url + "/v1/batches", json=asked)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize("endpoint", BODIES)
def test_each_endpoint_gets_what_the_line_says(
    gateway: Gateway, server: EngineServer, endpoint: str
) -> None:
    server.told.clear()
    batch = gateway.ended(create(gateway, endpoint))
    assert batch.status == "completed"
    assert (batch.endpoint, batch.completion_window) == (endpoint, "1h")
    assert batch.model == "m"
    (call,) = [one for one in server.told if one.method == "POST"]
    assert call.path == endpoint
    (answer,) = gateway.read(batch.output_file_id)
    assert answer["response"]["body"]["model"] == "m"
    assert batch.usage is not None
    assert batch.usage.input_tokens > 0


def test_an_engine_that_takes_nothing_is_asked_again_until_it_does(
    gateway: Gateway, server: EngineServer
) -> None:
    server.status = 503
    try:
        name = create(gateway, "/v1/completions")
        server.told.clear()
        eventually(lambda: running(gateway, name) == 1)
        eventually(lambda: any("rejected_no_capacity" in text for text in gateway.lines))
        assert gateway.get(name).status == "in_progress"
    finally:
        server.status = 200
    batch = gateway.ended(name)
    assert batch.status == "completed"
    assert batch.error_file_id is None


def running(gateway: Gateway, name: str) -> int:
    told = http.get(f"{gateway.url}/v1/batches/{name}").json()
    return int(told["makespan"]["running"])


def test_what_breaks_an_engine_is_asked_three_times_and_is_an_error_then(
    gateway: Gateway, server: EngineServer
) -> None:
    failed = 'makespan_relayed_requests_total{outcome="failed",path="embeddings"}'
    before = scrape(gateway.url).values.get(failed, 0.0)
    server.status = 500
    try:
        batch = gateway.ended(create(gateway, "/v1/embeddings"))
    finally:
        server.status = 200
    assert batch.status == "completed"
    assert batch.output_file_id is None
    (answer,) = gateway.read(batch.error_file_id)
    assert answer["response"]["status_code"] == 500
    assert answer["error"] is None
    assert scrape(gateway.url).values[failed] == before + TRIES
