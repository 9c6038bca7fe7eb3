"""Files that are one JSON document: conversations, and what benchmarks have written of their runs.

A document becomes rows as a trace has them:

- ShareGPT's list of conversations: a request for each answer, with all that was said before it as
  its prompt; lengths by their bytes, unless there is a tokenizer;
- what ``vllm bench serve --save-result --save-detailed`` writes: lengths, and when each began;
- GuideLLM's ``benchmarks.json``: the requests of its last benchmark that were answered;
- a list of objects that are rows already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from router.settings.base import BadSettings
from solver.cost.estimators import BYTES_PER_TOKEN

Row = Mapping[str, Any]
Length = Callable[[str], float]  # tokens of a text

# Who speaks in ShareGPT's conversations and their kin, and is the model.
ANSWERERS = frozenset(("gpt", "assistant", "chatgpt", "bing", "bard"))
# GuideLLM has changed names between its versions.
_PROMPT = ("prompt_tokens", "input_tokens")
# What only documents have: GuideLLM's, and vLLM's with and without each request's own figures.
_DOCUMENTS = frozenset(("benchmarks", "input_lens", "total_input_tokens"))
_BEGIN = ("request_start_time", "start_time")


def is_document(found: object) -> bool:
    """Whether it has many requests in it, and is not one itself."""
    return isinstance(found, list) or (isinstance(found, dict) and bool(_DOCUMENTS & found.keys()))


def by_bytes(text: str) -> float:
    """Tokens of a text, where no tokenizer is at hand."""
    return len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN


def by_tokenizer(path: Path) -> Length:
    """Tokens of a text by a ``tokenizer.json``.

    Raises:
        BadSettings: if it is none, or what reads it is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        message = "tokenizer: needs a package: pip install tokenizers (transformers brings it)"
        raise BadSettings(message) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # it has no class of its own
        raise BadSettings(f"tokenizer: {path} is no tokenizer.json: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def rows_of(found: Any, length: Length = by_bytes) -> Iterator[Row]:  # noqa: ANN401 - JSON
    """The rows of a document; `length` is that of texts.

    Raises:
        ValueError: saying what is missing.
    """
    if isinstance(found, list):
        for number, one in enumerate(found):
            if not isinstance(one, dict):
                raise ValueError(f"[{number}]: expected a conversation or a request, an object")
            yield from rows_of_one(one, length)
    elif "benchmarks" not in found:
        yield from _vllm(found)
    else:
        yield from _guidellm(found)


def rows_of_one(one: Row, length: Length = by_bytes) -> Iterator[Row]:
    """The rows of an object, which is one itself unless it is a conversation."""
    return iter((one,)) if _turns(one) is None else _conversation(one, length)


def _turns(one: Row) -> Sequence[Any] | None:
    turns = one.get("conversations", one.get("conversation", one.get("messages")))
    return turns if isinstance(turns, list) else None


def _conversation(one: Row, length: Length) -> Iterator[Row]:
    before = 0.0
    for turn in _turns(one) or ():
        if not isinstance(turn, dict):
            continue
        text = turn.get("value", turn.get("content"))
        size = length(text) if isinstance(text, str) else 0.0
        speaker = str(turn.get("from", turn.get("role"))).lower()
        if speaker in ANSWERERS and before:
            yield {"prompt_tokens": _tokens(before), "output_tokens": _tokens(size)}
        before += size


def _tokens(size: float) -> int:
    """At least one where there is anything."""
    return max(int(size > 0), round(size))


def _vllm(found: Row) -> Iterator[Row]:
    prompts, outputs = found.get("input_lens"), found.get("output_lens")
    if not isinstance(prompts, list) or not isinstance(outputs, list):
        missing = "output_lens" if isinstance(prompts, list) else "input_lens"
        raise ValueError(f"{missing}: not there; vllm bench serve writes it by --save-detailed")
    times = found.get("start_times")
    first = min(times) if isinstance(times, list) and times else 0.0
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=False)):
        row = {"prompt_tokens": prompt, "output_tokens": output}
        yield row | ({"arrival_s": times[number] - first} if isinstance(times, list) else {})


def _guidellm(found: Row) -> Iterator[Row]:
    benchmarks = found["benchmarks"]
    last = benchmarks[-1] if isinstance(benchmarks, list) and benchmarks else {}
    requests = last.get("requests") if isinstance(last, dict) else None
    answered = requests.get("successful") if isinstance(requests, dict) else None
    if not isinstance(answered, list):
        raise ValueError("benchmarks: the last one has no requests.successful in it")
    for one in answered:
        begin = _first(one, _BEGIN)
        row = {
            "prompt_tokens": _first(one, _PROMPT),
            "output_tokens": one.get("output_tokens"),
        }
        yield row if begin is None else row | {"arrival_s": begin}


def _first(one: Row, names: Sequence[str]) -> Any:  # noqa: ANN401 - JSON
    return next((one[name] for name in names if one.get(name) is not None), None)
