"""Which cluster to ask, and who we are there.

What ``KUBECONFIG`` names; without it, in a pod, its service account; else ``~/.kube/config``.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from router.settings.addresses import KubernetesService
from router.settings.base import BadSettings

if TYPE_CHECKING:
    from kubernetes_asyncio.client import Configuration

IN_CLUSTER = "KUBERNETES_SERVICE_HOST"  # set in every pod
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
KUBECONFIG = Path.home() / ".kube" / "config"
INSTALL = "pip install '.[kubernetes]' in Makespan's folder"


def namespace_of(service: KubernetesService) -> str:
    """The Service's namespace, by default our own; refuses what could never be found.

    Raises:
        BadSettings: saying what is missing or wrong.
    """
    if find_spec("kubernetes_asyncio") is None:
        raise BadSettings(f"worker: {service} needs an extra; install it: {INSTALL}")
    try:
        path = _kubeconfig()
        own = _pods_namespace() if path is None else _files_namespace(path)
    except Exception as error:  # whatever it was that a broken file made the library stumble over
        raise BadSettings(f"worker: {service}: no access to a cluster: {error}") from error
    return service.namespace or own


def _kubeconfig() -> Path | None:
    """The file that says it all; None: this is a pod, and its service account does.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    named = os.environ.get("KUBECONFIG")
    if not named and os.environ.get(IN_CLUSTER):
        return None
    path = Path(named) if named else KUBECONFIG
    if not path.is_file():
        raise FileNotFoundError(f"this is no pod, and there is no file {path}")
    return path


def _pods_namespace() -> str:
    from kubernetes_asyncio.client import Configuration

    _from_pod(Configuration())
    return OWN_NAMESPACE.read_text(encoding="utf-8").strip()


def _files_namespace(path: Path) -> str:
    from kubernetes_asyncio.config import list_kube_config_contexts

    _, current = list_kube_config_contexts(str(path))
    return str((current or {})["context"].get("namespace") or "default")


def _from_pod(configuration: Configuration) -> None:
    from kubernetes_asyncio.config import load_incluster_config

    load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]


async def access() -> Configuration:
    """What a client of the API server needs; read anew, as tokens and certificates expire."""
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import load_kube_config

    configuration, path = Configuration(), _kubeconfig()
    if path is None:
        _from_pod(configuration)
    else:
        await load_kube_config(config_file=str(path), client_configuration=configuration)
    return configuration
