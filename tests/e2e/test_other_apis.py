"""All of an engine's API at the gateway: planned paths, and what goes to workers as it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.http.relayed import family_of, response_id
from router.settings.keys import Key, hash_of
from tests import http
from tests.engine_server import MADE, RANKED, EngineServer
from tests.helpers import Process, scrape
from tests.waiting import eventually

VERSION = {"anthropic-version": "2023-06-01"}
MESSAGES = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
RESPONSE = {"model": "m", "input": "hi"}


class Gateway(Process):
    def __init__(
        self, *servers: EngineServer, flags: tuple[str, ...] = (), processes: int = 1
    ) -> None:
        flags = (*flags, "--processes", str(processes)) if processes > 1 else flags
        urls = ",".join(server.url for server in servers)
        super().__init__("gateway", "--port", "0", "--worker", urls, *flags)
        self.url = self.wait_for(r"listening url=(\S+)")
        count = len(servers) * processes
        eventually(lambda: sum("worker is up" in line for line in self.lines) == count)

    def ask(
        self,
        path: str,
        body: object = None,
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        return http.request(method, self.url + path, json=body, headers=headers)


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[Gateway, list[EngineServer]]]:
    """One worker serves two names, the other but one of them."""
    with ExitStack() as stack:
        servers = [EngineServer("m", "other", number=0), EngineServer("m", number=1)]
        for server in servers:
            stack.enter_context(server)
        yield stack.enter_context(Gateway(*servers)), servers


Fleet = tuple[Gateway, list[EngineServer]]


def explained(gateway: Gateway, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(gateway.ask(f"/makespan/v1/requests/{name}", method="GET").json())
        return found.get("outcome") == "completed"

    eventually(ended)
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "words"),
    [("/v1/responses", RESPONSE, "response.completed"), ("/v1/messages", MESSAGES, "message_stop")],
)
def test_they_are_planned_accounted_and_explained_like_chats(
    fleet: Fleet, path: str, body: dict[str, Any], words: str, stream: bool
) -> None:
    gateway, _ = fleet
    name = f"{path}-{stream}"
    headers = {**VERSION, "x-request-id": name}
    answer = gateway.ask(path, {**body, "stream": stream}, headers=headers)
    assert answer.status_code == 200
    assert (f"event: {words}" in answer.text) is stream
    told = explained(gateway, name)
    assert (told["output_tokens"], told["cached_tokens"], told["model"]) == (3, 4, "m")
    assert told["choice"]["candidates"]
    assert answer.headers["x-makespan-worker"] == told["worker"]
    assert (told["slo"]["ttft"]["actual_s"] is not None) is stream


def test_bodies_and_keys_come_as_they_were_sent(fleet: Fleet) -> None:
    gateway, servers = fleet
    body = b'{"model" : "m","max_tokens":9, "messages":[{"role":"user","content":"\\u00e4"}]}'
    headers = {**VERSION, "content-type": "application/json", "x-api-key": "k-1"}
    http.post(gateway.url + "/v1/messages?beta=true", content=body, headers=headers)
    (call,) = [one for server in servers for one in server.told if one.body == body]
    assert "x-api-key: k-1" in call.head
    assert "post /v1/messages?beta=true" in call.head


def test_what_goes_on_from_an_answer_goes_to_the_worker_that_has_it(fleet: Fleet) -> None:
    gateway, _ = fleet
    for stream in (False, True) * 4:
        first = gateway.ask("/v1/responses", {**RESPONSE, "stream": stream})
        worker = first.headers["x-makespan-worker"]
        data = first.text.rpartition("data: ")[2]
        name = json.loads(data)["response"]["id"] if stream else first.json()["id"]
        more = gateway.ask("/v1/responses", {**RESPONSE, "previous_response_id": name})
        assert (more.status_code, more.headers["x-makespan-worker"]) == (200, worker)
        told = explained(gateway, more.headers["x-request-id"])["choice"]["candidates"]
        cached = {one["worker"]: one.get("cached_tokens") for one in told if one["eligible"]}
        assert cached == {worker: 12.0}, "its prompt and its answer, as they were counted"
        assert gateway.ask(f"/v1/responses/{name}", method="GET").json()["id"] == name
        cancelled = gateway.ask(f"/v1/responses/{name}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        assert gateway.ask(f"/v1/responses/{name}", method="DELETE").json()["deleted"] is True
        for gone in (
            gateway.ask(f"/v1/responses/{name}", method="GET"),
            gateway.ask("/v1/responses", {**RESPONSE, "previous_response_id": name}),
        ):
            assert gone.status_code == 404
            assert f"'{name}'" in gone.json()["error"]["message"]
    unknown = gateway.ask("/v1/responses", {**RESPONSE, "previous_response_id": "resp_x"})
    error = unknown.json()["error"]
    assert error["code"] == "previous_response_not_found"
    assert error["param"] == "previous_response_id"
    why = f"/makespan/v1/requests/{unknown.headers['x-request-id']}"
    assert gateway.ask(why, method="GET").json()["model"] == "m"


@pytest.mark.parametrize("path", MADE)
def test_what_is_beside_the_answers_is_no_answer(fleet: Fleet, path: str) -> None:
    """It goes to any worker, and to the one that has what it goes on from."""
    gateway, servers = fleet
    before = [len(server.told) for server in servers]
    for _ in range(4):
        assert gateway.ask(path, RESPONSE).status_code == 200
    assert [len(server.told) - n for server, n in zip(servers, before, strict=True)] == [2, 2]
    first = gateway.ask("/v1/responses", RESPONSE)
    for _ in range(3):
        more = gateway.ask(path, {**RESPONSE, "previous_response_id": first.json()["id"]})
        assert more.headers["x-makespan-worker"] == first.headers["x-makespan-worker"]
    unknown = gateway.ask(path, {**RESPONSE, "previous_response_id": "resp_x"})
    assert unknown.json()["error"]["code"] == "previous_response_not_found"


def test_whose_worker_is_down_is_told_that_it_is() -> None:
    """And not that nobody serves its model, which another worker does."""
    with ExitStack() as stack:
        servers = [EngineServer(number=k) for k in range(2)]
        running = [stack.enter_context(ExitStack()) for _ in servers]
        for server, own in zip(servers, running, strict=True):
            own.enter_context(server)
        gateway = stack.enter_context(Gateway(*servers, flags=("--wait-for-worker-s", "0")))
        made = gateway.ask("/v1/responses", RESPONSE)
        name, worker = made.json()["id"], made.headers["x-makespan-worker"]
        running[next(k for k, one in enumerate(servers) if one.url.endswith(worker))].close()
        asked = gateway.ask(f"/v1/responses/{name}", method="GET")
        assert asked.status_code == 502
        assert asked.json()["error"]["message"].startswith(f"The worker {worker} has not answered")
        more = gateway.ask("/v1/responses", {**RESPONSE, "previous_response_id": name})
        assert more.status_code == 503
        assert f"what this goes on from, {worker}, is down" in more.json()["error"]["message"]
        assert gateway.ask("/v1/responses", RESPONSE).status_code == 200


def test_anthropic_s_paths_tell_a_request_s_name_as_anthropic_does(fleet: Fleet) -> None:
    gateway, _ = fleet
    named = {"x-request-id": "r-7"}
    for path, body in (
        ("/v1/messages", MESSAGES),
        ("/v1/messages", {**MESSAGES, "stream": True}),
        ("/v1/messages", {**MESSAGES, "model": "none"}),
        ("/v1/messages/count_tokens", MESSAGES),
        ("/v1/messages/count_tokens", {**MESSAGES, "model": "none"}),
    ):
        answer = gateway.ask(path, body, headers=named)
        assert answer.headers["request-id"] == answer.headers["x-request-id"] == "r-7"
    assert "request-id" not in gateway.ask("/v1/responses", RESPONSE, headers=named).headers


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/messages", {**MESSAGES, "model": "none"}, "not_found_error"),
        ("/v1/messages", {**MESSAGES, "model": 7}, "invalid_request_error"),
        ("/v1/messages/count_tokens", {**MESSAGES, "model": "none"}, "not_found_error"),
        ("/v1/responses", {**RESPONSE, "model": "none"}, "model_not_found"),
        ("/v1/embeddings", {"model": "none", "input": "a"}, "model_not_found"),
        ("/v1/embeddings", {"input": "a"}, "missing_field"),
    ],
)
def test_errors_have_the_form_of_their_path(
    fleet: Fleet, path: str, body: dict[str, Any], code: str
) -> None:
    gateway, _ = fleet
    answer = gateway.ask(path, body)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    if "messages" in path:
        assert (answer.json()["type"], error["type"]) == ("error", code)
    else:
        assert error["code"] == code


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize",
                                  "/detokenize", "/v1/messages/count_tokens"])  # fmt: skip
def test_what_is_not_planned_goes_to_a_worker_that_serves_its_model(
    fleet: Fleet, path: str
) -> None:
    gateway, servers = fleet
    before = [len(server.told) for server in servers]
    for _ in range(4):
        answer = gateway.ask(path, {"model": "m", "x": [1.0, 2]}, headers={"x-request-id": "r-1"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, "r-1")
        assert answer.headers["x-makespan-worker"]
    assert [len(server.told) - n for server, n in zip(servers, before, strict=True)] == [2, 2]
    for _ in range(3):
        assert gateway.ask(path, {"model": "other"}).status_code == 200
    assert len(servers[1].told) == before[1] + 2
    assert json.loads(servers[0].told[-1].body) == {"model": "other"}


def test_tokens_of_what_is_relayed_count_for_who_asked(tmp_path: Path) -> None:
    """In its limit, in metrics and in the traffic log; of a large answer its end is looked at."""
    keys, log = tmp_path / "keys.toml", tmp_path / "traffic.jsonl"
    key = "mk-search-" + "x" * 40
    row = Key(sha256=hash_of(key), tenant="search", tokens_per_minute=600, admin=True)
    keys.write_text(row.to_toml())
    headers = {"authorization": f"Bearer {key}"}
    flags = ("--keys", str(keys), "--traffic-log", str(log))
    with EngineServer() as server, Gateway(server, flags=flags) as gateway:

        def ask(path: str, **body: object) -> httpx.Response:
            return gateway.ask(path, {"model": "m", "input": "a", **body}, headers=headers)

        ranked, counted = ask("/v1/rerank"), ask("/v1/messages/count_tokens")
        large = ask("/v1/embeddings", dimensions=40_000)
        answers = [ranked, counted, large, ask("/v1/embeddings")]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert ranked.json() == RANKED
        assert large.json()["data"][0]["embedding"] == [0.5, 1.5] * 20_000
        assert int(answers[-1].headers["x-ratelimit-remaining-tokens"]) == 0
        metrics = http.get(gateway.url + "/metrics", headers=headers).text
        for path, tokens in (("rerank", 9), ("embeddings", 40_000)):
            name = "makespan_relayed_tokens_total"
            assert f'{name}{{kind="prompt",path="{path}"}} {tokens}.0' in metrics
            assert f'{name}{{kind="output",path="{path}"}} 0.0' in metrics
        billed = re.search(r'tenant_slot_seconds_total\{tenant="search"\} (\S+)', metrics)
        assert billed
        assert float(billed[1]) > 1.0  # what so many tokens take of any engine
        eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(row["tenant"], row["path"], row["prompt_tokens"]) for row in rows] == [
        ("search", "rerank", 9),
        ("search", "embeddings", 40_000),
    ]


def test_forms_pass_byte_by_byte(fleet: Fleet) -> None:
    gateway, servers = fleet
    audio = bytes(range(256)) * 4000
    file: tuple[str | None, bytes] = ("a.wav", audio)
    parts = {"file": file, "prompt": (None, b"model=m"), "model": (None, b"other")}
    with http.Client() as client:
        request = client.build_request(
            "POST", gateway.url + "/v1/audio/transcriptions", files=parts
        )
        sent = request.read()
        for _ in range(3):
            answer = client.send(request).json()
            assert answer["text"] == hashlib.sha256(sent).hexdigest()
    assert servers[0].told[-1].path == "/v1/audio/transcriptions"
    head = {"content-type": request.headers["content-type"], "origin": "http://evil.example"}
    refused = http.post(str(request.url), content=sent, headers=head)
    assert refused.status_code == 415


def test_a_path_that_the_engine_lacks_has_the_engines_own_answer(fleet: Fleet) -> None:
    gateway, _ = fleet
    answer = gateway.ask("/v1/nowhere", {"model": "m"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "Not Found")
    assert gateway.ask("/v1/nowhere", method="GET").status_code == 404


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path",
    ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/loads", "/V1/embeddings", "/pause",
     "/sleep", "/collective_rpc", "/server_info", "/metrics/x", "/v1/%2e%2e/pause", "/v1//pause",
     "/v1/x/..%2f..%2fsleep", "/v1%2fload_lora_adapter", "/makespan/v1/state",
     "/makespan/v1/recall", "/v1/update_weights_from_disk", "/generate"],
)  # fmt: skip
def test_what_administers_engines_never_reaches_one(fleet: Fleet, method: str, path: str) -> None:
    gateway, servers = fleet
    before = [len(server.told) for server in servers]
    answer = gateway.ask(path, {"model": "m"} if method == "POST" else None, method)
    assert answer.status_code in (404, 405)
    assert [len(server.told) for server in servers] == before


@pytest.mark.parametrize("fails", [1, 2])
def test_who_cannot_be_reached_is_left_for_another(fails: int) -> None:
    """So many workers reset connections for two requests; where there is no other, that is told.

    A connection that was open already is tried once more, so how many they reset is open.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(EngineServer(number=k)) for k in range(2)]
        gateway = stack.enter_context(Gateway(*servers))
        body, answers = {"model": "m", "input": "a"}, []
        for resets in (99, 99, 0):
            for server in servers[:fails]:
                server.fails = resets
            answers.append(gateway.ask("/v1/embeddings", body))
        wanted = [200, 200, 200] if fails == 1 else [502, 502, 200]
        assert [answer.status_code for answer in answers] == wanted
        counts = scrape(gateway.url).values
        done = 'makespan_relayed_requests_total{outcome="completed",path="embeddings"}'
        assert counts[done] == wanted.count(200)


