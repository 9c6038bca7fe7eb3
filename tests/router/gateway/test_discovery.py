"""Sources of workers: lists, names that are looked up, a watched Service; and all together."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.gateway.fleet.discovery import kubernetes
from router.gateway.fleet.discovery.dns import Dns, resolve
from router.gateway.fleet.discovery.kubernetes import Kubernetes
from router.gateway.fleet.discovery.source import Endpoint, Endpoints, Source
from router.gateway.fleet.discovery.sources import Discovery
from router.gateway.fleet.discovery.static import Static
from router.settings.addresses import DnsName, KubernetesService
from router.settings.gateway import GatewaySettings
from tests.k8s.api import (
    OURS,
    TOKEN,
    Api,
    endpoint_slice,
    error,
    kubeconfig,
    listing,
    modified,
    pod,
    read,
    serving,
    streams,
)
from tests.waiting import until

SERVICE = KubernetesService("llm", "agents", "http")


class Listener:
    """What a source has told so far."""

    def __init__(self, source: Source) -> None:
        self.told: list[dict[str, bool]] = []
        self._source = source

    async def listen(self) -> None:
        async for endpoints in self._source.fleets():
            self.told.append({one.url: one.draining for one in endpoints})

    async def until(self, probe: Callable[[], bool]) -> None:
        """Listen until it is so."""
        task = asyncio.create_task(self.listen())
        try:
            await until(lambda: task.done() or probe())
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def urls(*addresses: str, port: int = 8100) -> dict[str, bool]:
    return {f"http://{address}:{port}": False for address in addresses}


class Names:
    """A name server that answers one thing after another, the last for ever."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self._answers, self.asked = list(answers), 0

    async def resolve(self, name: str) -> list[str]:
        assert name == "agents"
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_name_that_is_not_resolved_keeps_its_workers_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    lost = socket.gaierror(-2, "Name or service not known")
    odd = UnicodeError("label empty or too long")  # as of a name that is none
    names = Names(lost, ["10.0.0.2", "10.0.0.1"], lost, odd, ["10.0.0.1", "10.0.0.2"], ["fd00::1"])
    listener = Listener(Dns(DnsName("agents", 8100), names.resolve, every_s=0))
    await listener.until(lambda: names.asked > 7)
    assert listener.told == [urls("10.0.0.1", "10.0.0.2"), urls("[fd00::1]")]
    messages = [(record.levelname, record.message) for record in caplog.records]
    once = [("WARNING", "name not resolved"), ("INFO", "name is resolved again")]
    assert messages == 2 * once


async def test_addresses_of_a_name_that_speaks_tls_have_its_certificate() -> None:
    names = Names(["10.0.0.1", "10.0.0.2"])
    found = await anext(Dns(DnsName("agents", 1, secure=True), names.resolve, every_s=0).fleets())
    assert found == tuple(Endpoint(f"https://10.0.0.{k}:1", tls_name="agents") for k in (1, 2))


async def test_a_real_lookup_takes_one_family() -> None:
    found = await resolve("localhost")
    assert set(found) in ({"127.0.0.1"}, {"::1"})
    with pytest.raises(socket.gaierror):
        await resolve("no-such-name.invalid")


class Told:
    """A source that tells what it is given."""

    def __init__(self, *fleets: Endpoints) -> None:
        self._fleets = fleets

    async def fleets(self) -> AsyncIterator[Endpoints]:
        for one in self._fleets:
            yield one


async def test_all_sources_together_are_one_fleet() -> None:
    a, b, c = (Endpoint(f"http://{name}:1") for name in "abc")
    goes = Endpoint(a.url, draining=True)
    told: list[Endpoints] = []
    await Discovery([Static([a.url]), Told((b, goes), (goes, c), (c,))], {}).run(told.append)
    assert told == [(a,), (a, b), (a, c), (a, c)]


async def test_what_a_setting_says_of_no_worker_is_told_once_all_are_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, b, c = (Endpoint(f"http://{name}:1") for name in "abc")
    settings = GatewaySettings(  # type: ignore[call-arg]
        worker=(a.url, "dns://b:1"),
        plain_slots_of=tuple(f"{one.url}=1" for one in (a, b, c)),
        worker_key_file=("f", f"{c.url}/v1=f"),
    )
    sources: list[Source] = [Static([a.url]), Told((), (b,), (b, c), ())]
    told = list[tuple[int, object, object]]()

    def publish(fleet: Endpoints) -> None:
        told.extend((len(fleet), vars(r)["setting"], vars(r)["url"]) for r in caplog.records)
        caplog.clear()

    await Discovery(sources, settings.named_workers()).run(publish)
    slots = [(2, "plain_slots_of", one.url) for one in (b, c)]
    assert told == [(2, "worker_key_file", c.url), *slots], "before the fleet has two"
    assert not caplog.records


class Pauses(tuple[float, ...]):
    """Short ones in the place of `RETRY_S`, that remember which were made."""

    taken: list[int]

    def __getitem__(self, k: Any) -> Any:  # noqa: ANN401
        self.taken.append(k)
        return super().__getitem__(k)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made = Pauses(0.001 for _ in kubernetes.RETRY_S)
    made.taken = []
    monkeypatch.setattr(kubernetes, "RETRY_S", made)
    return made.taken


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pauses: list[int]) -> Iterator[Api]:
    assert not pauses
    made = Api()
    with serving(made) as url:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, url)))
        yield made


