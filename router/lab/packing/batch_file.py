"""A batch's file as kinds of lines: how long their prompts are, and what they begin with.

Prompt tokens are counted from bytes, as the gateway does until it has learnt better.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from router.http.apis import APIS
from router.http.errors import RequestError
from router.settings.base import BadSettings
from solver.cost.estimators import BYTES_PER_TOKEN, size_of, tokens_of
from solver.routing.kinds import Kind
from solver.routing.prefixes import BLOCK_TOKENS, id_blocks, text_blocks

_BY_PATH = {api.path: api for api in APIS}


class BatchLine(NamedTuple):
    """What a line asks for; `max_tokens` 0: it sets no limit."""

    model: str
    prompt_tokens: int
    max_tokens: int
    blocks: tuple[int, ...]


class Label(NamedTuple):
    """What tells kinds apart beside their sizes."""

    model: str
    max_tokens: int
    size: int


@dataclass(frozen=True, slots=True)
class BatchFile:
    """Its lines by kind, and how many are no requests: the first of them, and why."""

    kinds: Counter[Kind]
    lines: int
    left_out: int
    first_left_out: str


def read_batch(path: Path, advanced: Callable[[int], None] = lambda _: None) -> BatchFile:
    """Read it; `advanced` hears how many bytes have been read.

    Raises:
        BadSettings: if it cannot be read, or no line of it is a request.
    """
    lines, wrong = list[BatchLine](), dict[int, str]()
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    try:
                        lines.append(_line(raw.removeprefix(BOM_UTF8)))
                    except (orjson.JSONDecodeError, RequestError, ValueError) as error:
                        wrong[number] = str(error)
                advanced(file.tell() if number % 256 == 0 else 0)
    except OSError as error:
        raise BadSettings.of_file(path, error) from error
    first = next((f"line {number}: {why}" for number, why in wrong.items()), "")
    if not lines:
        raise BadSettings(f"{path}: no line is a request of a batch; {first or 'it is empty'}")
    return BatchFile(Counter(_kinds(lines)), len(lines), len(wrong), first)


def _line(raw: bytes) -> BatchLine:
    found = orjson.loads(raw)
    body = found.get("body") if isinstance(found, dict) else None
    if not isinstance(body, dict):
        raise ValueError("'body' must be a JSON object")
    url, model = found.get("url"), body.get("model")
    if url not in _BY_PATH:
        raise ValueError(f"'url' must be one of {', '.join(_BY_PATH)}, not {url!r}")
    api = _BY_PATH[url]
    limits = (body.get(name) for name in api.limits)
    prompts = api.prompts(body, len(raw))
    tokens = sum(
        prompt.text_bytes / BYTES_PER_TOKEN if prompt.token_ids is None else prompt.token_ids
        for prompt in prompts
    )
    return BatchLine(
        model if isinstance(model, str) else "",
        max(1, round(tokens)),
        next((n for n in limits if type(n) is int and 0 < n < 1 << 31), 0),
        _blocks(prompts),
    )


def _blocks(prompts: Sequence[Any]) -> tuple[int, ...]:
    if len(prompts) != 1:
        return ()
    return id_blocks(prompts[0].ids) if prompts[0].ids else text_blocks(prompts[0].text)


def _kinds(lines: Sequence[BatchLine]) -> Iterator[Kind]:
    """Of each line; a prefix is what all lines with the same first block have in common."""
    common: dict[int, tuple[int, ...]] = {}
    count: Counter[int] = Counter()
    for line in lines:
        if line.blocks:
            first = line.blocks[0]
            count[first] += 1
            common[first] = _alike(common.get(first, line.blocks), line.blocks)
    for line in lines:
        size = size_of(line.prompt_tokens)
        about = tokens_of(size)
        label = Label(line.model, line.max_tokens, size)
        if line.blocks and count[line.blocks[0]] > 1:
            shared = min(about - 1, BLOCK_TOKENS * len(common[line.blocks[0]]))
            yield Kind("", about, prefix=line.blocks[0], shared_tokens=shared, label=label)
        else:
            yield Kind("", about, label=label)


def _alike(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return a[:same]