@pytest.mark.parametrize(
    ("method", "path", "others", "family"),
    [
        ("POST", "/v1/embeddings", (), "embeddings"),
        ("POST", "/v1/audio/speech", (), "audio"),
        ("POST", "/v1/uploads", (), "other"),
        ("GET", "/v1/responses/resp_1", (), "responses"),
        ("POST", "/generate", (), None),
        ("POST", "/generate", ("/generate",), "other"),
        ("POST", "/generate/stream", ("/generate",), "other"),
        ("POST", "/generated", ("/generate",), None),
        ("POST", "/v1/images/edits/", (), "images"),
        ("PUT", "/v1/embeddings", (), None),
        ("POST", "/", (), None),
    ],
)
def test_families(method: str, path: str, others: tuple[str, ...], family: str | None) -> None:
    assert family_of(method, path, others) == family


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v1/responses/resp_1", "resp_1"),
        ("DELETE", "/v1/responses/resp_1/", "resp_1"),
        ("GET", "/v1/responses/resp_1/input_items", "resp_1"),
        ("POST", "/v1/responses/resp_1/cancel", "resp_1"),
        ("POST", "/v1/responses/input_tokens", None),
        ("POST", "/v1/responses/compact/", None),
        ("GET", "/v1/responses/", None),
        ("GET", "/v1/responses", None),
        ("GET", "/v1/responsesx/a", None),
        ("POST", "/v1/embeddings", None),
    ],
)
def test_which_answer_a_path_is_about(method: str, path: str, name: str | None) -> None:
    assert response_id(method, path) == name


