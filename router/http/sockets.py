"""The sockets that processes listen on, opened here or handed down.

Knows nothing of what is served on them, so that a supervisor need not load any of that.
"""

from __future__ import annotations

import socket

from router.settings.base import BadSettings

BACKLOG = 2048  # connections that wait to be accepted, as uvicorn has it


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that nobody else can on its port; port 0 takes a free one.

    Clients that come before anybody serves there wait.

    Raises:
        BadSettings: naming the address and how to choose another.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        raise BadSettings(
            f"host, port: cannot listen on {host}:{port}: {error.strerror}; "
            "choose another port (0 takes a free one) or an address of this machine"
        ) from error
    return sock


def inherit(fd: int) -> socket.socket:
    """The socket that a supervisor handed down.

    Raises:
        BadSettings: if it is none.
    """
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise BadSettings(f"fd: {fd} is not an open socket: {error.strerror}") from error


def url_of(sock: socket.socket, *, secure: bool = False) -> str:
    """The base URL of a listening socket, for a client on this machine."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
