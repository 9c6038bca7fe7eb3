"""``makespan batch plan``: how long a batch will take, from its file alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.commands import run

PREFIX = "You answer for the town hall. " * 40


def line(number: int, content: str, **body: int) -> str:
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": content}]}
    path = "/v1/chat/completions"
    return json.dumps(
        {"custom_id": str(number), "method": "POST", "url": path, "body": asked | body}
    )


def written(folder: Path, lines: list[str]) -> Path:
    path = folder / "batch.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def told(capsys: pytest.CaptureFixture[str], path: Path, *flags: str) -> dict[str, Any]:
    run(["batch", "plan", str(path), "--json", "--deadline", "0", *flags])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_more_workers_are_sooner_and_none_is_before_its_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(
        tmp_path, [line(k, f"{PREFIX}{k}" * (k % 3), max_tokens=200) for k in range(300)]
    )
    found = told(capsys, path, "--workers", "1,2,4", "--price-per-hour", "3", "--slots", "8")
    assert (found["lines"], found["left_out"]) == (300, 0)
    plans = found["plans"]
    assert [plan["workers"] for plan in plans] == [1, 2, 4]
    assert all(plan["finish_s"] >= plan["lower_bound_s"] > 0 for plan in plans)
    assert plans[0]["finish_s"] > plans[1]["finish_s"] > plans[2]["finish_s"]
    for plan in plans:
        hours = plan["workers"] * plan["finish_s"] / 3600
        assert plan["worker_hours"] == pytest.approx(hours)
        assert plan["price"] == pytest.approx(3 * hours)


def test_limits_and_what_is_known_of_answers_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = told(capsys, written(tmp_path, [line(k, "hello") for k in range(50)]))
    limited = written(tmp_path, [line(k, "hello", max_tokens=10) for k in range(50)])
    short = told(capsys, limited)
    known = told(capsys, limited, "--output-tokens", "5")
    assert long["output_tokens"] > 20 * short["output_tokens"]
    assert short["output_tokens"] <= 50 * 10
    assert known["output_tokens"] == 50 * 5


def test_what_prompts_begin_with_is_prefilled_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--workers", "1", "--output-tokens", "1")
    alike = [line(k, PREFIX + str(k)) for k in range(100)]
    apart = [line(k, str(k) + " " + PREFIX) for k in range(100)]
    shared = told(capsys, written(tmp_path, alike), *flags)["plans"][0]
    alone = told(capsys, written(tmp_path, apart), *flags)["plans"][0]
    assert shared["lower_bound_s"] < 0.6 * alone["lower_bound_s"]
    assert shared["finish_s"] < 0.6 * alone["finish_s"]


BROKEN = {
    "{": "line 2",
    "[]": "'body' must be a JSON object",
    json.dumps({"url": "/v2/x", "body": {}}): "'url' must be one of",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_line_that_is_no_request_is_left_out_and_named(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, [line(1, "hello"), broken, line(3, "hello")])
    run(["batch", "plan", str(path), "--workers", "1", "--deadline", "0"])
    out, err = capsys.readouterr()
    assert "2 lines of batch.jsonl" in out
    assert "line 2" in err
    assert BROKEN[broken] in err


def test_a_byte_order_mark_costs_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, written(tmp_path, ["\ufeff" + line(0, "a"), line(1, "b")]))
    assert (found["lines"], found["left_out"]) == (2, 0)


def test_a_file_without_requests_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (written(tmp_path, ["{}"]), written(tmp_path, [""]), tmp_path / "none"):
        with pytest.raises(SystemExit) as stopped:
            run(["batch", "plan", str(path)])
        assert stopped.value.code == 2
        assert str(path) in capsys.readouterr().err
