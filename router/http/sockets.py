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
    return _listen(host, port, shared=False)


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets that listen on one port, among which the kernel deals out who connects.

    A single socket that several processes accept from would spread worse: whoever wakes first takes
    all who wait. Each of these has a queue of its own, which lives as long as somebody holds the
    socket: nobody who has connected is lost while the process behind it is replaced.

    Raises:
        BadSettings: as `listen`'s; somebody else's port would else be shared, too.
    """
    with listen(host, port) as alone:
        port = alone.getsockname()[1]
    return [_listen(host, port, shared=True) for _ in range(count)]


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
