"""How workers are named: by URL, by a name to look up, or by a Kubernetes Service."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import AnyHttpUrl

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS = re.compile(rf"dns://(?P<name>{_NAME}(\.{_NAME})*\.?):(?P<port>[0-9]{{1,5}})")
_KUBERNETES = re.compile(
    rf"kubernetes://(?P<namespace>({_LABEL})?)/(?P<service>{_LABEL}):(?P<port>{_LABEL})"
)
_SECURE = "https+"  # before what finds workers that speak TLS


@dataclass(frozen=True, slots=True)
class DnsName:
    """A name whose every address is a worker; if `secure`, with a certificate of that name."""

    name: str
    port: int
    secure: bool = False

    def __str__(self) -> str:
        return f"{_SECURE if self.secure else ''}dns://{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class KubernetesService:
    """A Service whose every pod is a worker, at a port of its own or at its port of that name.

    Without a namespace it is in ours. If `secure`, they have certificates of SERVICE.NAMESPACE.svc.
    """

    namespace: str
    service: str
    port: int | str
    secure: bool = False

    def __str__(self) -> str:
        first = _SECURE if self.secure else ""
        return f"{first}kubernetes://{self.namespace}/{self.service}:{self.port}"


Address = str | DnsName | KubernetesService


def parse(text: str) -> Address:
    """A worker's base URL without the ``/v1`` that its paths begin with, or where to find workers.

    Raises:
        ValueError: saying what is wrong.
    """
    secure, where = text.startswith(_SECURE), text.removeprefix(_SECURE)
    if where.startswith("dns://"):
        found = _DNS.fullmatch(where)
        if found is None:
            raise ValueError(f"{text} is not like dns://NAME:PORT")
        return DnsName(found["name"], _port(found["port"]), secure)
    if where.startswith("kubernetes://"):
        found = _KUBERNETES.fullmatch(where)
        if found is None:
            raise ValueError(f"{text} is not like kubernetes://[NAMESPACE]/SERVICE:PORT")
        port = _port(found["port"]) if found["port"].isdigit() else found["port"]
        return KubernetesService(found["namespace"], found["service"], port, secure)
    return base_url(text).removesuffix("/v1").rstrip("/")


def base_url(text: str) -> str:
    """The URL without a slash at its end.

    Raises:
        ValueError: if it is none, or says more than where a server is.
    """
    if "://" not in text:
        raise ValueError(f"{text} is not like http://10.0.0.5:8000")
    url = AnyHttpUrl(text)
    if url.query or url.fragment or url.username:
        raise ValueError("a base URL has no query, no fragment and no user")
    return text.rstrip("/")


def _port(digits: str) -> int:
    port = int(digits)
    if not 1 <= port <= 65_535:
        raise ValueError(f"{digits} is no port: 1 to 65535")
    return port
