"""From what an API server says of a Service's EndpointSlices to the workers behind it; no I/O.

Rules:
- a list replaces everything, an event one slice; both tell the version from which to go on;
- a pod that terminates drains, whether or not it still passes its probes;
- one that is not ready is no worker. A Service with ``publishNotReadyAddresses`` calls all of its
  pods ready and leaves it to the gateway to see who is up;
- a condition that is not told counts as usual: ready, not terminating;
- a pod may be in several slices: while it moves from one to another, and with an address of each
  family. It is one worker, by its IPv4 address if it has one;
- an address that one pod leaves another may have taken already: then it does not drain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from router.gateway.fleet.discovery.source import Endpoint, Endpoints, merge

GONE = 410  # HTTP's and the stream's word for a version that the server has forgotten


class SlicesError(ValueError):
    """What the API server said cannot be used."""


class VersionGone(Exception):
    """The server has forgotten the version to go on from: list again."""


class _Object(BaseModel):
    """Of what Kubernetes tells, only what is named here is read."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class _Metadata(_Object):
    name: str = ""
    resource_version: str


class _Conditions(_Object):
    ready: bool | None = None
    terminating: bool | None = None


class _Reference(_Object):
    uid: str = ""


class _Row(_Object):
    addresses: Annotated[list[str], Field(min_length=1)]
    conditions: _Conditions | None = None
    target_ref: _Reference | None = None

    @property
    def pod(self) -> str:
        """What tells it from others."""
        return (self.target_ref.uid if self.target_ref else "") or self.addresses[0]

    @property
    def ready(self) -> bool:
        return self.conditions is None or self.conditions.ready is not False

    @property
    def terminating(self) -> bool:
        return self.conditions is not None and bool(self.conditions.terminating)


class _Port(_Object):
    name: str | None = None
    port: int | None = None


class _Slice(_Object):
    metadata: _Metadata
    address_type: str
    endpoints: list[_Row] | None = None
    ports: list[_Port] | None = None

    def port(self, wanted: int | str) -> int | None:
        if isinstance(wanted, int):
            return wanted
        return next((port.port for port in self.ports or () if port.name == wanted), None)


class _List(_Object):
    metadata: _Metadata
    items: list[_Slice] | None = None


class _Bookmark(_Object):
    metadata: _Metadata


class _Status(_Object):
    code: int = 0
    reason: str = ""
    message: str = ""


class _Event(_Object):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: dict[str, Any]


class Slices:
    """The EndpointSlices of one Service, whose pods have certificates of `tls_name`, if any.

    Attributes:
        version: from which a watch goes on; None: they have to be listed first. Until then what
            was known stands.
    """

    def __init__(self, port: int | str, tls_name: str | None = None) -> None:
        self.version: str | None = None
        self._port, self._tls_name = port, tls_name
        self._slices: dict[str, _Slice] = {}

    def relist(self, text: bytes) -> None:
        """The answer to a list.

        Raises:
            SlicesError: if it is none.
        """
        try:
            parsed = _List.model_validate_json(text)
        except ValidationError as error:
            raise SlicesError(f"not a list of EndpointSlices: {_first(error)}") from error
        self._slices = {one.metadata.name: one for one in parsed.items or ()}
        self.version = parsed.metadata.resource_version

    def apply(self, line: bytes) -> None:
        """One event of a watch.

        Raises:
            SlicesError: if it is none, or the server tells of an error.
            VersionGone: if all has to be listed again.
        """
        try:
            event = _Event.model_validate_json(line)
            self._apply(event)
        except ValidationError as error:
            raise SlicesError(f"not an event of EndpointSlices: {_first(error)}") from error

    def _apply(self, event: _Event) -> None:
        if event.type == "ERROR":
            status = _Status.model_validate(event.object)
            if status.code == GONE:
                raise VersionGone
            raise SlicesError(f"{status.code} {status.reason}: {status.message}")
        if event.type == "BOOKMARK":
            self.version = _Bookmark.model_validate(event.object).metadata.resource_version
            return
        parsed = _Slice.model_validate(event.object)
        if event.type == "DELETED":
            self._slices.pop(parsed.metadata.name, None)
        else:
            self._slices[parsed.metadata.name] = parsed
        self.version = parsed.metadata.resource_version

    @property
    def portless(self) -> list[str]:
        """Slices with endpoints, but without the port that workers are asked at."""
        slices = self._slices.values()
        lacking = (one for one in slices if one.endpoints and one.port(self._port) is None)
        return sorted(one.metadata.name for one in lacking)

    @property
    def endpoints(self) -> Endpoints:
        """The workers."""
        pods: defaultdict[str, list[tuple[str, _Row]]] = defaultdict(list)
        for url, row in self._rows():
            pods[row.pod].append((url, row))
        found = filter(None, map(_endpoint, pods.values()))
        return merge(replace(one, tls_name=self._tls_name) for one in found)

    def _rows(self) -> Iterator[tuple[str, _Row]]:
        """Every row with its URL; IPv4 first, then by name, whatever order they came in."""
        order = sorted(self._slices.values(), key=lambda one: (one.address_type, one.metadata.name))
        for one in order:
            port = one.port(self._port)
            if port is None or one.address_type not in ("IPv4", "IPv6"):
                continue
            for row in one.endpoints or ():
                host = row.addresses[0]  # Kubernetes: all but the first have no meaning
                host = f"[{host}]" if one.address_type == "IPv6" else host
                yield f"{'https' if self._tls_name else 'http'}://{host}:{port}", row


def _first(error: ValidationError) -> str:
    """What is wrong, in one line."""
    problem = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))


def _endpoint(rows: Sequence[tuple[str, _Row]]) -> Endpoint | None:
    """One pod, from all that is said of it; None: it is neither ready nor about to go."""
    url, _ = rows[0]
    if any(row.terminating for _, row in rows):
        return Endpoint(url, draining=True)
    return Endpoint(url) if any(row.ready for _, row in rows) else None