def test_other_names_and_a_default() -> None:
    """Workers get the name that they know; the rest of a body stays as it came."""
    with ExitStack() as stack:
        servers = [stack.enter_context(EngineServer(name)) for name in ("old", "new")]
        flags = ("--alias", "gpt-4o=old", "--alias", "chat=new:0.5,old:0.5", "--default-model",
                 "gpt-4o")  # fmt: skip
        gateway = stack.enter_context(Gateway(*servers, flags=flags))
        listed = gateway.ask("/v1/models", method="GET").json()["data"]
        assert [row["id"] for row in listed] == ["old", "new", "gpt-4o", "chat"]
        assert gateway.ask("/v1/models/chat", method="GET").json()["alias_of"] == ["new", "old"]
        tools = [{"type": "function", "function": {"name": "f", "model": "gpt-4o"}}]
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": '"model"'}]}
        answer = gateway.ask("/v1/chat/completions", {**body, "tools": tools})
        assert (answer.json()["model"], answer.headers["x-makespan-model"]) == ("old", "old")
        assert json.loads(servers[0].told[-1].body) == {**body, "tools": tools, "model": "old"}
        told = explained(gateway, answer.headers["x-request-id"])
        assert (told["model"], told["alias"]) == ("old", "gpt-4o")
        del body["model"]
        for path, unnamed in (("/v1/chat/completions", body), ("/v1/embeddings", {"input": "a"})):
            answer = gateway.ask(path, unnamed)
            assert (answer.json()["model"], answer.headers["x-makespan-model"]) == ("old", "old")
        for path, asked in (("/v1/responses", RESPONSE), ("/v1/embeddings", {"input": "a"})):
            found = set[str]()
            for k in range(24):
                headers = {"x-session-id": f"s-{k % 12}"}
                answer = gateway.ask(path, {**asked, "model": "chat"}, headers=headers)
                found.add(f"{k % 12} {answer.json()['model']}")
                assert answer.headers["x-makespan-model"] == answer.json()["model"]
            assert len(found) == 12, "each session on one side"
            assert len({one.split()[1] for one in found}) == 2
        first = gateway.ask("/v1/responses", {**RESPONSE, "model": "chat"}).json()
        for _ in range(4):
            more = {**RESPONSE, "model": "chat", "previous_response_id": first["id"]}
            assert gateway.ask("/v1/responses", more).json()["model"] == first["model"]
        with http.Client() as client:
            file: tuple[str | None, bytes] = ("a.wav", b"RIFF" * 10)
            parts = {"file": file, "model": (None, b"gpt-4o")}
            client.post(gateway.url + "/v1/audio/transcriptions", files=parts)
        assert b'name="model"\r\n\r\nold\r\n' in servers[0].told[-1].body


