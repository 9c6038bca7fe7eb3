"""A batch is planned as a whole, live: on two unequal workers, with its finish and bound told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests import http
from tests.e2e.batch_gateway import ENDPOINT, MODEL, Gateway
from tests.helpers import Process
from tests.waiting import eventually

GROUPS, EACH, TOKENS = 6, 16, 80


def test_a_batch_is_packed_over_unequal_workers_and_tells_when_it_will_be_done(
    tmp_path: Path,
) -> None:
    def body(k: int) -> dict[str, object]:
        begin = f"You answer for department {k % GROUPS}. " * 30
        prompt = f"{begin} {k}"
        return {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True}

    lines = [
        {"custom_id": f"line-{k}", "method": "POST", "url": ENDPOINT, "body": body(k)}
        for k in range(GROUPS * EACH)
    ]
    flags = ("agent", "--port", "0", "--slots", "4")
    with (
        Process(*flags, "--name", "fast", "--speed", "10") as fast,
        Process(*flags, "--name", "slow", "--speed", "5") as slow,
    ):
        urls = [agent.wait_for(r"listening url=(\S+)") for agent in (fast, slow)]
        with Gateway(urls, str(tmp_path)) as gateway:
            name = gateway.create(lines)
            told: list[dict[str, float]] = []

            def planned() -> bool:
                extra = gateway.get(name).model_extra or {}
                if "planned_finish_s" in extra.get("makespan", {}):
                    told.append(extra["makespan"])
                return bool(told)

            eventually(planned, "a planned finish")
            assert told[0]["planned_finish_s"] >= told[0]["lower_bound_s"] > 0
            assert told[0]["gap_ratio"] >= 0
            batch = gateway.ended(name)
            assert batch.status == "completed"
            answers = gateway.read(batch.output_file_id)
            assert len(answers) == len(lines)
            served: Counter[str] = Counter()
            homes: dict[int, Counter[str]] = {}
            for answer in answers:
                key = answer["response"]["request_id"]
                record = http.get(f"{gateway.url}/makespan/v1/requests/{key}").json()
                group = int(answer["custom_id"].removeprefix("line-")) % GROUPS
                served[record["worker"]] += 1
                homes.setdefault(group, Counter())[record["worker"]] += 1
    most, least = sorted(served.values(), reverse=True)
    assert most > 1.3 * least  # it is twice as fast
    together = sum(max(found.values()) for found in homes.values())
    assert together > 0.75 * len(lines)  # some are shared so that both end together


def test_who_waits_for_an_answer_gets_it_before_any_line_that_fills_the_workers_has_ended(
    tmp_path: Path,
) -> None:
    body = {"model": MODEL, "prompt": "clips", "max_tokens": 1500, "ignore_eos": True}
    lines = [
        {"custom_id": f"line-{k}", "method": "POST", "url": ENDPOINT, "body": body}
        for k in range(40)
    ]
    flags = ("agent", "--port", "0", "--slots", "8", "--speed", "2")  # a line takes 20 s at least
    with Process(*flags) as agent:
        url = agent.wait_for(r"listening url=(\S+)")
        with Gateway([url], str(tmp_path)) as gateway:
            name = gateway.create(lines)

            def filled() -> bool:
                told = (gateway.get(name).model_extra or {}).get("makespan", {})
                return bool(told.get("running", 0) >= 8)

            eventually(filled, "lines in all slots")
            answer = gateway.client.completions.create(model=MODEL, prompt="hello", max_tokens=2)
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 2
            assert gateway.answered(name) == 0
            gateway.client.batches.cancel(name)
            gateway.ended(name)
