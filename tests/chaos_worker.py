"""A plain worker that says what an emulated agent would say, and falls ill when told to.

    python -m tests.chaos_worker

Prints its URL. Each line on its standard input is what it does with completions from then on, one
of `MOODS`; it ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from router.agent.answers import AnswerFormatter, usage
from router.agent.engines.base import Answer
from router.agent.engines.emulated.engine import EmulatedEngine
from router.agent.loop import ChoiceOutput
from router.http.schemas import read
from router.settings.hardware import hardware
from tests.faulty_server import STREAM_HEAD, Call, FaultyServer, chunk, status
from tests.faulty_server import Answer as Behaviour

MODEL = "llama-65b"
TOKEN_S = 0.01
ENGINE = EmulatedEngine(hardware("llama-65b-ascend").cost, {}, 0)


def answers_to(body: dict[str, Any], *, chat: bool) -> list[Answer]:
    """What every emulated engine of the usual seed answers, one a choice."""
    return ENGINE.answers(read(body, chat=chat), body, lambda _: int(body["max_tokens"]))


def texts_of(body: dict[str, Any], *, chat: bool) -> list[str]:
    """The same as texts."""
    made = answers_to(body, chat=chat)
    return ["".join(output.token.text for output in outputs) for outputs in _told(made)]


def _told(answers: list[Answer]) -> list[list[ChoiceOutput]]:
    told: list[list[ChoiceOutput]] = []
    for index, answer in enumerate(answers):
        outputs: list[ChoiceOutput] = []
        while not outputs or outputs[-1].token.finish_reason is None:
            outputs.append(ChoiceOutput(index, answer.next()))  # type: ignore[attr-defined]
        told.append(outputs)
    return told


async def well(call: Call) -> None:
    """It answers, a token of each choice every `TOKEN_S`."""
    body, chat = json.loads(call.body), "chat" in call.path
    request, answers = read(body, chat=chat), answers_to(body, chat=chat)
    told, formatter = _told(answers), AnswerFormatter(request, MODEL, ENGINE.name)
    used = usage(answers[0].prompt_tokens, sum(map(len, told)), 0)
    if request.stream:
        await call.send(STREAM_HEAD)
    for step in range(max(map(len, told))):
        await asyncio.sleep(TOKEN_S)
        if request.stream:
            outputs = [outputs[step] for outputs in told if step < len(outputs)]
            await call.send(chunk(formatter.chunk(outputs)))
    if request.stream:
        await call.send(chunk(formatter.end(used)), chunk(b""))
    else:
        outputs = [output for outputs in told for output in outputs]
        await call.answer(200, formatter.full(outputs, used), content_type="application/json")


async def hung(call: Call) -> None:
    """It begins, and is not heard of again."""
    await call.send(STREAM_HEAD)
    await asyncio.Event().wait()


async def models(call: Call) -> None:
    """What agents serve, too."""
    body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
    await call.answer(200, body, content_type="application/json")


MOODS: dict[str, Behaviour] = {
    "well": well,
    "failing": status(500),
    "limiting": status(429, retry_after="2"),
    "hung": hung,
}


def main() -> None:
    """Until nobody tells it anything any more."""
    with FaultyServer(well, models) as server:
        print(f"url {server.url}", flush=True)
        for line in sys.stdin:
            server.answer = MOODS[line.strip()]


if __name__ == "__main__":
    main()
