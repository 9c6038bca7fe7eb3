"""The pages keep their word: commands run, links and paths lead somewhere, the README is short."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from router.settings.commands import all_settings
from tests import http
from tests.helpers import ROOT, Fleet, Process
from tests.pages import (
    NEEDS,
    PAGES,
    Block,
    Command,
    anchors,
    blocks,
    links,
    modules,
    name,
    paths,
    prose,
    python_examples,
)
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, eventually

BLOCKS = [block for page in PAGES for block in blocks(page)]
SERVES = re.compile(r"\.venv/bin/makespan (up|gateway|agent) ")
# A block that needs nothing else is run where its tool is.
TOOLS: Mapping[str, Callable[[], object]] = {
    "kubectl": lambda: shutil.which("kubectl"),
    "prometheus": lambda: shutil.which("promtool"),
    "transformers": lambda: find_spec("transformers"),
}
# What a page writes, and what is run in its place: `make` says what it would do.
SUBSTITUTES = (
    (r"(?<![\w/])\.venv/bin/python\b", sys.executable),
    (r"(?<![\w/])\.venv/bin/makespan\b", f"{sys.executable} -m router.cli"),
    (r"^make ", f"make --dry-run PYTHON={sys.executable} "),
    (r"http://127\.0\.0\.1:8000", "{gateway}"),
    (r"--port 8100\b", "--port {port}"),
)
# Told anew by every run.
CHANGING = {"created", "id", "solve_s"}
# Nobody's settings but the page's.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("MAKESPAN_")}
ENVIRONMENT["PYTHONPATH"] = str(ROOT)

each_page = pytest.mark.parametrize("page", PAGES, ids=name)


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """`make run` that keeps batches, on a free port."""
    with TemporaryDirectory() as data, Fleet("--data", data) as fleet:
        yield fleet.url


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that has what commands read of the checkout, and in which files may be left."""
    for part in ("Makefile", "pyproject.toml", "deploy", "router", "solver", "tests"):
        (tmp_path / part).symlink_to(ROOT / part)
    return tmp_path


def substituted(text: str, gateway: str) -> str:
    for pattern, instead in SUBSTITUTES:
        text = re.sub(pattern, instead, text)
    return text.replace("{gateway}", gateway).replace("{port}", str(free_ports(1)[0]))


def run(command: Command, folder: Path, gateway: str) -> None:
    if SERVES.match(command.text):
        check_that_it_serves(command, gateway)
        return
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", substituted(command.text, gateway)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command.text}\n{done.stdout}{done.stderr}"
    if command.answer.startswith("{"):
        shown = json.loads(command.answer.replace(":…", ":null"))
        assert agrees(shown, json.loads(done.stdout)), f"{command.text}\n{done.stdout}"


def check_that_it_serves(command: Command, gateway: str) -> None:
    """It answers, and ends well when it is told to."""
    arguments = substituted(command.text, gateway).split("router.cli ")[1].split()
    url = f"http://127.0.0.1:{arguments[arguments.index('--port') + 1]}"
    with Process(*arguments) as process:
        eventually(lambda: http.is_well(url + "/ready"), url)
        assert process.stop() == 0


def agrees(shown: object, said: object) -> bool:
    """Whether an answer is what the page shows, but for what every run tells anew."""
    if isinstance(shown, dict) and isinstance(said, dict):
        return shown.keys() == said.keys() and all(
            key in CHANGING or agrees(value, said[key]) for key, value in shown.items()
        )
    if isinstance(shown, list) and isinstance(said, list):
        return len(shown) == len(said) and all(map(agrees, shown, said))
    if isinstance(shown, float):
        return bool(said == pytest.approx(shown))
    return shown == said


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_what_a_block_needs_is_said(block: Block) -> None:
    assert set(block.needs) <= NEEDS.keys()
    assert not block.needs or block.words.startswith("*Needs ")
    for need in block.needs:
        assert NEEDS[need] in block.words


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if not block.needs}), ids=name
)
def test_commands_that_need_nothing_run(page: Path, checkout: Path, gateway: str) -> None:
    """One after another, as files that one leaves are those that the next one reads."""
    for block in blocks(page):
        if not block.needs:
            for command in block.commands:
                run(command, checkout, gateway)


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.needs and set(block.needs) <= TOOLS.keys()],
    ids=str,
)
def test_commands_that_need_a_tool_run_where_it_is(
    block: Block, checkout: Path, gateway: str
) -> None:
    for need in block.needs:
        if not TOOLS[need]():
            pytest.skip(f"{need} is not installed")
    for command in block.commands:
        run(command, checkout, gateway)


