"""Simulations on all cores: results in order, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from router.lab.simulation.pool import over
from tests.helpers import ROOT
from tests.waiting import eventually

# It hears of Ctrl-C even where tests run in the background, which are deaf to it.
DRIVER = """
import signal
import sys
from tests.router.lab.test_pool import idle
from router.lab.simulation.pool import over

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        over(idle, [sys.argv[1]] * 4, "runs")
    except KeyboardInterrupt:
        sys.exit(130)
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
needs_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: no processes")


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


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where each that works tells so; the driver beside it."""
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    (tmp_path / "told").mkdir()
    return tmp_path / "told"


@needs_cores
@pytest.mark.parametrize("loading", [True, False])
def test_ctrl_c_ends_all_at_once_and_in_silence(told: Path, loading: bool) -> None:
    command = [sys.executable, str(told.with_name("driver.py")), str(told)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stderr=subprocess.PIPE, start_new_session=True
    ) as driver:
        if loading:
            eventually(lambda: spawned(driver.pid), "a process that loads")
        else:
            eventually(lambda: len(list(told.iterdir())) >= 2, "work")
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to everybody
        try:
            _, said = driver.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
    assert said == b""
    assert driver.returncode == 130


def spawned(parent: int) -> bool:
    """Whether it has started a process for work."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()
    return any(b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes() for one in children)


@needs_cores
def test_processes_end_with_one_that_is_killed(told: Path) -> None:
    command = [sys.executable, str(told.with_name("driver.py")), str(told)]
    with subprocess.Popen(command, env=ENVIRONMENT) as driver:
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
