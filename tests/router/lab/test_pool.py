"""Simulations on all cores: results in order, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from router.lab.simulation.pool import over
from tests.helpers import ROOT
from tests.waiting import eventually

DRIVER = """
import sys
from tests.router.lab.test_pool import idle
from router.lab.simulation.pool import over

if __name__ == "__main__":
    over(idle, [sys.argv[1]] * 4, "runs")
"""


def idle(folder: str) -> None:
    """Tell that one is there, and work for ever."""
    (Path(folder) / str(os.getpid())).touch()
    while True:
        time.sleep(0.05)


def double(number: int) -> int:
    if number < 0:
        raise ValueError("below 0")
    return 2 * number


@pytest.mark.parametrize("cores", [1, 2])
def test_results_are_in_order_and_the_first_error_ends_it(
    cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert over(double, [3, 1, 2], "runs") == [6, 2, 4]
    with pytest.raises(ValueError, match="below 0"):
        over(double, [1, -1], "runs")


def test_processes_end_with_one_that_is_killed(tmp_path: Path) -> None:
    script, told = tmp_path / "driver.py", tmp_path / "told"
    script.write_text(DRIVER, encoding="utf-8")
    told.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one core: there are no processes")
    with subprocess.Popen([sys.executable, str(script), str(told)], env=environment) as driver:
        eventually(lambda: len(list(told.iterdir())) >= 2, "work")
        os.kill(driver.pid, signal.SIGKILL)
    children = [int(path.name) for path in told.iterdir()]
    eventually(lambda: not any(map(alive, children)), "the children's end")


def alive(process: int) -> bool:
    """Whether it runs; one that nobody has buried yet does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
