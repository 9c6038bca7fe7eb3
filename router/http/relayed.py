"""Which paths go to workers as they are, beside those that are planned, and what they are called.

Rules:
- what engines serve to users is under ``/v1/``, or at one of a few paths of their own (`FAMILIES`);
  operators may name others;
- what changes an engine, or tells of it, is no user's: engines have it beside all this, some under
  ``/v1/``, with names that say what is done (`_DONE`); none of it is ever relayed;
- a path that may mean another one to whoever reads it next (``..``, ``//``, a backslash) goes
  nowhere;
- the model is in the body, as JSON or in a form, or in the query; who names none means any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qs

# Prefixes, by whole segments, and their names for metrics.
FAMILIES = {
    "/classify": "classify",
    "/detokenize": "detokenize",
    "/pooling": "pooling",
    "/rerank": "rerank",
    "/score": "score",
    "/tokenize": "tokenize",
    "/v1": "other",
    "/v1/audio": "audio",
    "/v1/classify": "classify",
    "/v1/embeddings": "embeddings",
    "/v1/images": "images",
    "/v1/messages": "messages",
    "/v1/pooling": "pooling",
    "/v1/rerank": "rerank",
    "/v1/responses": "responses",
    "/v1/score": "score",
    "/v2/rerank": "rerank",
}
OTHER = "other"
METHODS = frozenset(("GET", "POST", "DELETE"))
# How names begin of what is done to an engine: vLLM's load_lora_adapter, sleep and
# update_weights, SGLang's loads and get_server_info, and so on. Resources of an API are nouns.
_DONE = re.compile(
    r"/v\d+/(un)?load|/v\d+/(abort|collective|configure|continue|flush|freeze|get|init|internal|is|"
    r"pause|prepare|release|reset|resume|rl|scale|send|server|set|shutdown|sleep|start|stop|update|"
    r"wake)(_|/|$)",
    re.IGNORECASE,
)
_UNCLEAR = re.compile(r"//|\\|/\.{1,2}(/|$)|[\x00-\x1f\x7f]")
_FORM = re.compile(rb'multipart/form-data\s*;.*?\bboundary="?([^";]{1,200})', re.IGNORECASE)
_NAMED_MODEL = re.compile(
    rb'content-disposition:[^\r\n]*;\s*name="?model"?\s*(;|\r\n|$)', re.IGNORECASE
)
MOST_HEAD = 1024  # of one field of a form


def family_of(method: str, path: str, others: Sequence[str] = ()) -> str | None:
    """What such a path is called in metrics; None: it is not relayed. `path` is unescaped."""
    if method not in METHODS or _UNCLEAR.search(path) or _DONE.match(path):
        return None
    at = path.rstrip("/")
    while at:
        if at in FAMILIES:
            return FAMILIES[at]
        if at in others:
            return OTHER
        at = at.rpartition("/")[0]
    return None


def response_id(method: str, path: str) -> str | None:
    """Of ``/v1/responses/ID`` and what is below it, the id.

    Nothing is posted to an answer itself: ``POST /v1/responses/compact`` makes something new.
    """
    parts = path.strip("/").split("/")
    if parts[:2] != ["v1", "responses"] or len(parts) < 3 or (method == "POST" and len(parts) == 3):
        return None
    return parts[2]


def boundary_of(content_type: bytes | None) -> bytes | None:
    """What parts a form's fields, if it is a form."""
    found = _FORM.match(content_type.strip()) if content_type else None
    return None if found is None else b"--" + found[1].strip()


def form_model(body: bytes, boundary: bytes) -> tuple[int, int] | None:
    """From where to where in a form the value of its field ``model`` is."""
    at = body.find(boundary)
    while at >= 0:
        begin = at + len(boundary) + 2
        end_of_head = body.find(b"\r\n\r\n", begin, begin + MOST_HEAD)
        at = body.find(b"\r\n" + boundary, begin)
        if at < 0:
            return None
        if 0 <= end_of_head < at and _NAMED_MODEL.search(body, begin, end_of_head + 2):
            return end_of_head + 4, at
        at += 2
    return None


def query_model(query: bytes) -> str:
    """The model that a query names; empty if it names none."""
    return parse_qs(query.decode("latin-1")).get("model", [""])[0] if b"model=" in query else ""