@pytest.mark.parametrize("page", [page for page in PAGES if python_examples(page)], ids=name)
def test_python_examples_run(page: Path, gateway: str) -> None:
    for text in python_examples(page):
        program = [sys.executable, "-c", substituted(text, gateway)]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_two_servers_that_the_readme_names_get_a_gateway() -> None:
    """The command that most readers come for, on two servers that are nobody's but ours."""
    (text,) = [
        command.text
        for block in blocks(ROOT / "README.md")
        for command in block.commands
        if "makespan gateway" in command.text
    ]
    arguments = text.partition("makespan ")[2].split()
    first, second, port = free_ports(3)
    plain = [sys.executable, "-m", "tests.plain_server"]
    servers = [subprocess.Popen([*plain, str(port)], cwd=ROOT) for port in (first, second)]
    try:
        ours = f"http://127.0.0.1:{first},http://127.0.0.1:{second}"
        worker = arguments.index("--worker") + 1
        assert len(arguments[worker].split(",")) == 2
        arguments[worker] = ours
        with Process(*arguments, "--port", str(port)):
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: http.is_well(url + "/ready"), url)
            models = http.get(url + "/v1/models").json()["data"]
            body = {"model": models[0]["id"], "prompt": "How many clips?", "max_tokens": 4}
            answer = http.post(url + "/v1/completions", json=body).json()
            assert answer["choices"][0]["text"]
    finally:
        for server in servers:
            server.terminate()
            server.wait(PATIENCE_S)


@each_page
def test_options_exist(page: Path) -> None:
    """Those of commands that are run nowhere, and those in a line of text, too."""
    known = {command.table: command for command in all_settings()}
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for table, rest in re.findall(r"\bmakespan ([a-z]+)\b((?: +[^\n`#|]+)?)", text):
        if (group := " ".join([table, *rest.split()[:1]])) in known:
            table = group  # noqa: PLW2901 - a command of a group
        flags = re.findall(r"(?<=--)[a-z][a-z-]*", rest)
        if table not in known:
            assert not flags, f"makespan {table}{rest}"
            continue
        fields = known[table].model_fields
        options = {(field.alias or name).replace("_", "-") for name, field in fields.items()}
        assert {flag.removeprefix("no-") for flag in flags} <= options | {"help"}, table + rest


@each_page
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?:^ +|`)make ([.\w/-]+)", text, re.MULTILINE):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"make {target}"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in links(page):
        target = page if not file else (page.parent / file).resolve()
        assert target.exists(), file
        assert target.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


@each_page
def test_paths_exist(page: Path) -> None:
    missing = {path for path in paths(page) if not any(ROOT.glob(path.rstrip("/")))}
    assert not missing


@each_page
def test_modules_exist(page: Path) -> None:
    """Each is a module, a folder, or a name in one."""
    missing = {module for module in modules(page) if not is_there(module)}
    benches = re.findall(r"\bbench_[a-z_]+\b", page.read_text(encoding="utf-8"))
    missing |= {bench for bench in benches if not (ROOT / f"tests/bench/{bench}.py").exists()}
    assert not missing


def is_there(module: str) -> bool:
    place = ROOT.joinpath(*module.split("."))
    if place.name[0].isupper() or place.parent.with_suffix(".py").exists():
        place = place.parent  # it is a class there, or some other name
    return place.is_dir() or place.with_suffix(".py").exists()


@each_page
def test_tables_are_intact(page: Path) -> None:
    """Every row has as many cells as its head."""
    width = 0
    for line in prose(page).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line)))
        assert width in {0, cells}, line
        width = cells


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 250
