"""A load generator that knows nothing of Makespan, against the gateway."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.e2e.test_gateway import MODEL
from tests.helpers import Fleet, scrape

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
USERS = 20


def test_locust_and_the_gateway_count_the_same(fleet: Fleet, locust: Path) -> None:
    counter = f'makespan_requests_total{{model="{MODEL}",outcome='
    before = scrape(fleet.url).total(counter)
    flags = f"--headless --json --skip-log -u {USERS} -r {USERS} -t 3s --stop-timeout 30".split()
    done = subprocess.run(
        [locust, "-f", LOCUSTFILE, "--host", fleet.url, *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    chat, first = rows["/v1/chat/completions"], rows["first token"]
    assert chat["num_failures"] == 0
    assert chat["num_requests"] == first["num_requests"] >= USERS
    after = scrape(fleet.url)
    completed = after.values[counter + '"completed"}']
    assert after.total(counter) - before == chat["num_requests"]
    assert completed >= chat["num_requests"]
