"""Ports that tests are given are nobody else's."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack

from tests.helpers import ROOT
from tests.ports import free_ports

OTHER = "import sys; from tests.ports import hold; print(*(hold(int(p)) for p in sys.argv[1:]))"


def held_elsewhere(ports: list[int]) -> list[str]:
    """Whether another process can have them."""
    told = [sys.executable, "-c", OTHER, *map(str, ports)]
    return subprocess.run(told, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def test_nobody_else_is_given_them() -> None:
    first, second = free_ports(20), free_ports(20)
    assert len({*first, *second}) == 40
    assert held_elsewhere(first + second) == ["False"] * 40
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(500)]
        assert not {one.getsockname()[1] for one in free} & {*first, *second}


def test_who_listens_keeps_its_own_and_any_server_can_have_what_was_given() -> None:
    (port,) = free_ports(1)
    for _ in range(2):  # again, after it has been closed
        with socket.create_server(("127.0.0.1", port)) as server:
            with socket.create_connection(server.getsockname()):
                server.accept()[0].close()
            taken = server.getsockname()[1]
            assert held_elsewhere([taken]) == ["False"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert held_elsewhere([server.getsockname()[1]]) == ["False"]
