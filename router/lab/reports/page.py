"""The frame of a page that needs nothing else: it loads nothing, and its content policy forbids it.

It works without JavaScript, which sorts tables and switches parts of charts on and off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from router.lab.pictures.svg import element
from router.look.palette import base_style

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(title: str, *body: str) -> str:
    """The whole file."""
    here = Path(__file__)
    style = base_style() + here.with_name("report.css").read_text(encoding="utf-8")
    script = here.with_name("report.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body>{''.join(body)}<script>{script}</script></body></html>\n"
    )


def header(eyebrow: str, title: str, facts: Mapping[str, str]) -> str:
    """Title and facts at the top."""
    shown = (
        element("div", element("dt", escape(name)), element("dd", escape(value)))
        for name, value in facts.items()
    )
    return element(
        "header",
        element("p", escape(eyebrow), class_="eyebrow"),
        element("h1", escape(title)),
        element("dl", *shown, class_="facts"),
    )


def section(heading: str, *content: str) -> str:
    """A part of the page."""
    return element("section", element("h2", escape(heading)), *content)


def listed(lines: Iterable[tuple[str, str]]) -> str:
    """A list of a lead in bold and words each."""
    items = (
        element("li", element("b", escape(lead)), ": ", escape(words)) for lead, words in lines
    )
    return element("ul", *items, class_="short")


def made_by(command: str) -> str:
    """What makes the page again."""
    return section("Made by", element("pre", element("code", escape(command))))


def terms(entries: Mapping[str, str]) -> str:
    """How to read it."""
    parts = (
        element("dt", escape(term)) + element("dd", escape(words))
        for term, words in entries.items()
    )
    return section("How to read this", element("dl", *parts, class_="terms"))
