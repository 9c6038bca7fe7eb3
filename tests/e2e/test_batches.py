"""OpenAI's Batch API by OpenAI's client, kept in SQLite and in PostgreSQL."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from router.gateway.batches.database import FILE
from router.settings.keys import Key, hash_of
from tests import http
from tests.e2e.batch_gateway import ENDPOINT, MODEL, Gateway, agents, check, line
from tests.helpers import Process, scrape
from tests.postgres import Postgres, postgres
from tests.waiting import eventually

COUNT = 600


@pytest.fixture(scope="module")
def workers() -> Iterator[list[str]]:
    with agents("--speed", "200", "--slots", "32") as urls:
        yield urls


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def gateway(
    request: pytest.FixtureRequest, workers: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    if request.param == "sqlite":
        store = str(tmp_path_factory.mktemp("batches") / "new")
    else:
        store = request.getfixturevalue("database").database()
    with Gateway(workers, store) as running:
        yield running


def broken(k: int) -> tuple[object, str]:
    """A line that is wrong in one of several ways, and how that is called."""
    body = line(k)["body"]
    kinds: list[tuple[object, str]] = [
        (line(k, url="/v1/chat/completions"), "invalid_url"),
        (line(k, custom_id=7), "invalid_custom_id"),
        (line(k, custom_id="a\0b"), "invalid_custom_id"),
        (line(k, custom_id="line-0"), "duplicate_custom_id"),
        ('{"custom_id": "a', "invalid_json_line"),
        ("[1, 2]", "invalid_json_line"),
        (line(k, method="GET"), "invalid_method"),
        (line(k, body=[]), "invalid_body"),
        (line(k, body={**body, "stream": True}), "stream_unsupported"),
        (line(k, body={**body, "model": "nobody"}), "model_not_found"),
        (line(k, body={**body, "max_tokens": "many"}), "invalid_type"),
    ]
    return kinds[k // 20 % len(kinds)]


def test_some_hundred_lines_of_which_some_are_broken(gateway: Gateway) -> None:
    wrong = {k: broken(k) for k in range(COUNT) if k % 20 == 9}
    lines = [wrong[k][0] if k in wrong else line(k) for k in range(COUNT)]
    name = gateway.create(lines)
    batch = gateway.ended(name)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    good = [k for k in range(COUNT) if k not in wrong]
    assert batch.request_counts.to_dict() == {
        "total": COUNT, "completed": len(good), "failed": len(wrong),
    }  # fmt: skip
    answers = gateway.read(batch.output_file_id)
    assert [one["custom_id"] for one in answers] == [f"line-{k}" for k in good]
    for one in answers:
        response = one["response"]
        assert one["error"] is None
        assert response["status_code"] == 200
        assert len(response["body"]["choices"][0]["text"].split()) == 4
        assert response["request_id"].startswith(name)
    assert batch.usage is not None
    assert batch.usage.output_tokens == 4 * len(good)
    told = [
        one["error"]["code"] if one["error"] else one["response"]["body"]["error"]["code"]
        for one in gateway.read(batch.error_file_id)
    ]
    assert told == [code for _, code in wrong.values()]
    assert batch.errors is not None
    seen = [(k + 1, code) for k, (_, code) in wrong.items()]
    unseen = ("model_not_found", "invalid_type")  # workers say those
    assert [(error.line, error.code) for error in batch.errors.data or ()] == [
        one for one in seen if one[1] not in unseen
    ]
    record = http.get(f"{gateway.url}/makespan/v1/requests/{answers[0]['response']['request_id']}")
    assert record.json()["priority"] == "bulk"


def test_files_and_batches_are_listed_page_by_page(gateway: Gateway) -> None:
    client = gateway.client
    names = [gateway.upload([line(k)]) for k in range(3)]
    first = client.files.list(limit=2, purpose="batch")
    assert [one.id for one in first.data] == names[:0:-1]
    assert first.has_more
    assert [one.id for one in client.files.list(limit=2, purpose="batch")][:3] == names[::-1]
    ascending = [one.id for one in client.files.list(order="asc")]
    assert [name for name in ascending if name in names] == names
    batches = [
        client.batches.create(
            input_file_id=name,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={"of": name},
        ).id
        for name in names
    ]
    assert [one.id for one in client.batches.list(limit=1)][:3] == batches[::-1]
    for name, batch in zip(names, batches, strict=True):
        assert gateway.ended(batch).metadata == {"of": name}
        with pytest.raises(openai.ConflictError, match="is completed and cannot be cancelled"):
            client.batches.cancel(batch)
        assert client.files.retrieve(name).filename == "in.jsonl"
        assert client.files.delete(name).deleted
        with pytest.raises(openai.NotFoundError, match=name):
            client.files.content(name)


def test_what_makes_no_sense_is_refused_by_name(gateway: Gateway) -> None:
    client = gateway.client
    name = gateway.upload([line(0)])
    with pytest.raises(openai.BadRequestError, match="must be 'batch', not 'fine-tune'"):
        client.files.create(file=b"{}", purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="Line 2 is not UTF-8"):
        client.files.create(file=b"{}\n\xff\n", purpose="batch")
    with pytest.raises(openai.BadRequestError, match="'endpoint' must be one of"):
        client.batches.create(
            input_file_id=name, endpoint="/v1/moderations", completion_window="24h"
        )
    with pytest.raises(openai.BadRequestError, match="'completion_window' must be like"):
        client.batches.create(
            input_file_id=name,
            endpoint=ENDPOINT,
            completion_window="soon",  # type: ignore[arg-type]
        )
    with pytest.raises(openai.NotFoundError, match="no file 'file-1'"):
        client.batches.create(input_file_id="file-1", endpoint=ENDPOINT, completion_window="24h")
    with pytest.raises(openai.NotFoundError, match="no file"):
        client.batches.create(input_file_id="a\0", endpoint=ENDPOINT, completion_window="24h")
    with pytest.raises(openai.NotFoundError, match="no batch 'batch_1'"):
        client.batches.retrieve("batch_1")
    with pytest.raises(openai.BadRequestError, match="'metadata' must be an object of at most"):
        client.batches.create(
            input_file_id=name,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={"of": "a\0b"},
        )
    for path, status in (  # what PostgreSQL's text cannot be, and a number that only looks small
        ("/v1/batches/batch_%00", 404), ("/v1/files/%00/content", 404),
        ("/v1/batches?after=%00", 404), ("/v1/files?purpose=%00", 200),
        ("/v1/batches?limit=0000000000000101", 400),
    ):  # fmt: skip
        assert http.get(gateway.url + path).status_code == status, path
    page = http.post(
        f"{gateway.url}/v1/batches/batch_1/cancel", headers={"origin": "http://elsewhere.org"}
    )
    assert page.status_code == 403


def test_one_with_no_good_line_fails_and_says_why(gateway: Gateway) -> None:
    batch = gateway.ended(gateway.create([line(0, method="PUT"), "nothing"]))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert [error.line for error in batch.errors.data or ()] == [1, 2]
    assert len(gateway.read(batch.error_file_id)) == 2


def long_lines(count: int) -> list[object]:
    """Lines that nobody waits for the end of."""
    return [line(k, tokens=1500) for k in range(count)]


def test_one_is_cancelled_with_what_it_has(gateway: Gateway, workers: list[str]) -> None:
    name = gateway.create([line(0), *long_lines(200)[1:]])
    gateway.wait_answered(name, 1)
    with pytest.raises(openai.ConflictError, match=f"worked on by {name}"):
        gateway.client.files.delete(gateway.get(name).input_file_id)
    assert gateway.client.batches.cancel(name).status == "cancelling"
    batch = gateway.ended(name)
    assert batch.status == "cancelled"
    done = gateway.read(batch.output_file_id)
    assert batch.request_counts is not None
    assert 1 <= len(done) == batch.request_counts.completed < 200
    eventually(lambda: all(scrape(url).total("makespan_queue_requests") == 0 for url in workers))
    assert gateway.client.batches.cancel(name).status == "cancelled"


def test_one_whose_window_ends_has_errors_for_the_rest(gateway: Gateway) -> None:
    count = 2000  # however fast this machine is, emulated engines take longer for them
    name = gateway.create([line(0), *long_lines(count)[1:]], window="4s")
    batch = gateway.ended(name)
    assert batch.status == "expired"
    assert batch.expired_at is not None
    done, left = gateway.read(batch.output_file_id), gateway.read(batch.error_file_id)
    assert {one["error"]["code"] for one in left} == {"batch_expired"}
    found = [one["custom_id"] for one in done + left]
    assert len(found) == count
    assert set(found) == {f"line-{k}" for k in range(count)}


def shown(gateway: Gateway) -> list[dict[str, Any]]:
    """The batches on the dashboard, once any is planned."""
    with http.stream("GET", gateway.url + "/makespan/v1/events") as answer:
        for text in answer.iter_lines():
            told = json.loads(text.removeprefix("data: ")) if text.startswith("data: ") else {}
            rows: list[dict[str, Any]] = told.get("batches", [])
            if any("planned_finish_at" in row for row in rows):
                return rows
    raise AssertionError("none is shown")


def test_metrics_count_lines_and_what_is_left(gateway: Gateway) -> None:
    before = scrape(gateway.url).values
    name = gateway.create(long_lines(1000))  # they are looked at every few seconds
    for metric in ('batches{status="in_progress"}', "batch_backlog_seconds{}"):
        eventually(lambda m=metric: scrape(gateway.url).values[f"makespan_{m}"] > 0)  # type: ignore[misc]
    assert scrape(gateway.url).values["makespan_batch_unfinished_lines{}"] > 0
    (row,) = [one for one in shown(gateway) if one["id"] == name]
    assert (row["status"], row["total"], row["paused"]) == ("in_progress", 1000, None)
    assert row["planned_finish_at"] >= row["lower_bound_at"] > row["expires_at"] - 90_000
    gateway.client.batches.cancel(name)
    gateway.ended(name)
    check(gateway, gateway.create([line(k) for k in range(10)]), 10)
    completed = 'makespan_batch_lines_total{state="completed"}'
    assert scrape(gateway.url).values[completed] >= before[completed] + 10


def test_a_gateway_without_them_says_how_to_have_them(workers: list[str]) -> None:
    with Process("gateway", "--worker", workers[0], "--port", "0") as plain:
        url = plain.wait_for(r"listening url=(\S+)")
        for path in ("/v1/files", "/v1/files/a/content", "/v1/batches"):
            answer = http.get(url + path)
            assert answer.status_code == 404
            assert "--data DIR" in answer.json()["error"]["message"]


def test_one_whose_database_is_of_a_later_version_ends_and_says_so(
    workers: list[str], tmp_path: Path
) -> None:
    with Gateway(workers, str(tmp_path)):
        pass
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as later:
        later.execute("UPDATE alembic_version SET version_num = '9999'")
    flags = ("--worker", workers[0], "--port", "0", "--data", str(tmp_path))
    with Process("gateway", *flags) as process:
        process.wait_for(r"(of a later version)")
        eventually(lambda: process.process.poll() is not None)
        assert process.process.returncode == 1


def test_lines_for_another_name_of_a_model_are_planned_too(
    workers: list[str], tmp_path: Path
) -> None:
    with Gateway(workers, str(tmp_path), "--alias", f"chat={MODEL}") as gateway:
        body = line(0, tokens=1500)["body"] | {"model": "chat"}
        name = gateway.create([line(k, body=body) for k in range(2000)])

        def planned() -> bool:
            told = http.get(f"{gateway.url}/v1/batches/{name}").json()["makespan"]
            return "planned_finish_s" in told

        eventually(planned, "a plan")
        gateway.client.batches.cancel(name)
        assert gateway.ended(name).status == "cancelled"


def test_what_is_stored_is_bounded_and_what_has_ended_goes_with_time(
    workers: list[str], tmp_path: Path
) -> None:
    limits = ("--max-stored-bytes", "2000", "--batches-kept-s", "1")
    with Gateway(workers, str(tmp_path), *limits) as gateway:
        name = gateway.create([line(0)])
        with pytest.raises(openai.APIStatusError, match="of 2000 bytes are stored") as refused:
            gateway.upload([line(k) for k in range(40)])
        assert (refused.value.status_code, refused.value.code) == (413, "storage_quota_exceeded")

        def gone() -> bool:
            return http.get(f"{gateway.url}/v1/batches/{name}").status_code == 404

        eventually(gone, "the removal of a batch that has ended")
        eventually(lambda: not list(gateway.client.files.list()), "that of its files")


def test_only_its_tenant_sees_a_file(workers: list[str], tmp_path: Path) -> None:
    texts = {tenant: f"mk-of-{tenant}" for tenant in ("one", "two")}
    made = [Key(sha256=hash_of(text), tenant=tenant) for tenant, text in texts.items()]
    keys = tmp_path / "keys.toml"
    keys.write_text("\n".join(key.to_toml() for key in made))
    with Gateway(workers, str(tmp_path), "--keys", str(keys)) as gateway:
        one, two = (gateway.client.with_options(api_key=key) for key in texts.values())
        gateway.client = one
        name = gateway.create([line(0)])
        batch = gateway.ended(name)
        assert batch.status == "completed"
        assert batch.output_file_id is not None
        assert [found.id for found in one.batches.list()] == [name]
        assert not list(two.batches.list())
        assert not list(two.files.list())
        for file in (batch.input_file_id, batch.output_file_id):
            with pytest.raises(openai.NotFoundError):
                two.files.content(file)
        with pytest.raises(openai.NotFoundError):
            two.batches.cancel(name)
        with pytest.raises(openai.NotFoundError):
            two.batches.create(
                input_file_id=batch.input_file_id, endpoint=ENDPOINT, completion_window="24h"
            )
        lines = gateway.read(batch.output_file_id)
        request = lines[0]["response"]["request_id"]
        assert lines[0]["response"]["body"]["model"] == MODEL
        assert request == f"{name}.1"