async def test_a_watch_through_its_end_and_410_to_a_pod_that_terminates(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    first, *rest = read(OURS)
    later = endpoint_slice(88, [pod("10.0.0.3"), pod("10.0.0.4")])
    api.listed = [listing(10, [first["object"]]), listing(90, [later])]
    api.say(*rest)  # up to version 31
    api.end()
    api.say(error(410, "Expired"))
    last = pod("10.0.0.4", terminating=True, ready=False)
    api.say(modified(endpoint_slice(95, [pod("10.0.0.3"), last])))
    listener = Listener(Kubernetes(SERVICE))
    await listener.until(lambda: len(listener.told) == 6)
    one, two, three, four = (f"http://10.0.0.{k}:8100" for k in (1, 2, 3, 4))
    assert listener.told == [
        {one: False, two: False},
        {one: False, two: False, three: False},
        {one: True, two: False, three: False},
        {two: False, three: False},
        {three: False, four: False},
        {three: False, four: True},
    ]
    assert api.lists == 2
    assert api.watches == ["10", "31", "90"]
    path = "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices"
    assert api.paths == {(path, f"Bearer {TOKEN}")}
    selector = "kubernetes.io/service-name=agents"
    assert {asked["labelSelector"] for asked in api.asked} == {selector}
    assert {asked.get("allowWatchBookmarks") for asked in api.asked} == {None, "True"}
    assert not caplog.records


async def test_recorded_watches_come_through_whole(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    for path in streams():
        first, *rest = read(path)
        versions = [event["object"]["metadata"]["resourceVersion"] for event in (first, *rest)]
        api.asked.clear()
        api.listed = [listing(int(versions[0]), [first["object"]])]
        api.say(*rest)
        api.end()
        listener = Listener(Kubernetes(SERVICE))
        await listener.until(lambda: len(api.watches) == 2)
        assert (api.lists, api.watches) == (1, [versions[0], versions[-1]])
        assert any(drains for fleet in listener.told for drains in fleet.values())
        api.end()
    assert not caplog.records


async def test_a_version_that_is_gone_by_status_is_listed_again(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.listed = [listing(5, [endpoint_slice(5, [pod("10.0.0.1")])])]
    listener = Listener(Kubernetes(SERVICE))

    def moves_on() -> bool:
        if api.watches == ["5"] and not api.refused:
            api.refuses = 410
            api.end()
        elif api.refused and api.refuses:
            api.listed = [listing(9, [endpoint_slice(9, [pod("10.0.0.2")])])]
            api.refuses = None
        return api.watches == ["5", "9"]

    await listener.until(moves_on)
    assert listener.told == [urls("10.0.0.1"), urls("10.0.0.2")]
    assert not caplog.records


async def test_a_watch_that_breaks_goes_on_from_its_last_version(
    api: Api, pauses: list[int]
) -> None:
    api.listed = [listing(5, [endpoint_slice(5, [pod("10.0.0.1")])])]
    api.say(modified(endpoint_slice(7, [pod("10.0.0.2")])))
    api.cut()
    api.cut()
    api.say(modified(endpoint_slice(8, [pod("10.0.0.3")])))
    listener = Listener(Kubernetes(SERVICE))
    await listener.until(lambda: len(listener.told) == 3)
    assert listener.told == [urls(f"10.0.0.{k}") for k in (1, 2, 3)]
    assert (api.lists, api.watches) == (1, ["5", "7", "7"])
    assert pauses == [0, 1]


async def test_whatever_goes_wrong_the_workers_stand_and_there_is_another_attempt(
    api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.listed = [listing(5, [endpoint_slice(5, [pod("10.0.0.1")])])]
    listener = Listener(Kubernetes(SERVICE))
    path, away = tmp_path / "kubeconfig", tmp_path / "away"

    def comes_back() -> bool:
        if api.watches == ["5"] and path.exists() and not caplog.records:
            path.rename(away)
            api.end()
        elif len(caplog.records) == 1 and away.exists():
            away.rename(path)
            api.say(modified(endpoint_slice(6, [pod("10.0.0.2")])))
        return len(listener.told) == len(caplog.records) == 2

    await listener.until(comes_back)
    assert listener.told == [urls("10.0.0.1"), urls("10.0.0.2")]
    assert (api.lists, api.watches) == (1, ["5", "5"])
    assert [record.message for record in caplog.records] == [
        "workers are not followed",
        "workers are followed again",
    ]


async def test_while_the_api_server_fails_its_workers_stand_and_it_is_logged_once(
    api: Api, pauses: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.listed = [listing(5, [endpoint_slice(5, [pod("10.0.0.1")])])]
    listener = Listener(Kubernetes(SERVICE))

    def ends() -> bool:
        if api.watches == ["5"] and not api.refused:
            api.refuses = 503
            api.end()
        elif api.refused > 3:
            api.refuses = None
            api.listed = [listing(9, [endpoint_slice(9, [pod("10.0.0.2")])])]
        return len(listener.told) == len(caplog.records) == 2

    await listener.until(ends)
    assert listener.told == [urls("10.0.0.1"), urls("10.0.0.2")]
    assert [record.message for record in caplog.records] == [
        "workers are not followed",
        "workers are followed again",
    ]
    assert "503" in caplog.records[0].why  # type: ignore[attr-defined]
    assert pauses[:4] == [0, 1, 2, 3], "longer ones each time"
