"""One palette for light and dark, as CSS variables, and the style that all pages begin with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# Hues from Okabe and Ito (2008), told apart by the colour-blind, darkened or lightened until they
# stand out from both surfaces: text at least 4.5 to 1, marks at least 3 to 1 (WCAG 2.2, 1.4.3 and
# 1.4.11). Idle time is background on purpose.
LIGHT: Mapping[str, str] = {
    "surface": "#ffffff",
    "ink": "#1f2328",
    "muted": "#57606a",
    "grid": "#d5dae0",
    "plot": "#eceff3",
    "prefill": "#d45500",
    "decode": "#1f6fb2",
    "stalled": "#f2c037",
    "paused": "#8d7cc4",
    "waiting": "#cfd5dd",
    "bound": "#a3195b",
    "c0": "#1f6fb2",
    "c1": "#c85000",
    "c2": "#007a57",
    "c3": "#a8478a",
    "c4": "#a36c00",
    "c5": "#2a8cc4",
    "c6": "#57606a",
}
DARK: Mapping[str, str] = {
    "surface": "#0d1117",
    "ink": "#e6edf3",
    "muted": "#9da7b3",
    "grid": "#30363d",
    "plot": "#1b2129",
    "prefill": "#ff8a3d",
    "decode": "#3d8bd4",
    "stalled": "#e3c567",
    "paused": "#9d8ee0",
    "waiting": "#39424d",
    "bound": "#ff7eb6",
    "c0": "#4ea3e8",
    "c1": "#ff8a4c",
    "c2": "#2cc79a",
    "c3": "#e48fc0",
    "c4": "#e0a526",
    "c5": "#9ad7ff",
    "c6": "#9da7b3",
}
COLOURS = 7
DASHES = ("", "7 3", "2 3", "9 3 2 3")
FONT = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif'


def theme(selector: str) -> str:
    """The palette as CSS variables of `selector`; print takes the light one."""
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in palette.items())
        for palette in (LIGHT, DARK)
    )
    return (
        f"{selector}{{{light}}}"
        f"@media screen and (prefers-color-scheme:dark){{{selector}{{{dark}}}}}"
    )


def base_style() -> str:
    """What a page's style sheet begins with: the palette, text, tables, focus."""
    return theme(":root") + Path(__file__).with_name("base.css").read_text(encoding="utf-8")