def test_all_names_of_a_worker_are_served_through_a_sidecar() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(EngineServer("base", "adapter/1", "other"))
        sidecar = stack.enter_context(
            Process("agent", "--port", "0", "--engine", "openai", "--upstream", server.url)
        )
        url = sidecar.wait_for(r"listening url=(\S+)")
        gateway = stack.enter_context(Process("gateway", "--port", "0", "--worker", url))
        front = gateway.wait_for(r"listening url=(\S+)")
        gateway.wait_for("(worker is up)")
        listed = http.get(front + "/v1/models").json()["data"]
        assert {row["id"] for row in listed} == {"base", "adapter/1", "other"}
        for path, body in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
            ("/v1/responses", {"input": "a"}),
            ("/v1/embeddings", {"input": "a"}),
        ):
            answer = http.post(front + path, json={"model": "adapter/1", **body})
            assert (answer.status_code, answer.json()["model"]) == (200, "adapter/1")
        for stream, path in ((True, "/v1/responses"), (True, "/v1/messages")):
            asked = {**MESSAGES, "input": "hi", "model": "other", "stream": stream}
            answer = http.post(front + path, json=asked, headers=VERSION)
            assert answer.status_code == 200
            assert answer.text.rstrip().endswith("}")
        counts = scrape(url).values
        assert counts['makespan_requests_total{model="base",outcome="completed"}'] == 4


