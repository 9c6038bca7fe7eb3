"""A gateway with keys: who gets in, what each may have, and that no key is ever told."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from router.gateway.admission.door import OPEN, is_own
from router.gateway.app import create_app
from router.settings.commands import load
from router.settings.gateway import GatewaySettings
from router.settings.keys import Key, hash_of
from solver.batching.priority import Priority
from tests import http
from tests.faulty_server import MODEL, FaultyServer, after, good
from tests.helpers import Fleet, Process
from tests.waiting import eventually

TEXT: dict[str, Any] = {"model": MODEL, "prompt": "How many clips?", "max_tokens": 8}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "How many?"}]}
KEYS = {
    name: f"mk-{name}-{'x' * 40}"
    for name in ("admin", "plain", "fast", "one", "few", "ten", "elsewhere")
}
PRIORITY = "x-makespan-priority"
HINT = {"x-makespan-expected-tokens": "8"}
NONE: Mapping[str, str] = {}
WRONG = "mk-wrong-" + "y" * 40
ENTRIES = {
    "admin": Key(sha256=hash_of(KEYS["admin"]), tenant="ops", admin=True),
    "plain": Key(sha256=hash_of(KEYS["plain"]), tenant="search", weight=3.0),
    "fast": Key(sha256=hash_of(KEYS["fast"]), tenant="chat", priority=Priority.INTERACTIVE),
    "one": Key(sha256=hash_of(KEYS["one"]), tenant="lone", requests_per_minute=1),
    "few": Key(sha256=hash_of(KEYS["few"]), tenant="few", tokens_per_minute=600),
    "ten": Key(sha256=hash_of(KEYS["ten"]), tenant="ten", requests_per_minute=10),
    "elsewhere": Key(sha256=hash_of(KEYS["elsewhere"]), tenant="e", models=("another",)),
}


class Heads(FaultyServer):
    """Keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def heard(self, head: str) -> None:
        self.seen.append(head)


