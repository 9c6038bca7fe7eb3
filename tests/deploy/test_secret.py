"""The fleet's secret as an option, in compose and in every overlay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.support import ROOT, compose, debian_tool, python_tool, run

OVERLAYS = [folder.name for folder in (ROOT / "deploy/overlays").iterdir()]
COMPOSED = "deploy/compose.secret.yml"


@pytest.fixture(scope="module", params=OVERLAYS)
def workloads(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """An overlay of the kind that the page tells to make, rendered."""
    folder = tmp_path_factory.mktemp("deploy")
    for name in ("base", "overlays", "components"):
        (folder / name).symlink_to(ROOT / "deploy" / name)
    own = folder / "own"
    own.mkdir()
    told = {"resources": [f"../overlays/{request.param}"], "components": ["../components/secret"]}
    (own / "kustomization.yaml").write_text(yaml.safe_dump(told))
    tool = debian_tool("kubectl", "kubernetes-client")
    text = run(Path(tool), "kustomize", "--load-restrictor=LoadRestrictionsNone", own)
    (folder / "rendered.yaml").write_text(text)
    made = [m for m in yaml.safe_load_all(text) if m["kind"] in ("Deployment", "StatefulSet")]
    path = folder / "workloads.yaml"
    path.write_text(yaml.safe_dump_all(made))
    run(python_tool("kubernetes-validate"), "--strict", "-k", "1.35", path)
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in made}


def test_both_sides_read_the_same_secret(workloads: dict[str, Any]) -> None:
    for name in ("makespan-gateway", "makespan-agent"):
        pod = workloads[name]
        (main,) = pod["containers"]
        env = {one["name"]: one.get("value") for one in main["env"]}
        file = Path(env["MAKESPAN_SECRET_FILE"])
        (mount,) = (one for one in main["volumeMounts"] if one["mountPath"] == str(file.parent))
        assert mount["readOnly"]
        (volume,) = (one for one in pod["volumes"] if one["name"] == mount["name"])
        assert volume["secret"] == {"secretName": "makespan-fleet"}
        assert file.name == "secret"


def test_compose_gives_each_of_our_processes_the_file() -> None:
    more = yaml.safe_load((ROOT / COMPOSED).read_text())
    run(python_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", ROOT / COMPOSED)
    ours = [name for name, one in compose().items() if one["image"].startswith("makespan:")]
    assert list(more["services"]) == ours
    for service in more["services"].values():
        (name,) = service["secrets"]
        assert service["environment"] == {"MAKESPAN_SECRET_FILE": f"/run/secrets/{name}"}
        assert name in more["secrets"]
