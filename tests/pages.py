"""The pages as data: their command blocks and what those need, their links, the paths they name.

A block of commands is indented by four spaces, or fenced as ``console``, where ``$ `` begins a
command. What cannot be run everywhere says so in two lines right before it:

    <!-- needs: docker, network -->
    *Needs Docker and the network.*
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT
from tests.readme import pages

# What a block may need, and the word for it that readers must see.
NEEDS = {
    "cluster": "cluster",
    "collector": "collector",
    "docker": "Docker",
    "GPU": "GPU",
    "kubectl": "kubectl",
    "model": "model",
    "network": "network",
    "prometheus": "Prometheus",
    "servers": "server",
    "time": "time",
    "transformers": "transformers",
    "vllm": "vLLM",
}
MARK = re.compile(r"<!-- needs: (.*) -->")
PAGES = pages()


def name(page: Path) -> str:
    """As one reads it from the top."""
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Command:
    """One command, which may have several lines, and what the page says that it prints."""

    text: str
    answer: str = ""


@dataclass(frozen=True)
class Block:
    """Commands that stand together.

    Attributes:
        line: where it begins, from 1.
        needs: what its mark names.
        words: the line of the mark that readers see.
    """

    page: Path
    line: int
    commands: tuple[Command, ...]
    needs: tuple[str, ...] = ()
    words: str = ""

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of commands in a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    k = 0
    while k < len(lines):
        start, fence = k, lines[k].startswith("```")
        if fence:
            k = next(j for j in range(k + 1, len(lines)) if lines[j].startswith("```")) + 1
            body = lines[start + 1 : k - 1]
            commands = tuple(_of_console(body)) if lines[start] == "```console" else ()
        elif _indented(lines, k):
            while k < len(lines) and (lines[k].startswith("    ") or not lines[k].strip()):
                k += 1
            commands = tuple(map(Command, split([line[4:] for line in lines[start:k]])))
        else:
            k += 1
            continue
        if commands:
            yield Block(page, start + 1, commands, *_mark(lines[:start]))


def _indented(lines: list[str], k: int) -> bool:
    before = lines[k - 1] if k else ""
    return lines[k].startswith("    ") and (not before.strip() or before.startswith("#"))


def _mark(before: list[str]) -> tuple[tuple[str, ...], str]:
    said = [line for line in before if line.strip()][-2:]
    found = MARK.fullmatch(said[0]) if len(said) == 2 else None
    return (tuple(found[1].split(", ")), said[1]) if found else ((), "")


def split(lines: list[str]) -> list[str]:
    """Lines put together where a backslash or an open quotation mark says so."""
    commands, open_ = [], ""
    for line in lines:
        open_ += line
        if open_.strip() and _complete(open_):
            commands.append(open_)
            open_ = ""
        elif open_:
            open_ += "\n"
    assert not open_.strip(), f"no end of {open_!r}"
    return commands


def _complete(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return not text.endswith("\\")


def _of_console(lines: list[str]) -> Iterator[Command]:
    starts = [k for k, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        size = 1
        while not _complete("\n".join(lines[start : start + size])):
            size += 1
        text = "\n".join(lines[start : start + size]).removeprefix("$ ")
        yield Command(text, "\n".join(lines[start + size : end]))


def python_examples(page: Path) -> list[str]:
    """What is fenced as Python."""
    return re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def prose(page: Path) -> str:
    """The page without what is fenced."""
    return re.sub(
        r"^```.*?^```\n", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Relative links: the file, empty for the page itself, and the anchor in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            yield file, anchor


def anchors(page: Path) -> list[str]:
    """What GitHub makes of the page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading) for heading in headings)
    return [re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-") for text in plain]


def paths(page: Path) -> set[str]:
    """Paths from the top of the checkout that the page names; NAME and the like stand for any."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?<![\w./-])((?:\.github|deploy|router|solver|tests)/[\w./*-]*)", text)
    return {path.rstrip(".") for path in found if not re.search(r"[A-Z]{4,}(?!\.md)", path)}


def modules(page: Path) -> set[str]:
    """Modules, and names in them, that the page cites with dots."""
    text = page.read_text(encoding="utf-8")
    return set(re.findall(r"(?<![\w./-])((?:deploy|router|solver|tests)(?:\.\w+)+)", text))
