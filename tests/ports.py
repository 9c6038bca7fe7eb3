"""Ports for what is started later, or again: each is its process's alone until that ends.

A port that is merely free may be gone a moment later: the kernel gives it to a connection, to who
asks for any, or to another test. So it is one that the kernel gives to nobody by itself, and held
by a datagram socket of the same number, which is in no server's way and goes with its process.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

LEAST, MOST = 11_000, 65_535  # above what browsers refuse to talk to
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL = "32768 65535"  # where the kernel does not tell: Linux's, macOS's and IANA's
HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, nor will but whom they are given to."""
    found = list(islice(filter(hold, _all()), count))
    assert len(found) == count, "there are no more"
    return found


def hold(port: int) -> bool:
    """Whether it is this process's from now on."""
    with suppress(OSError), closing(socket.socket(type=socket.SOCK_DGRAM)) as held:
        held.bind((HOST, port))
        with socket.socket() as tried:
            tried.bind((HOST, port))
        held.detach()  # open for as long as the process lives
        return True
    return False


def _all() -> Iterator[int]:
    """From another one on in each process, so that few ask for the same."""
    first, last = map(int, (EPHEMERAL.read_text() if EPHEMERAL.exists() else USUAL).split())
    every = range(LEAST, MOST + 1)
    ours = [port for port in every if not first <= port <= last] or list(every)
    start = os.getpid() * 101 % len(ours)
    yield from ours[start:] + ours[:start]
