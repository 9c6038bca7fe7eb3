"""What a key does not allow it does not allow by any other way to say it; nor do answers help."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.http.relayed import is_for_any_key
from router.settings.keys import Key, hash_of
from solver.batching.priority import Priority
from tests import http
from tests.e2e.test_other_apis import RESPONSE, Gateway
from tests.engine_server import EngineServer
from tests.faulty_server import Call
from tests.waiting import eventually

SECRETS = {
    name: f"mk-{name}-{'x' * 40}"
    for name in ("some", "admin", "alias", "first", "last", "bulk", "urgent", "leaver")
}
KEYS = (
    Key(sha256=hash_of(SECRETS["some"]), tenant="some", models=("m",)),
    Key(sha256=hash_of(SECRETS["admin"]), tenant="ops", admin=True),
    Key(sha256=hash_of(SECRETS["alias"]), tenant="alias", models=("gpt",)),
    Key(sha256=hash_of(SECRETS["first"]), tenant="first", tokens_per_minute=5000),
    Key(sha256=hash_of(SECRETS["last"]), tenant="last", tokens_per_minute=5000),
    Key(sha256=hash_of(SECRETS["leaver"]), tenant="leaver", tokens_per_minute=5000),
    Key(sha256=hash_of(SECRETS["bulk"]), tenant="bulk", priority=Priority.BULK),
    Key(sha256=hash_of(SECRETS["urgent"]), tenant="urgent", priority=Priority.INTERACTIVE),
)
FORM, TEXT, WWW = (
    "multipart/form-data; boundary=B",
    "text/plain",
    "application/x-www-form-urlencoded",
)
AUDIO = "/v1/audio/transcriptions"
OTHER = b'{"model":"other","input":"a"}'


class Engine(EngineServer):
    """May tell usage before data, as llama.cpp does."""

    usage_first = False

    async def _json(self, call: Call, answer: object, status: int = 200) -> None:
        if self.usage_first and isinstance(answer, dict):
            answer = dict(sorted(answer.items(), key=lambda row: row[0] != "usage"))
        await super()._json(call, answer, status)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("m", "other") as made:
        yield made


@pytest.fixture(scope="module")
def gateway(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text("\n".join(key.to_toml() for key in KEYS))
    flags = ("--keys", str(file), "--alias", "gpt=m,both=m,other", "--default-model", "gpt",
             "--relay", "/v1/skills,/generate")  # fmt: skip
    with Gateway(engine, flags=flags) as made:
        yield made


def ask(
    gateway: Gateway, name: str, path: str, body: bytes | dict[str, Any], *more: tuple[str, str]
) -> httpx.Response:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [("authorization", f"Bearer {SECRETS[name]}"), *more]
    return http.request("POST", gateway.url + path, content=sent, headers=headers)


def form(*heads: str) -> bytes:
    """Of ``name="x"`` and so on, each with its value after an equals sign of its own."""
    parts = (head.rsplit(" = ", 1) for head in heads)
    fields = (f"--B\r\ncontent-disposition: form-data; {a}\r\n\r\n{b}\r\n" for a, b in parts)
    return ("".join(fields) + "--B--\r\n").encode()


LONG = "x" * 9000
WAYS: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "another": ("/v1/embeddings", OTHER, ("application/json",)),
    "query": ("/v1/embeddings?model=other", b'{"input":"a"}', ("application/json",)),
    "query beside": ("/v1/embeddings?model=other", b'{"model":"m"}', ("application/json",)),
    "two in the query": ("/v1/embeddings?model=m&model=other", b"{}", ("application/json",)),
    "text": ("/v1/embeddings", OTHER, (TEXT,)),
    "text and query": ("/v1/embeddings?model=m", OTHER, (TEXT,)),
    "a browser's form": ("/v1/embeddings?model=m", b"model=other", (WWW,)),
    "two types": ("/v1/embeddings", b'{"model":"m"}', ("application/json", TEXT)),
    "text first": ("/v1/embeddings?model=m", OTHER, (TEXT, "application/json")),
    "twice": ("/v1/embeddings", b'{"model":"other","model":"m"}', ("application/json",)),
    "escaped": ("/v1/embeddings", rb'{"model":"m","mod\u0065l":"other"}', ("application/json",)),
    "capitals": ("/v1/embeddings", b'{"model":"m","MODEL":"other"}', ("application/json",)),
    "UTF-16": ("/v1/embeddings?model=m", OTHER.decode().encode("utf-16"), ("application/json",)),
    "planned": ("/v1/chat/completions", b'{"model":"m","model":"other"}', ("application/json",)),
    "an adapter": ("/v1/embeddings", b'{"model":"m","lora_path":"other"}', ("application/json",)),
    "adapters": ("/v1/chat/completions", b'{"model":"m","lora_path":[null,"other"]}',
                 ("application/json",)),
    "two fields": (AUDIO, form('name="model" = m', "name=model = other"), (FORM,)),
    "a file's name": (
        AUDIO, form('name="f"; filename="x; name=model" = m', 'name="model" = other'), (FORM,),
    ),
    "a long head": (AUDIO,
                    form(f'x="{LONG}"; name="model" = other', 'name="model" = m'), (FORM,)),
    "two boundaries": (AUDIO, form('name="model" = m'),
                       ("multipart/form-data; boundary=B; boundary=A",)),
    "another charset": (AUDIO, form('name="model" = m', 'name="+AG0-odel" = other'),
                        (FORM + "; charset=utf-7",)),
    "a form as text": (AUDIO + "?model=m", form('name="model" = other'), (TEXT,)),
    "what stands before": (AUDIO, b"x\r\n" + form('name="model" = m'), (FORM,)),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_say_it_gets_another_model(gateway: Gateway, engine: Engine, way: str) -> None:
    path, body, kinds = WAYS[way]
    before = len(engine.told)
    told = ask(gateway, "some", path, body, *(("content-type", kind) for kind in kinds))
    assert told.status_code in (400, 403, 415), told.text
    assert told.json()["error"]["message"]
    assert len(engine.told) == before
    good = form('name="model" = m', 'name="file"; filename="x; name=model" = other')
    for path, body, kind in (
        ("/v1/embeddings", b'{"model":"m","input":"a"}', "application/json"),
        ("/v1/embeddings?model=m", b'{"model":"m","input":"a"}', "application/json"),
        (AUDIO, good, FORM),
    ):
        assert ask(gateway, "some", path, body, ("content-type", kind)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact"])
@pytest.mark.parametrize("told", ["conv_x", {"id": "conv_x"}, {"id": None}, 7])
def test_no_key_names_a_conversation_that_may_be_anothers(
    gateway: Gateway, engine: Engine, path: str, told: object
) -> None:
    """As it may not ask for one by its path: engines know no tenants."""
    before = len(engine.told)
    body = {"model": "m", "input": "a", "conversation": told}
    refused = ask(gateway, "some", path, body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_only")
    assert len(engine.told) == before
    assert ask(gateway, "some", path, {**body, "conversation": None}).status_code == 200
    assert ask(gateway, "admin", path, body).status_code == 200
    chat = {"model": "m", "messages": [{"role": "user", "content": "a"}], "conversation": told}
    assert ask(gateway, "some", "/v1/chat/completions", chat).status_code == 200


def test_conversations_are_for_every_key_where_operators_say_so(
    engine: Engine, tmp_path: Path
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(KEYS[0].to_toml())
    with Gateway(engine, flags=("--keys", str(file), "--relay", "/v1/conversations")) as opened:
        body = {"model": "m", "input": "a", "conversation": "conv_x"}
        assert ask(opened, "some", "/v1/responses", body).status_code == 200


KEPT = ["/v1/conversations/x", "/v1/chat/completions/x", "/v1/vector_stores", "/v1/vector_stores/x",
        "/v1/fine_tuning/jobs", "/v1/messages/batches", "/v1/messages/batches/x/results",
        "/v1/assistants", "/v1/containers", "/v1/embeddings/x", "/v1/audio/voices", "/v1/nowhere",
        "/v1/skill", "/tokenize/x"]  # fmt: skip
NEVER = ["/v1/admin/reload", "/v1/cache/flush", "/v1/kv/reset", "/v1/debug", "/v1/load_lora",
         "/v1/CACHE", "/v1/internal/x"]  # fmt: skip
ANYBODY = ["/v1/embeddings", "/v1/embeddings/", "/tokenize", "/v1/rerank", "/v2/rerank",
           "/v1/skills",
           "/v1/skills/x", "/generate"]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_is_kept_for_others_wants_the_right_admin(
    gateway: Gateway, engine: Engine, method: str
) -> None:
    """And what changes an engine goes nowhere."""

    def asked(name: str, path: str) -> tuple[int, int]:
        before = len(engine.told)
        headers = {"authorization": f"Bearer {SECRETS[name]}"}
        body = {"model": "m", "input": "a"} if method == "POST" else None
        told = http.request(method, gateway.url + path, json=body, headers=headers)
        return told.status_code, len(engine.told) - before

    for path in KEPT:
        assert asked("some", path) == (403, 0), path
        assert asked("admin", path)[1] == 1, path
    for path in NEVER:
        assert asked("admin", path) == (404, 0), path
    for path in ANYBODY:
        free = method == "POST" or path.startswith(("/v1/skills", "/generate"))
        assert asked("some", path)[1] == free, path
        assert is_for_any_key(method, path, ("/v1/skills", "/generate")) == free


def test_an_answers_name_that_is_taken_stays_its_owners(gateway: Gateway) -> None:
    """Engines take it from the body."""
    for name in ("admin", "some"):
        made = ask(gateway, name, "/v1/responses", {**RESPONSE, "request_id": "resp_taken"})
        assert (made.status_code, made.json()["id"]) == (200, "resp_taken")
    for method, suffix in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
        for name, known in (("some", False), ("admin", True)):
            told = http.request(
                method, f"{gateway.url}/v1/responses/resp_taken{suffix}",
                headers={"authorization": f"Bearer {SECRETS[name]}"},
            )  # fmt: skip
            assert (told.json().get("error", {}).get("code") != "response_not_found") == known


@pytest.mark.parametrize("place", ["first", "last"])
def test_tokens_count_wherever_an_answer_tells_them(
    gateway: Gateway, engine: Engine, place: str
) -> None:
    """Nobody compresses it on the way, whatever its client takes."""
    engine.usage_first, before = place == "first", len(engine.told)
    asked = {"model": "m", "input": "a", "dimensions": 40_000}
    told = ask(gateway, place, "/v1/embeddings", asked, ("accept-encoding", "gzip"))
    assert len(told.content) > 128 << 10
    assert told.content.index(b"usage") < 100 or place == "last"
    assert "accept-encoding" not in engine.told[before].head.lower()
    assert ask(gateway, place, "/v1/embeddings", asked).status_code == 429


def test_many_at_once_have_no_more_than_their_minute_and_who_leaves_pays(
    gateway: Gateway, engine: Engine
) -> None:
    """What an answer costs, it tells only later, or never."""
    long = {"model": "m", "input": "words of it " * 1500}
    for _ in range(3):
        assert ask(gateway, "leaver", "/tokenize", long).status_code == 200  # its answer tells none
    engine.holds = True
    held, url, body = engine.held, httpx.URL(gateway.url), json.dumps(long).encode()
    with socket.create_connection((url.host, url.port or 80)) as client:
        key = SECRETS["leaver"]
        lines = (
            "POST /v1/embeddings HTTP/1.1", "host: 127.0.0.1", "content-type: application/json",
            f"authorization: Bearer {key}", f"content-length: {len(body)}", "", "",
        )  # fmt: skip
        client.sendall("\r\n".join(lines).encode() + body)
        eventually(lambda: engine.held > held)
        assert ask(gateway, "leaver", "/v1/embeddings", long).status_code == 429
    eventually(lambda: 'outcome="cancelled",path="embeddings"' in metrics(gateway))
    engine.holds = False
    assert ask(gateway, "leaver", "/v1/embeddings", long).status_code == 429


def metrics(gateway: Gateway) -> str:
    headers = {"authorization": f"Bearer {SECRETS['admin']}"}
    return http.get(f"{gateway.url}/metrics", headers=headers).text


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions"])
def test_a_key_for_a_name_may_leave_it_out_where_it_is_the_default(
    gateway: Gateway, path: str
) -> None:
    body = {"input": "a", "messages": [{"role": "user", "content": "hi"}]}
    assert ask(gateway, "alias", path, body).status_code == 200
    assert ask(gateway, "alias", path, {**body, "model": "gpt"}).status_code == 200
    for model in ("m", "other"):
        assert ask(gateway, "alias", path, {**body, "model": model}).status_code == 403


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions"])
def test_of_an_alias_a_key_has_the_models_that_it_may_use(gateway: Gateway, path: str) -> None:
    """Whichever it would have drawn."""
    body = {"model": "both", "input": "a", "messages": [{"role": "user", "content": "hi"}]}
    for name, models in (("some", {"m"}), ("admin", {"m", "other"}), ("alias", {None})):
        told = [ask(gateway, name, path, body, ("x-session-id", str(k))) for k in range(16)]
        assert {one.headers.get("x-makespan-model") for one in told} == models
        assert {one.status_code for one in told} == ({403} if name == "alias" else {200})


RANKS: dict[str, tuple[object, ...]] = {
    "urgent": (None, 0, -5, 5, "-5"), "admin": (None, 0), "some": (None, 0), "bulk": (None,),
}  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions"])
@pytest.mark.parametrize("name", RANKS)
def test_an_engines_own_priority_is_for_keys_that_may_be_interactive(
    gateway: Gateway, engine: Engine, path: str, name: str
) -> None:
    """Whichever way round the engine counts."""
    for rank in (None, 0, -5, 5, "-5", [1]):
        body = {"model": "m", "input": "a", "messages": [], "priority": rank}
        before = len(engine.told)
        allowed = rank in RANKS[name] or name == "urgent"
        told = ask(gateway, name, path, body)
        assert (told.status_code == 200, len(engine.told) > before) == (allowed, allowed), rank
        assert allowed or told.json()["error"]["code"] == "priority_not_allowed"


@pytest.mark.parametrize("name", ["api-key", "cookie", "x-goog-api-key", "x-anything"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions"])
def test_no_header_carries_a_key_to_a_worker(
    gateway: Gateway, engine: Engine, path: str, name: str
) -> None:
    body = {"model": "m", "input": "a", "messages": [{"role": "user", "content": "hi"}]}
    key = SECRETS["admin"]
    value = f"a=b; key={key}" if name == "cookie" else key
    assert ask(gateway, "admin", path, body, (name, value)).status_code == 200
    assert key not in engine.told[-1].head
