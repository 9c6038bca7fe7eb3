"""A load generator that knows nothing of Makespan, against the gateway."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.e2e.test_gateway import MODEL
from tests.helpers import Fleet, scrape

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
USERS, ASKS = 20, 10


def test_locust_and_the_gateway_count_the_same(fleet: Fleet, clients: Path) -> None:
    counter = f'makespan_requests_total{{model="{MODEL}",outcome='
    before = scrape(fleet.url)
    flags = f"--headless --json --skip-log -u {USERS} -r {USERS} -t 300s --asks {ASKS}".split()
    done = subprocess.run(
        [clients / "locust", "-f", LOCUSTFILE, "--host", fleet.url, *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert {row["num_failures"] for row in rows.values()} == {0}
    assert rows["whole stream"]["num_requests"] == USERS * ASKS
    assert rows["/v1/chat/completions"]["num_requests"] == USERS * ASKS
    after = scrape(fleet.url)
    assert after.total(counter) - before.total(counter) == USERS * ASKS
    completed = counter + '"completed"}'
    assert after.values[completed] - before.values.get(completed, 0) == USERS * ASKS