class Guarded:
    """A gateway with keys, before a server that keeps what it hears."""

    def __init__(self, server: Heads, gateway: Process, url: str, path: Path) -> None:
        self.server, self.gateway, self.url, self.path = server, gateway, url, path

    def post(
        self, key: str | None, body: dict[str, Any] = TEXT, headers: Mapping[str, str] = NONE
    ) -> httpx.Response:
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        return http.post(self.url + path, json=body, headers={**bearer(key), **headers})

    def why(self, name: str) -> dict[str, Any]:
        page = f"{self.url}/makespan/v1/requests/{name}"
        found: dict[str, Any] = http.get(page, headers=bearer("admin")).json()
        return found

    def say(self, text: str) -> None:
        """The file says this from now on."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)


def bearer(name: str | None) -> dict[str, str]:
    return {} if name is None else {"authorization": f"Bearer {KEYS.get(name, name)}"}


def file_of(*names: str) -> str:
    return "\n".join(ENTRIES[name].to_toml() for name in names or ENTRIES)


@contextmanager
def guarded(folder: Path, *flags: str) -> Iterator[Guarded]:
    path = folder / "keys.toml"
    path.write_text(file_of())
    told = ("--port", "0", "--log-level", "debug", "--keys", str(path))
    with Heads() as server, Process("gateway", *told, "--worker", server.url, *flags) as gateway:
        url = gateway.wait_for(r"listening url=(\S+)")
        gateway.wait_for("(worker is up)")
        yield Guarded(server, gateway, url, path)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("keys")) as made:
        yield made
    told = [*made.gateway.lines, *made.server.seen]
    secret = [*KEYS.values(), WRONG, *(base64.b64encode(b":" + k.encode()).decode() for k in KEYS)]
    # Whatever else the tests of this file have sent.
    assert not [line for line in told for key in secret if key.lower() in line.lower()]
    assert len(made.server.seen) > 3


def test_every_path_of_a_gateway_has_its_door(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(file_of())
    app = create_app(
        load(GatewaySettings, ["--worker", "http://w:1", "--keys", str(path), "--docs"])
    )
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    engines = {path for path in paths if path.startswith("/v1/")}
    assert {"/v1/completions", "/v1/chat/completions"} <= engines
    assert not [path for path in paths - engines - OPEN if not is_own(path)]
    assert not [path for path in engines | OPEN if is_own(path)]


def test_a_fleet_that_is_tried_out_may_have_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(file_of())
    with Fleet("--keys", str(path), "--agents", "1") as fleet:
        assert "authorization: Bearer KEY" in "\n".join(fleet.lines)
        body = {"model": "llama-65b", "prompt": "How many?", "max_tokens": 2}
        for key, status in ((None, 401), ("admin", 200)):
            told = http.post(fleet.url + "/v1/completions", json=body, headers=bearer(key))
            assert told.status_code == status


def test_who_has_no_key_sees_nothing_but_that_it_lives(one: Guarded) -> None:
    calls = one.server.calls
    gets = ("/v1/models", "/metrics", "/", "/dashboard/app.js", "/makespan/v1/workers",
            "/makespan/v1/events", "/makespan/v1/requests/x", "/v1/models/m", "/no/s")  # fmt: skip
    posts = ("/v1/completions", "/v1/chat/completions", "/v1/completions/", "/v1/embeddings")
    for method, path in [("GET", path) for path in gets] + [("POST", path) for path in posts]:
        basic = base64.b64encode(f":{WRONG}".encode()).decode()
        for headers in ({}, bearer(WRONG), {"x-api-key": WRONG}, {"authorization": "Bearer"},
                        {"authorization": f"Basic {basic}"}, {"authorization": KEYS["admin"]},
                        bearer(hash_of(KEYS["admin"])), {"authorization": "Basic ü"}):  # fmt: skip
            sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            answer = http.request(method, one.url + path, json=TEXT, headers=sent)
            assert answer.status_code == 401, (path, headers)
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"].startswith(
                "Basic" if is_own(path) else "Bearer"
            )
    for path in OPEN:
        assert http.get(one.url + path).status_code == 200
    assert one.server.calls == calls


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("header", ["authorization", "x-api-key", "both"])
def test_a_key_lets_in_by_either_header_and_no_worker_gets_it(
    one: Guarded, header: str, stream: bool
) -> None:
    key = KEYS["plain"]
    headers = {"authorization": f"bearer {key}"} if header != "x-api-key" else {}
    headers |= {"x-api-key": key} if header != "authorization" else {}
    for path, body in (("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)):
        begun = len(one.server.seen)
        answer = http.post(one.url + path, json=body | {"stream": stream}, headers=headers)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
        heads = [head for head in one.server.seen[begun:] if head.startswith("post")]
        assert heads
        assert not [head for head in heads if "authorization" in head or "x-api-key" in head]


def test_a_key_decides_whose_it_is_and_how_urgent_it_may_be(one: Guarded) -> None:
    asked = {"x-makespan-tenant": "somebody-else", "x-makespan-priority": "interactive"}
    hurried = asked | {"x-makespan-deadline-ms": "60000"}
    for key, tenant, priority, deadline in (
        ("plain", "search", "default", None),
        ("fast", "chat", "interactive", 60.0),
    ):
        name = f"whose-{key}"
        assert one.post(key, headers=hurried | {"x-request-id": name}).status_code == 200
        why = one.why(name)
        found = why["tenant"], why["priority"], why["deadline_s"]
        assert found == (tenant, priority, deadline)
    lower = {"x-makespan-priority": "bulk", "x-request-id": "whose-bulk"}
    assert one.post("fast", headers=lower).status_code == 200
    assert one.why("whose-bulk")["priority"] == "bulk"


@pytest.mark.parametrize("stream", [False, True])
def test_a_tier_of_service_is_a_priority_within_what_the_key_allows(
    one: Guarded, stream: bool
) -> None:
    """The header goes before it; others' tiers are none of ours, and every body passes as it is."""
    for key, tier, header, told, priority in (
        ("fast", "priority", None, "interactive", "interactive"),
        ("fast", "default", None, "default", "default"),
        ("fast", "flex", None, "bulk", "bulk"),
        ("fast", "flex", "default", "default", "default"),
        ("plain", "priority", None, "default", "default"),
        ("plain", "flex", None, "bulk", "bulk"),
        ("fast", "auto", None, None, "default"),
        ("fast", "scale", "bulk", None, "bulk"),
        ("fast", 3, None, None, "default"),
    ):
        name = f"tier-{key}-{tier}-{header}-{stream}"
        headers = {"x-request-id": name} | ({} if header is None else {PRIORITY: header})
        answer = one.post(key, TEXT | {"service_tier": tier, "stream": stream}, headers)
        assert answer.status_code == 200
        assert answer.headers.get(PRIORITY) == told
        why = one.why(name)
        assert why["priority"] == priority
        assert (why["slo"]["ttft"]["target_s"] is None) == (priority == "bulk")


