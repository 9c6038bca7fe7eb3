"""Which paths go to workers as they are, beside those that are planned, and what they are called.

Rules:
- what engines serve to users is under ``/v1/``, or at one of a few paths of their own (`FAMILIES`);
  operators may name others;
- what changes an engine, or tells of it, is no user's: engines have it beside all this, some under
  ``/v1/``, with names that say what is done (`_DONE`); none of it is ever relayed;
- where clients have keys, any of them may ask for what `is_for_any_key` names, and what operators
  name; all else, which may keep what is others' or change what is all's, wants the right `admin`;
- a path that may mean another one to whoever reads it next (``..``, ``//``, a backslash) goes
  nowhere;
- the model is in the body, as JSON or in a form, or in the query; who names none means any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qs

from router.http.errors import RequestError

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
    r"/v\d+/(un)?load|/v\d+/(abort|admin|cache|collective|configure|continue|debug|flush|freeze|get|"
    r"init|internal|is|kv|pause|prepare|release|reset|resume|rl|scale|send|server|set|shutdown|"
    r"sleep|start|stop|update|wake)(_|/|$)",
    re.IGNORECASE,
)
_UNCLEAR = re.compile(r"//|\\|/\.{1,2}(/|$)|[\x00-\x1f\x7f]")
# What engines make of a request and keep nothing of, and in `/v1/responses/ID` what they have kept,
# which the gateway knows whose it is.
_FOR_ANY_KEY = re.compile(
    r"/(classify|detokenize|pooling|rerank|score|tokenize)"
    r"|/v1/(classify|embeddings|moderations|pooling|rerank|score)|/v2/rerank"
    r"|/v1/audio/(speech|transcriptions|translations)|/v1/images/(edits|generations|variations)"
    r"|/v1/messages/count_tokens|/v1/responses/(input_tokens|compact)"
)


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


def is_for_any_key(method: str, path: str, others: Sequence[str] = ()) -> bool:
    """Whether it is an engine's work for whoever asks, and no business of its operators."""
    at = path.rstrip("/")
    if (method == "POST" and _FOR_ANY_KEY.fullmatch(at)) or response_id(method, path) is not None:
        return True
    return any(at == other or at.startswith(other + "/") for other in others)


def query_model(query: bytes) -> str:
    """The model that a query names; empty if it names none.

    Raises:
        RequestError: if it names several.
    """
    named = set(parse_qs(query.decode("latin-1")).get("model", ())) if b"model" in query else set()
    if len(named) > 1:
        raise ambiguous_model()
    return named.pop() if named else ""


def ambiguous_model() -> RequestError:
    """Two places of a request name two models."""
    return RequestError(
        "The request names more than one model.", param="model", code="ambiguous_model"
    )
