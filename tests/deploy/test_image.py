import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.support import (
    ROOT,
    compose,
    dockerfile,
    python_tool,
    run,
    version,
)

# What `make image-test` allows the whole image; here it is added up from what the lock installs.
MOST_MB = 300
# python:3.11-slim on disk: 124.84, says docker-library/repo-info, repos/python/local/3.11-slim.md.
BASE_MB = 125
# Of others, what the build deletes once it is compiled.
SOURCE = re.compile(r".*\.(py[ix]?|pxd|[ch](pp)?)")


def of_final_stage(name: str) -> list[str]:
    start = max(i for i, (instruction, _) in enumerate(dockerfile()) if instruction == "FROM")
    return [arguments for instruction, arguments in dockerfile()[start:] if instruction == name]


def copied() -> set[str]:
    """What the build takes from the checkout."""
    every = (shlex.split(arguments) for name, arguments in dockerfile() if name == "COPY")
    return {source for words in every if "--from" not in words[0] for source in words[:-1]}


@contextmanager
def server(path: str, status: int) -> Iterator[int]:
    """A server on a free port that answers `status` at `path` and 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == path else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,)).start()
        try:
            yield httpd.server_port
        finally:
            httpd.shutdown()


def image_check() -> list[str]:
    (healthcheck,) = of_final_stage("HEALTHCHECK")
    command: list[str] = json.loads(healthcheck.partition("CMD ")[2])
    return command


def compose_check() -> list[str]:
    command: list[str] = compose()["gateway"]["healthcheck"]["test"]
    return command[1:]


def test_hadolint_has_no_complaint() -> None:
    assert run(python_tool("hadolint"), "Dockerfile") == ""


def test_runs_as_a_numbered_user_other_than_root() -> None:
    (user,) = of_final_stage("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)


def test_every_package_is_pinned_by_hash_or_built_here() -> None:
    steps = [step for name, text in dockerfile() if name == "RUN" for step in text.split("&&")]
    pip = [step.split() for step in steps if "-m pip" in step]
    installs = [words for words in pip if {"install", "wheel"} & set(words)]
    assert len(installs) == 4
    for words in installs:
        assert "--require-hashes" in words or {"--no-index", "--no-deps"} <= set(words)


@pytest.mark.parametrize("source", sorted(copied()))
def test_what_the_build_copies_exists(source: str) -> None:
    assert (ROOT / source).exists()


def test_the_build_sees_only_what_it_copies() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied()


@pytest.mark.parametrize(
    ("check", "path"),
    [(image_check, "/health"), (compose_check, "/ready")],
    ids=["image", "compose"],
)
@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_check_follows_the_answer(
    check: Callable[[], list[str]], path: str, status: int, code: int
) -> None:
    python, *arguments = check()
    assert python == "python"
    with server(path, status) as port:
        # A proxy in the environment, as clients of a container engine often set, must not matter.
        environment = {"MAKESPAN_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run(
            [sys.executable, *arguments], env={**os.environ, **environment}, check=False
        )
    assert done.returncode == code


def test_label_tells_the_version() -> None:
    assert f'image.version="{version()}"' in of_final_stage("LABEL")[0]


def test_without_arguments_the_demo_starts() -> None:
    assert of_final_stage("ENTRYPOINT") == ['["makespan"]']
    assert of_final_stage("CMD") == ['["up"]']


STRIPPED = {"aiohttp", "asyncpg", "sqlalchemy", "uvloop"}


def installed() -> list[Distribution]:
    """What the final image has of others, as it is installed here."""
    lock = next(source for source in copied() if source.endswith("image.lock"))
    pinned = re.findall(r"^\w\S+==[^\\\n]+", (ROOT / lock).read_text(), flags=re.MULTILINE)
    wanted = [Requirement(line) for line in pinned]
    return [distribution(w.name) for w in wanted if w.marker is None or w.marker.evaluate()]


def megabytes(found: Distribution) -> float:
    """As the build leaves it: no tests, no library twice, and bytecode instead of sources.

    That is a tenth larger, but a tenth smaller than half where docstrings are left out; and of a
    module that is stripped a fifth is left at most.
    """
    left_out = {"tests", "__pycache__", "libhighs.so.1"}
    files = [f for f in found.files or () if not left_out & set(f.parts)]
    assert files, f"{found.name} does not say what it has installed"
    bytecode = 0.45 if found.name == "kubernetes_asyncio" else 1.1
    module = 0.2 if found.name.lower() in STRIPPED else 1.0
    factors = [
        {".py": bytecode, ".so": module}.get(f.suffix, float(SOURCE.fullmatch(f.name) is None))
        for f in files
    ]
    sizes = [Path(f.locate()).stat().st_size for f in files]
    return sum(size * factor for size, factor in zip(sizes, factors, strict=True)) / 1e6


def test_the_build_leaves_out_tests_and_sources_of_others() -> None:
    (step,) = [text for _, text in dockerfile() if "-r image.lock" in text and "$PACKAGES" in text]
    tests, sources = step.split(" && ")[-6], step.split(" && ")[-1]
    assert shlex.split(tests)[:6] == ["find", "$PACKAGES", "-type", "d", "-name", "tests"]
    *found, pattern, delete = shlex.split(sources)
    assert (found, delete) == (["find", "$PACKAGES", "-regex"], "-delete")
    assert re.sub(r"\\([(|)])", r"\1", pattern) == SOURCE.pattern


def test_the_image_stays_small() -> None:
    sizes = {found.name: megabytes(found) for found in installed()}
    ours = [path for name in ("router", "solver") for path in (ROOT / name).rglob("*")]
    own = sum(p.stat().st_size for p in ours if p.is_file() and "__pycache__" not in p.parts)
    sizes["makespan"] = 2.1 * own / 1e6  # sources and bytecode
    largest = sorted(sizes, key=sizes.__getitem__)[:-8:-1]
    said = ", ".join(f"{name} {sizes[name]:.0f}" for name in largest)
    assert "numpy" in largest, "it is by far not the smallest"
    assert sum(sizes.values()) < MOST_MB - BASE_MB, f"megabytes: {said}"
