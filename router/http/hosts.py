"""Which hosts a request may name, so that no web page reaches what only this machine should.

A page of a foreign name may have that name lead to this machine (DNS rebinding), and its browser
then takes what is here for the page's own. It still names the foreign host.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from ipaddress import ip_address

from router.http.errors import Headers

# Answers of `Hosts.allows` that are kept: names that clients use are few.
MOST_KNOWN = 64


class Hosts:
    """Any at all; where only this machine connects, addresses, short names and `allowed` ones.

    Short is a name without a dot, as ``localhost`` and upstreams of proxies have.
    """

    def __init__(self, allowed: Collection[str] = (), *, restricted: bool = False) -> None:
        self._allowed = frozenset(name.lower() for name in allowed)
        self._restricted = (restricted or bool(allowed)) and "*" not in self._allowed
        self._known: set[bytes] = set()

    def allows(self, headers: Headers) -> bool:
        """Whether a request with these headers may come in; without a host it is no browser's."""
        if not self._restricted:
            return True
        for name, value in headers:
            if name == b"host" and value not in self._known:
                if not self._is_allowed(value):
                    return False
                if len(self._known) < MOST_KNOWN:
                    self._known.add(value)
        return True

    def _is_allowed(self, value: bytes) -> bool:
        host = value.decode("latin-1").strip().lower()
        if not host.endswith("]"):
            name, colon, port = host.rpartition(":")
            host = name if colon and port.isdigit() else host
        host = host.removesuffix(".")
        known = host in self._allowed or _is_address(host.strip("[]"))
        return known or ("." not in host and host.isascii())


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host == ""
    return True


def hosts_of(sock: socket.socket, allowed: Collection[str]) -> Hosts:
    """For whoever listens there."""
    try:
        local = ip_address(sock.getsockname()[0]).is_loopback
    except ValueError:
        local = False
    return Hosts(allowed, restricted=local)