def test_with_keys_answers_are_their_tenants_own_and_names_what_a_key_allows(
    tmp_path: Path,
) -> None:
    secrets = {name: f"mk-{name}-{'x' * 40}" for name in ("a", "b")}
    tables = [
        Key(sha256=hash_of(secrets["a"]), tenant="a"),
        Key(sha256=hash_of(secrets["b"]), tenant="b", models=("gpt-4o",)),
    ]
    file = tmp_path / "keys.toml"
    file.write_text("\n".join(table.to_toml() for table in tables))
    a, b = ({"x-api-key": secret} for secret in secrets.values())
    with EngineServer("m") as server:
        flags = ("--keys", str(file), "--alias", "gpt-4o=m")
        with Gateway(server, flags=flags) as gateway:
            made = gateway.ask("/v1/responses", RESPONSE, headers=a)
            path = f"/v1/responses/{made.json()['id']}"
            more = {"input": "so?", "previous_response_id": made.json()["id"]}
            for key, status in ((a, 200), (b, 404), ({}, 401)):
                assert gateway.ask(path, method="GET", headers=key).status_code == status
                asked = {**more, "model": "gpt-4o"}
                assert gateway.ask("/v1/responses", asked, headers=key).status_code == status
            assert gateway.ask(path, method="DELETE", headers=b).status_code == 404
            for path, body in (("/v1/messages", MESSAGES), ("/v1/embeddings", {"input": "a"})):
                headers = {**VERSION, **b}
                other = gateway.ask(path, {**body, "model": "gpt-4o"}, headers=headers)
                assert other.status_code == 200
                assert gateway.ask(path, {**body, "model": "m"}, headers=headers).status_code == 403
            listed = gateway.ask("/v1/models", method="GET", headers=b).json()["data"]
            assert [row["id"] for row in listed] == ["gpt-4o"]
            refused = gateway.ask("/v1/messages", MESSAGES, headers=VERSION)
            assert refused.json()["error"]["type"] == "authentication_error"
            assert not any(
                secret in call.head for call in server.told for secret in secrets.values()
            )


