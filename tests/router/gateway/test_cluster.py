"""Which cluster a gateway asks, who it is there, and what it says if it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes_asyncio.config import incluster_config

from router.gateway.fleet.discovery import cluster
from router.gateway.fleet.discovery.cluster import namespace_of
from router.gateway.fleet.discovery.dns import Dns
from router.gateway.fleet.discovery.kubernetes import Kubernetes
from router.gateway.fleet.discovery.sources import sources
from router.gateway.fleet.discovery.static import Static
from router.settings.addresses import KubernetesService
from router.settings.base import BadSettings
from tests.k8s.api import kubeconfig

SERVICE = KubernetesService("llm", "agents", "http")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for a machine without any cluster."""
    for name in ("KUBECONFIG", cluster.IN_CLUSTER, "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster, "KUBECONFIG", tmp_path / "config")
    monkeypatch.setattr(cluster, "OWN_NAMESPACE", tmp_path / "namespace")
    return tmp_path


def test_sources_follow_from_the_setting(nowhere: Path) -> None:
    kubeconfig(nowhere, "http://127.0.0.1:1").rename(nowhere / "config")
    made = sources(["http://a:1", "dns://agents:1", "kubernetes://llm/agents:http", "http://b:1"])
    assert [type(one) for one in made] == [Static, Dns, Kubernetes]


def test_without_a_cluster_the_setting_is_refused(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = f"worker: {SERVICE}: .* this is no pod, and there is no file {nowhere}/config"
    with pytest.raises(BadSettings, match=why):
        Kubernetes(SERVICE)
    monkeypatch.setenv("KUBECONFIG", str(nowhere / "mine"))
    with pytest.raises(BadSettings, match=f"no file {nowhere}/mine"):
        Kubernetes(SERVICE)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "clusters: [", "current-context: here"])
def test_a_file_that_says_nothing_is_refused(nowhere: Path, text: str) -> None:
    (nowhere / "config").write_text(text)
    with pytest.raises(BadSettings, match=f"worker: {SERVICE}: no access to a cluster: "):
        Kubernetes(SERVICE)


def test_a_pod_without_a_token_is_refused(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not (nowhere / "token").exists()
    monkeypatch.setenv(cluster.IN_CLUSTER, "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(BadSettings, match="no access to a cluster: Service token"):
        Kubernetes(SERVICE)


def test_without_a_namespace_it_is_that_of_the_context(nowhere: Path) -> None:
    service = KubernetesService("", "agents", "http")
    path = kubeconfig(nowhere, "http://127.0.0.1:1").rename(nowhere / "config")
    assert namespace_of(service) == "default"
    here = "cluster: replay\n    user"
    path.write_text(path.read_text().replace(here, "namespace: ours\n    " + here))
    assert namespace_of(service) == "ours"
    assert namespace_of(SERVICE) == "llm"


async def test_in_a_pod_the_service_account_is_read_anew_each_time(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, authority = nowhere / "token", nowhere / "ca.crt"
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setenv(cluster.IN_CLUSTER, "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (nowhere / "namespace").write_text("pods\n")
    authority.write_text("whom we trust")
    token.write_text("first")
    assert namespace_of(KubernetesService("", "agents", "http")) == "pods"
    before = await cluster.access()
    assert (before.host, before.ssl_ca_cert) == ("https://10.0.0.1:443", str(authority))
    token.write_text("second")
    after = await cluster.access()
    tokens = [told.api_key["BearerToken"] for told in (before, after)]
    assert tokens == ["Bearer first", "Bearer second"]


@pytest.mark.usefixtures("nowhere")
def test_without_its_library_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(BadSettings, match=r"pip install '\.\[kubernetes\]'"):
        Kubernetes(SERVICE)
