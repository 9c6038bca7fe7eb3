"""Files that are one JSON document: conversations, and what benchmarks have written of their runs.

A document becomes rows as a trace has them:

- ShareGPT's list of conversations: a request for each answer, with all that was said before it as
  its prompt; lengths by their bytes, unless there is a tokenizer. All else that the conversation
  tells, but its name, holds for each of them: when it came, its tenant, priority and targets;
- what ``vllm bench serve --save-result --save-detailed`` writes: lengths, and when each began;
- GuideLLM's ``benchmarks.json``: the requests of its last benchmark that were answered;
- a list of objects that are rows already: they tell both lengths, whatever else is in them.

What a document has beside them is left out, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from router.lab.simulation.columns import ARRIVAL, OUTPUT, PROMPT, LeftOut, Row
from router.settings.base import BadSettings
from solver.cost.estimators import BYTES_PER_TOKEN

Length = Callable[[str], float]  # tokens of a text

# Who speaks in ShareGPT's conversations and their kin, and is the model.
ANSWERERS = frozenset(("gpt", "assistant", "chatgpt", "bing", "bard"))
# Where a conversation has what was said.
_SAID = ("conversations", "conversation", "messages")
# Marks rows of a conversation but for its first one: when they came is not known.
LATER = "a later answer"
# GuideLLM has changed names between its versions.
_PROMPT = ("prompt_tokens", "input_tokens")
# What only documents have: GuideLLM's, and vLLM's with and without each request's own figures.
_DOCUMENTS = frozenset(("benchmarks", "input_lens", "total_input_tokens"))
_UNANSWERED = ("errored", "incomplete")
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


def rows_of(
    found: Any,  # noqa: ANN401 - JSON
    length: Length = by_bytes,
) -> Iterator[Row | LeftOut]:
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
    """The rows of an object, which is one itself unless it is a conversation without lengths."""
    turns = next((one[name] for name in _SAID if isinstance(one.get(name), list)), None)
    if turns is None or (one.keys() & set(PROMPT) and one.keys() & set(OUTPUT)):
        yield one
        return
    whole = {name: value for name, value in one.items() if name not in (*_SAID, "id")}
    rows = list(_answers(turns, length)) or [{PROMPT[0]: 0, OUTPUT[0]: 0}]
    for number, row in enumerate(rows):
        yield whole | row | ({LATER: True} if number else {})


def _answers(turns: Sequence[Any], length: Length) -> Iterator[dict[str, Any]]:
    before = 0.0
    for turn in turns:
        if not isinstance(turn, dict):
            continue
        size = sum(map(length, _texts(turn.get("value", turn.get("content")))))
        speaker = str(turn.get("from", turn.get("role"))).lower()
        if speaker in ANSWERERS and before:
            yield {PROMPT[0]: _tokens(before), OUTPUT[0]: _tokens(size)}
        before += size


def _texts(content: object) -> Iterator[str]:
    """The texts of a turn, which is one or has some among its parts."""
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]


def _tokens(size: float) -> int:
    """At least one where there is anything."""
    return max(int(size > 0), round(size))


def _vllm(found: Row) -> Iterator[Row]:
    prompts, outputs = found.get("input_lens"), found.get("output_lens")
    if not isinstance(prompts, list) or not isinstance(outputs, list):
        missing = "output_lens" if isinstance(prompts, list) else "input_lens"
        raise ValueError(f"{missing}: not there; vllm bench serve writes it by --save-detailed")
    times = found.get("start_times")
    lists = {"input_lens": prompts, "output_lens": outputs}
    lists |= {"start_times": times} if isinstance(times, list) else {}
    if len(set(map(len, lists.values()))) > 1:
        sizes = ", ".join(f"{name} has {len(values)}" for name, values in lists.items())
        raise ValueError(f"not a value of each for each request: {sizes}")
    first = min(lists.get("start_times", ()), default=0.0)
    for prompt, output, *time in zip(*lists.values(), strict=True):
        row = {PROMPT[0]: prompt, OUTPUT[0]: output}
        yield row | {ARRIVAL: time[0] - first} if time else row


def _guidellm(found: Row) -> Iterator[Row | LeftOut]:
    benchmarks = found["benchmarks"]
    *others, last = benchmarks if isinstance(benchmarks, list) and benchmarks else [{}]
    requests = _requests(last)
    if "successful" not in requests:
        raise ValueError("benchmarks: the last one has no requests.successful in it")
    for one in requests["successful"]:
        begin = _first(one, _BEGIN)
        row = {PROMPT[0]: _first(one, _PROMPT), OUTPUT[0]: one.get("output_tokens")}
        yield row if begin is None else row | {ARRIVAL: begin}
    for why in _UNANSWERED:
        yield from (LeftOut(why) for _ in requests.get(why, ()))
    for number, other in enumerate(others, start=1):
        why = f"of benchmark {number}, as {len(benchmarks)} is the last"
        yield from (LeftOut(why) for _ in _requests(other).get("successful", ()))


def _requests(benchmark: object) -> dict[str, list[Any]]:
    """A benchmark's requests by what came of them."""
    found = benchmark.get("requests") if isinstance(benchmark, dict) else None
    lists = found if isinstance(found, dict) else {}
    return {why: those for why, those in lists.items() if isinstance(those, list)}


def _first(one: Row, names: Sequence[str]) -> Any:  # noqa: ANN401 - JSON
    return next((one[name] for name in names if one.get(name) is not None), None)
