"""`makespan batch` as people and scripts use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.commands import run
from tests.e2e.batch_gateway import Gateway, agents, line


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with (
        agents("--speed", "200") as workers,
        Gateway(workers, str(tmp_path_factory.mktemp("batches"))) as running,
    ):
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three lines, of which one is wrong."""
    lines = [line(0), line(1, method="GET"), line(2)]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def status(gateway: Gateway | str, *arguments: str) -> int:
    """With which a command ends."""
    url = gateway if isinstance(gateway, str) else gateway.url
    try:
        run(["batch", *arguments, "--gateway", url])
    except SystemExit as error:
        return int(str(error.code))
    return 0


def test_from_a_file_to_its_answers(
    gateway: Gateway, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(gateway, "submit", str(file)) == 0
    name = capsys.readouterr().out.strip()
    assert status(gateway, "watch", name) == 0
    told = capsys.readouterr()
    assert "completed    2 of 3 done, 1 failed" in told.out
    assert "line 2: 'method' must be 'POST'" in told.err
    out = file.with_name("out.jsonl")
    assert status(gateway, "results", name, "-o", str(out)) == 0
    answers = [json.loads(text) for text in out.read_text().splitlines()]
    assert [one["custom_id"] for one in answers] == ["line-0", "line-2"]
    assert {one.name for one in out.parent.iterdir()} == {"in.jsonl", "out.jsonl"}
    assert status(gateway, "results", name, "--errors", "--out", str(out)) == 0
    assert json.loads(out.read_text())["custom_id"] == "line-1"
    assert status(gateway, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["data"][0]["id"] == name
    assert status(gateway, "cancel", name) == 3
    assert "is completed and cannot be cancelled" in capsys.readouterr().err


def test_submitted_and_watched_until_it_fails(
    gateway: Gateway, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("\ufeff" + json.dumps(line(0, custom_id="")))
    assert status(gateway, "submit", str(file), "--watch", "--json") == 1
    batch = json.loads(capsys.readouterr().out)
    assert batch["status"] == "failed"
    assert status(gateway, "results", batch["id"]) == 1
    assert "has no answers: it is failed" in capsys.readouterr().err


def test_one_without_lines_fails_and_says_so(
    gateway: Gateway, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("\ufeff\n")
    submit = ("submit", str(file), "--endpoint", "/v1/completions", "--watch")
    assert status(gateway, *submit) == 1
    told = capsys.readouterr().err.splitlines()
    assert "The file has no lines: it must have a request in each." in told


@pytest.mark.parametrize(
    ("arguments", "ends", "what"),
    [
        (("submit", "/nowhere.jsonl"), 2, "/nowhere.jsonl: No such file"),
        (("watch", "batch_1"), 3, "There is no batch 'batch_1'"),
        (("cancel", "../files"), 2, "is no id of a batch"),
    ],
)
def test_what_is_wrong_is_named(
    gateway: Gateway,
    arguments: tuple[str, ...],
    ends: int,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status(gateway, *arguments) == ends
    assert what in capsys.readouterr().err


def test_without_an_endpoint_or_a_gateway(
    gateway: Gateway, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("http://127.0.0.1:1", "list") == 3
    assert "http://127.0.0.1:1 does not answer" in capsys.readouterr().err
    file.write_text("{}\n")
    assert status(gateway, "submit", str(file)) == 2
    assert "name no 'url'" in capsys.readouterr().err
