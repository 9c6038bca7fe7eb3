"""The files under test, parsed, and the tools that check them."""

import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

Parsed = dict[str, Any]


def run(*command: str | Path) -> str:
    done = subprocess.run(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, f"{command} said:\n{done.stdout}"
    return done.stdout


def python_tool(name: str) -> Path:
    """A command that a Python package has put beside the interpreter."""
    return Path(sys.executable).with_name(name)


def debian_tool(name: str, package: str) -> str:
    """A command from a Debian package; without it a developer's test is skipped, CI's fails."""
    found = shutil.which(name)
    if found is not None:
        return found
    missing = f"{name} is not installed: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@functools.cache
def version() -> str:
    project: Parsed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


@functools.cache
def dockerfile() -> tuple[tuple[str, str], ...]:
    """The Dockerfile's instructions, each on one line, as (name, arguments)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    parts = (line.partition(" ") for line in lines if line)
    return tuple((name, arguments) for name, _, arguments in parts)


@functools.cache
def compose() -> Parsed:
    services: Parsed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


@functools.cache
def rendered(folder: str) -> tuple[Parsed, ...]:
    """What `kubectl apply -k` of this folder would send."""
    kubectl = debian_tool("kubectl", "kubernetes-client")
    return tuple(yaml.safe_load_all(run(kubectl, "kustomize", folder)))


def manifests() -> tuple[Parsed, ...]:
    """What `kubectl apply -k deploy/base` would send."""
    return rendered("deploy/base")


def manifest(kind: str, name: str) -> Parsed:
    """The one resource of this kind whose name is this, or this and a hash."""
    return next(
        found
        for found in manifests()
        if found["kind"] == kind and re.fullmatch(rf"{name}(-\w{{10}})?", found["metadata"]["name"])
    )


def only_container(workload: Mapping[str, Any]) -> Parsed:
    containers: list[Parsed] = workload["spec"]["template"]["spec"]["containers"]
    (container,) = containers
    return container
