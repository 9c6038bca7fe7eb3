"""What a user of LangChain does with a gateway, as one JSON object on standard output.

The name of each step, and what came of it: `langchain_steps.py AGENTS ENGINES`, the addresses of
a gateway before agents that answer themselves and of one before engines with tools and embeddings.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

AGENTS, ENGINES = sys.argv[1:]
ASKED = [SystemMessage("Be brief."), HumanMessage("Wie viele Äpfel? 苹果 🍎")]
EXACT = {"extra_body": {"ignore_eos": True}}
WEATHER = {
    "title": "weather",
    "description": "The weather of a city",
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sun in {city}"


def openai(url: str = AGENTS, model: str = "llama-65b", **more: object) -> ChatOpenAI:
    more = {"max_tokens": 7, "stream_usage": True, **EXACT, **more}
    return ChatOpenAI(base_url=f"{url}/v1", model=model, api_key="-", max_retries=0, **more)


def anthropic(url: str = AGENTS, model: str = "llama-65b", **more: object) -> ChatAnthropic:
    more = {"max_tokens": 7, **more}
    return ChatAnthropic(base_url=url, model=model, api_key="-", max_retries=0, **more)


def completions(**more: object) -> OpenAI:
    more = {"max_tokens": 7, **EXACT, **more}
    return OpenAI(base_url=f"{AGENTS}/v1", model="llama-65b", api_key="-", max_retries=0, **more)


def embeddings(url: str, model: str) -> OpenAIEmbeddings:
    """Of text, as the tokens of OpenAI's own models are not those of others."""
    plain = {"check_embedding_ctx_length": False, "max_retries": 0}
    return OpenAIEmbeddings(base_url=f"{url}/v1", model=model, api_key="-", **plain)


def told(message: BaseMessage) -> dict[str, Any]:
    """Of an answer, or of the sum of its chunks."""
    usage = message.usage_metadata or {}
    return {
        "words": len(message.text.split()),
        "tokens": usage.get("output_tokens"),
        "prompt": usage.get("input_tokens"),
        "tools": [[call["name"], call["args"]] for call in message.tool_calls],
        "why": message.response_metadata.get("finish_reason")
        or message.response_metadata.get("stop_reason"),
    }


def summed(chunks: Iterable[AIMessageChunk]) -> dict[str, Any]:
    """Of a stream, and how many of its chunks had text."""
    every = list(chunks)
    whole = every[0]
    for chunk in every[1:]:
        whole += chunk
    return {**told(whole), "chunks": sum(bool(chunk.text) for chunk in every)}


async def answers_at_once() -> list[dict[str, Any]]:
    llm, other = openai(), anthropic()
    answers = await asyncio.gather(*(one.ainvoke(ASKED) for one in [llm, other] * 8))
    return [told(answer) for answer in answers]


async def streams_at_once() -> list[dict[str, Any]]:
    async def one(llm: ChatOpenAI | ChatAnthropic) -> dict[str, Any]:
        return summed([chunk async for chunk in llm.astream(ASKED)])

    llm, other = openai(), anthropic()
    return await asyncio.gather(*(one(llm) for llm in [llm, other] * 8))


async def conversation() -> list[dict[str, Any]]:
    """By responses; what was said before is the worker's to know."""
    llm = openai(use_responses_api=True, use_previous_response_id=True)
    first = llm.invoke(ASKED)
    more = llm.invoke([*ASKED, first, HumanMessage("And now?")])
    return [told(first), told(more)]


async def both_embeddings() -> list[list[float]]:
    of = embeddings(ENGINES, "m")
    return [of.embed_query("hi"), await of.aembed_query("hi")]


def called(llm: ChatOpenAI | ChatAnthropic) -> list[dict[str, Any]]:
    bound = llm.bind_tools([weather])
    return [told(bound.invoke(ASKED)), summed(bound.stream(ASKED))]


def with_fault(fault: str, max_tokens: int = 7) -> ChatOpenAI:
    return openai(default_headers={"x-makespan-fault": fault}, max_tokens=max_tokens)


STEPS: dict[str, Callable[[], object]] = {
    "chat": lambda: told(openai().invoke(ASKED)),
    "chat_stream": lambda: summed(openai().stream(ASKED)),
    "two": lambda: [len(one.text.split()) for one in openai(n=2).generate([ASKED]).generations[0]],
    "completion": lambda: len(completions().invoke("How many?").split()),
    "completion_stream": lambda: sum(map(bool, completions().stream("How many?"))),
    "conversation": conversation,
    "responses": lambda: told(openai(use_responses_api=True).invoke(ASKED)),
    "responses_stream": lambda: summed(openai(use_responses_api=True).stream(ASKED)),
    "messages": lambda: told(anthropic().invoke(ASKED)),
    "messages_stream": lambda: summed(anthropic().stream(ASKED)),
    "answers_at_once": answers_at_once,
    "streams_at_once": streams_at_once,
    "no_model": lambda: openai(model="gpt").invoke(ASKED),
    "no_model_for_messages": lambda: anthropic(model="gpt").invoke(ASKED),
    "rate_limit": lambda: with_fault("status=429").invoke(ASKED),
    "no_embeddings": lambda: embeddings(AGENTS, "llama-65b").embed_query("hi"),
    "embeddings": both_embeddings,
    "tools": lambda: called(openai(ENGINES, "m")),
    "responses_tools": lambda: called(openai(ENGINES, "m", use_responses_api=True)),
    "messages_tools": lambda: called(anthropic(ENGINES, "m")),
    "structured": lambda: (
        openai(ENGINES, "m")
        .with_structured_output(WEATHER, method="function_calling")
        .invoke(ASKED)
    ),
    "broken_stream": lambda: summed(with_fault("crash=5", max_tokens=50).stream(ASKED)),
}


async def main() -> None:
    """One step after the other."""
    found = {}
    for name, step in STEPS.items():
        try:
            value = step()
            found[name] = {"value": await value if isinstance(value, Awaitable) else value}
        except Exception as error:
            code = getattr(error, "status_code", None)
            found[name] = {"error": [type(error).__name__, code, str(error)]}
    print(json.dumps(found))


asyncio.run(main())
