"""The pages of policies and dispatchers: ``python -m tests.solver_pages`` renders them.

A page is a module's docstring in a fixed form: one sentence, then the labelled paragraphs of
`FIELDS` in this order. The tables and pages in the solver's README are made from them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from solver.batching.policies import POLICIES
from solver.routing.dispatchers import DISPATCHERS, dispatcher
from solver.routing.dispatchers.base import Immediate
from tests.helpers import ROOT

README = ROOT / "solver" / "README.md"
FIELDS = ("Decides", "Inputs", "Parameters", "Trade-off", "When not to use it", "Source")
FIELD = re.compile(r"^([A-Z][\w -]*):(?=\s)", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One module's docstring, taken apart."""

    name: str
    module: ModuleType
    sentence: str
    fields: Mapping[str, str]

    @property
    def parameters(self) -> list[str]:
        """The names that its parameters have in code."""
        items = re.findall(r"^- ((?:`[\w.]+`(?:, )?)+):", self.fields["Parameters"], re.MULTILINE)
        return [name for item in items for name in re.findall(r"`([\w.]+)`", item)]


def page(name: str, module: ModuleType) -> Page:
    """The page of a module; its fields are in the order in which they stand."""
    sentence, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    parts = FIELD.split(rest)
    fields = dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))
    return Page(name, module, " ".join(sentence.split()), fields)


def policies() -> list[Page]:
    """Of all iteration policies, by the registry."""
    return [page(name, importlib.import_module(p.__module__)) for name, p in POLICIES.items()]


def dispatchers() -> list[Page]:
    """Of all dispatchers, by the registry."""
    pages = []
    for name in DISPATCHERS:
        made = dispatcher(name, random.Random(0))
        rule = made._choice if isinstance(made, Immediate) else type(made)
        pages.append(page(name, importlib.import_module(rule.__module__)))
    return pages


def names_in(module: ModuleType) -> set[str]:
    """All that the code of a module assigns or takes by name."""
    tree = ast.parse(inspect.getsource(module))
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return named | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def exists(parameter: str, module: ModuleType) -> bool:
    """Whether a parameter is there: in the module's code, or where its dotted name says."""
    home, _, name = parameter.rpartition(".")
    return hasattr(importlib.import_module(home), name) if home else parameter in names_in(module)


def rendered(pages: list[Page]) -> str:
    """A table of them, and each in full."""
    rows = ["| name | decides by | file |", "| --- | --- | --- |"]
    for one in pages:
        path = "/".join(one.module.__name__.split(".")[1:]) + ".py"
        rows.append(f"| `{one.name}` | {one.sentence} | [{path}]({path}) |")
    return "\n".join([*rows, "", *(line for one in pages for line in _page(one))]).rstrip()


def _page(one: Page) -> Iterator[str]:
    """Each paragraph and each item is one line, as in the tables."""
    yield f"<details><summary><code>{one.name}</code></summary>\n"
    for label, text in one.fields.items():
        blocks = re.split(r"\n\n|\n(?=- )", text.replace("``", "`"))
        lines = [" ".join(block.split()) for block in blocks]
        first = "" if lines[0].startswith("- ") else f" {lines.pop(0)}"
        yield f"- **{label}:**{first}"
        yield from (f"  {line}" if line.startswith("- ") else f"\n  {line}" for line in lines)
    yield "\n</details>\n"


def render(text: str) -> str:
    """`text` with its policies and dispatchers made anew."""
    for name, pages in (("policies", policies()), ("dispatchers", dispatchers())):
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = f"(?<={re.escape(marks[0])}\n).*?(?={re.escape(marks[1])})"
        made = rendered(pages).replace("\\", r"\\") + "\n"
        text = re.sub(pattern, made, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")