def test_own_pages_want_the_right_for_them_and_take_it_as_a_password(one: Guarded) -> None:
    basic = base64.b64encode(f"anybody:{KEYS['admin']}".encode()).decode()
    for path in ("/", "/metrics", "/makespan/v1/workers", "/dashboard/app.js"):
        refused = http.get(one.url + path, headers=bearer("plain"))
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "admin_only"
        for headers in (bearer("admin"), {"authorization": f"Basic {basic}"}):
            assert http.get(one.url + path, headers=headers).status_code == 200
    # A browser that has been told it sends it along wherever a page makes it ask.
    asked = {"authorization": f"Basic {basic}"}
    assert http.post(one.url + "/v1/completions", json=TEXT, headers=asked).status_code == 401


def test_a_key_uses_and_sees_its_models_alone(one: Guarded) -> None:
    assert http.get(one.url + "/v1/models", headers=bearer("elsewhere")).json()["data"] == []
    seen = http.get(one.url + "/v1/models", headers=bearer("plain")).json()["data"]
    assert [model["id"] for model in seen] == [MODEL]
    assert http.get(f"{one.url}/v1/models/{MODEL}", headers=bearer("elsewhere")).status_code == 404
    for body in (TEXT, {**TEXT, "model": ""}, CHAT):
        refused = one.post("elsewhere", body)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "model_not_allowed"


def test_openai_s_client_is_told_what_it_knows(one: Guarded) -> None:
    def client(key: str) -> openai.OpenAI:
        known = KEYS.get(key, key)
        return openai.OpenAI(base_url=one.url + "/v1", api_key=known, max_retries=0)

    with client(WRONG) as nobody, pytest.raises(openai.AuthenticationError):
        nobody.completions.create(**TEXT)
    with client("elsewhere") as other, pytest.raises(openai.PermissionDeniedError):
        other.completions.create(**TEXT)
    with client("one") as lone:
        raw = lone.completions.with_raw_response.create(**TEXT)
        assert raw.headers["x-ratelimit-limit-requests"] == "1"
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        assert raw.headers["x-ratelimit-reset-requests"].endswith("s")
        assert "x-ratelimit-limit-tokens" not in raw.headers
        with pytest.raises(openai.RateLimitError) as told:
            lone.completions.create(**TEXT)
    head = told.value.response.headers
    assert 1 <= int(head["retry-after"]) <= 60
    assert head["x-ratelimit-remaining-requests"] == "0"
    assert told.value.code == "rate_limit_exceeded"


def test_tokens_are_reserved_as_predicted_and_settled_as_used(one: Guarded) -> None:
    """It says 8, and the server 3 and 8: all that it was let in with beyond that comes back."""
    body = TEXT | {"max_tokens": 8}
    for k in range(4):
        before = one.post("few", body, HINT)
        assert before.status_code == 200, k
    # Each took its prompt, as estimated, and 8; and settled 3 + 8. A minute brings 10 a second.
    remaining = int(before.headers["x-ratelimit-remaining-tokens"])
    assert 600 - 4 * 11 - 60 <= remaining <= 600 - 3 * 11
    large = TEXT | {"max_tokens": 600, "ignore_eos": True}
    refused = one.post("few", large)
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "tokens"
    metrics = http.get(one.url + "/metrics", headers=bearer("admin")).text
    assert 'outcome="rejected_over_share"' in metrics
    assert 'outcome="rejected_unauthorized"' in metrics