@pytest.mark.parametrize("first", ["/v1/embeddings", "/v1/chat/completions"])
def test_what_is_relayed_and_what_is_planned_take_places_from_each_other(first: str) -> None:
    body = {"model": "m", "input": "a", "messages": [{"role": "user", "content": "hi"}]}
    flags = ("--max-requests", "1")
    with (
        EngineServer("m") as server,
        ThreadPoolExecutor(1) as pool,
        Gateway(server, flags=flags) as gateway,
    ):
        server.holds = True
        held = pool.submit(gateway.ask, first, body)
        eventually(lambda: server.held == 1)
        for path in ("/v1/embeddings", "/v1/chat/completions"):
            refused = gateway.ask(path, body)
            assert refused.status_code == 503
            assert "too many requests" in refused.text
        server.holds = False
        assert held.result().status_code == 200
        assert gateway.ask("/v1/chat/completions", body).status_code == 200


def test_any_process_knows_which_worker_keeps_an_answer() -> None:
    """Each request comes over a connection of its own, and the kernel says to which process."""
    with ExitStack() as stack:
        servers = [stack.enter_context(EngineServer(number=k)) for k in range(2)]
        gateway = stack.enter_context(Gateway(*servers, processes=2))
        for _ in range(8):
            first = gateway.ask("/v1/responses", RESPONSE)
            name, worker = first.json()["id"], first.headers["x-makespan-worker"]
            for _ in range(3):
                more = gateway.ask("/v1/responses", {**RESPONSE, "previous_response_id": name})
                assert (more.status_code, more.headers["x-makespan-worker"]) == (200, worker)
            assert gateway.ask(f"/v1/responses/{name}", method="GET").json()["id"] == name
        unknown = gateway.ask("/v1/responses/resp_x%2f..", method="GET")
        assert unknown.status_code == 404
        assert http.get(gateway.url + "/makespan/v1/kept/resp_0-0").status_code == 404