def test_keys_change_under_load_without_a_request_lost(tmp_path: Path) -> None:
    with guarded(tmp_path) as made:
        made.server.answer = after(0.02, good)
        over, wrong = threading.Event(), list[httpx.Response]()

        def send() -> None:
            with http.Client(base_url=made.url, headers=bearer("plain")) as client:
                while not over.is_set():
                    answer = client.post("/v1/completions", json=TEXT)
                    if answer.status_code != 200:
                        wrong.append(answer)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            assert made.post("fast").status_code == 200
            made.say(file_of("admin", "plain"))
            eventually(lambda: made.post("fast").status_code == 401)
            made.say(file_of("admin", "plain") + "\n[[key]]\nsha256 = 3\n")
            bad = r"the keys stay as they were.*keys\.toml:(\d+): sha256"
            assert int(made.gateway.wait_for(bad)) > 2
            assert made.post("fast").status_code == 401
            made.path.unlink()
            made.gateway.wait_for(r"the keys stay as they were.*(No such file)")
            made.say(file_of())
            eventually(lambda: made.post("fast").status_code == 200)
            limited = ENTRIES["fast"].model_copy(update={"requests_per_minute": 1.0})
            made.say(file_of("admin", "plain") + "\n" + limited.to_toml())
            eventually(lambda: made.post("fast").status_code == 429)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not wrong
        assert sum("stay as they were" in line for line in made.gateway.lines) == 2


def test_processes_share_a_key_s_limits_and_answer_its_owner_together(tmp_path: Path) -> None:
    with guarded(tmp_path, "--processes", "2") as made:
        counted = 0
        for _ in range(4):  # each over a connection of its own: the kernel deals them out
            counted += made.post("plain").status_code == 200
        text = http.get(made.url + "/metrics", headers=bearer("admin")).text
        served = [line for line in text.splitlines() if "makespan_requests_total{" in line]
        total = sum(float(line.split()[-1]) for line in served if '"completed"' in line)
        assert total == counted == 4
        answer = made.post("few", TEXT, HINT)
        assert answer.headers["x-ratelimit-limit-tokens"] == "600"
        assert made.post(None).status_code == 401


def test_a_key_s_limits_hold_for_all_processes_together(tmp_path: Path) -> None:
    """All of it over one connection, and no more over many, but for what comes back meanwhile."""
    with guarded(tmp_path, "--processes", "3") as made:
        begun, limit = time.monotonic(), "x-ratelimit-limit-requests"
        with http.Client(base_url=made.url, headers=bearer("ten")) as client:
            answers = [client.post("/v1/completions", json=TEXT) for _ in range(10)]
        assert {answer.status_code for answer in answers} == {200}
        answers += [made.post("ten") for _ in range(20)]
        back = (time.monotonic() - begun) / 6
        assert 10 <= sum(answer.status_code == 200 for answer in answers) <= 10 + back
        served = [answer for answer in answers if answer.status_code == 200]
        assert {answer.headers[limit] for answer in served} == {"10"}
        assert "may have 10 requests a minute; 0 are left" in answers[-1].text


def test_a_gateway_does_not_start_with_keys_that_make_no_sense(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("[[key]]\ntenant = 3\n")
    flags = ("--port", "0", "--worker", "http://127.0.0.1:1", "--keys", str(path))
    with Process("gateway", *flags) as gateway:
        gateway.wait_for(r"(keys: \S+keys\.toml:1: sha256)")
        assert gateway.process.wait(60) == 2


def test_what_keys_allow_is_no_secret_in_a_plain_answer(one: Guarded) -> None:
    """Errors quote no key, not even in part."""
    for key in (WRONG, KEYS["elsewhere"], KEYS["one"]):
        text = json.dumps(one.post(key).json())
        assert key[3:20] not in text
