"""OpenAI's and Anthropic's SDKs on responses and messages, unchanged.

Against agents that answer themselves, and before a strict server with tools.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests import http
from tests.clients.conftest import all_up
from tests.e2e.test_gateway import MODEL
from tests.e2e.test_other_apis import Gateway
from tests.engine_server import EngineServer
from tests.helpers import Fleet
from tests.waiting import eventually

EXACT = {"ignore_eos": True}
SAYS = " one two three"
FUNCTION: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.fixture(scope="module")
def engines() -> Iterator[str]:
    """A gateway before two engines; its address."""
    with ExitStack() as stack:
        servers = [stack.enter_context(EngineServer("m", number=k)) for k in range(2)]
        yield stack.enter_context(Gateway(*servers)).url


def of_openai(url: str) -> OpenAI:
    return OpenAI(base_url=url + "/v1", api_key="-", max_retries=0)


def of_anthropic(url: str) -> Anthropic:
    return Anthropic(base_url=url, api_key="-", max_retries=0)


def test_responses_of_agents(fleet: Fleet) -> None:
    with of_openai(fleet.url) as client:
        first = client.responses.create(
            model=MODEL, input="How many?", instructions="Be brief.", max_output_tokens=5,
            extra_body=EXACT,
        )  # fmt: skip
        assert (first.status, len(first.output_text.split())) == ("incomplete", 5)
        assert first.usage is not None
        assert first.usage.output_tokens == 5
        more = client.responses.create(
            model=MODEL,
            input=[{"role": "user", "content": [{"type": "input_text", "text": "And now?"}]}],
            previous_response_id=first.id,
            max_output_tokens=5,
            extra_body=EXACT,
        )
        assert more.usage is not None
        assert more.usage.input_tokens > first.usage.input_tokens
        assert client.responses.retrieve(more.id).output_text == more.output_text
        client.responses.delete(more.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(more.id)
        with pytest.raises(openai.BadRequestError, match="nothing runs in the background"):
            client.responses.cancel(first.id)


def test_streams_of_responses_of_agents(fleet: Fleet) -> None:
    with of_openai(fleet.url) as client:
        with client.responses.stream(
            model=MODEL, input="hi", max_output_tokens=7, extra_body=EXACT
        ) as stream:
            events = list(stream)
        kinds = [event.type for event in events]
        assert kinds.count("response.output_text.delta") == 7
        assert kinds[0] == "response.created"
        assert events[-1].type == "response.incomplete"
        assert len(events[-1].response.output_text.split()) == 7
        with pytest.raises(openai.BadRequestError) as told:
            client.responses.create(model=MODEL, input=[{"type": "item_reference", "id": "x"}])
        assert told.value.param == "input[0].type"


def test_messages_of_agents(fleet: Fleet) -> None:
    with of_anthropic(fleet.url) as client:
        message = client.messages.create(
            model=MODEL, max_tokens=5, system="Be brief.", extra_body=EXACT,
            messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        )  # fmt: skip
        (block,) = message.content
        assert block.type == "text"
        assert (len(block.text.split()), message.stop_reason) == (5, "max_tokens")
        assert message.usage.output_tokens == 5
        counted = client.messages.count_tokens(
            model=MODEL, system="Be brief.", messages=[{"role": "user", "content": "hi"}]
        )
        assert counted.input_tokens == message.usage.input_tokens
        assert message._request_id is not None
        why = f"{fleet.url}/makespan/v1/requests/{message._request_id}"
        assert http.get(why).json()["model"] == MODEL


def test_streams_of_messages_of_agents(fleet: Fleet) -> None:
    with of_anthropic(fleet.url) as client:
        with client.messages.stream(
            model=MODEL, max_tokens=7, messages=[{"role": "user", "content": "hi"}],
            extra_body=EXACT,
        ) as stream:  # fmt: skip
            said = "".join(stream.text_stream)
            message = stream.get_final_message()
        assert (len(said.split()), message.stop_reason) == (7, "max_tokens")
        assert message.usage.output_tokens == 7
        with client.messages.stream(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hi"}],
            stop_sequences=[said.split()[3]], extra_body=EXACT,
        ) as stream:  # fmt: skip
            assert stream.get_final_message().stop_reason == "end_turn"


def test_errors_are_raised_as_their_own_classes(fleet: Fleet) -> None:
    with of_anthropic(fleet.url) as client:

        def ask(model: str = MODEL, fault: str = "") -> None:
            client.messages.create(
                model=model,
                max_tokens=9,
                messages=[{"role": "user", "content": "hi"}],
                extra_headers={"x-makespan-fault": fault} if fault else None,
            )

        with pytest.raises(anthropic.NotFoundError) as lost:
            ask(model="none")
        assert lost.value.type == "not_found_error"
        with pytest.raises(anthropic.BadRequestError, match="max_tokens") as bad:
            client.post("/v1/messages", body={"model": MODEL, "messages": []}, cast_to=object)
        assert bad.value.type == "invalid_request_error"
        with pytest.raises(anthropic.InternalServerError):
            ask(fault="status=500")
    eventually(lambda: all_up(fleet))


@pytest.mark.parametrize("words", [0, 2])
def test_streams_that_break_off_raise(words: int) -> None:
    """Before the first word another worker is asked; after it nobody is, and clients are told."""
    with EngineServer("m") as server, Gateway(server, flags=("--retries", "0")) as gateway:
        server.breaks_after = words
        with of_anthropic(gateway.url) as client, pytest.raises(anthropic.APIStatusError) as told:
            list(
                client.messages.create(
                    model="m",
                    max_tokens=9,
                    messages=[{"role": "user", "content": "hi"}],
                    stream=True,
                )
            )
        assert told.value.type == "api_error"
        with of_openai(gateway.url) as other, pytest.raises(openai.APIError) as said:
            list(other.responses.create(model="m", input="hi", stream=True))
        assert said.value.code == "worker_failed"


def test_tools_of_engines_pass_in_every_form(engines: str) -> None:
    with of_openai(engines) as client, of_anthropic(engines) as other:
        tool = {"name": "weather", "parameters": FUNCTION}
        plain = client.responses.create(model="m", input="hi")
        assert plain.output_text == SAYS
        called = client.responses.create(
            model="m",
            input="hi",
            tools=[{"type": "function", **tool}],  # type: ignore[list-item]
        )
        (call,) = called.output
        assert call.type == "function_call"
        assert (call.name, call.arguments) == ("weather", '{"city": "Rome"}')
        back = client.responses.create(
            model="m", previous_response_id=called.id,
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sun"}],
        )  # fmt: skip
        assert back.output_text == SAYS
        with client.responses.stream(
            model="m",
            input="hi",
            tools=[{"type": "function", **tool}],  # type: ignore[list-item]
        ) as stream:
            (streamed,) = stream.get_final_response().output
        assert streamed.type == "function_call"
        with other.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}],
            tools=[{"name": "weather", "input_schema": FUNCTION}],
        ) as events:  # fmt: skip
            (use,) = events.get_final_message().content
        assert use.type == "tool_use"
        assert use.input == {"city": "Rome"}
        assert client.embeddings.create(model="m", input="hi").data[0].embedding == [0.5, 1.5]
        heard = client.audio.transcriptions.create(model="m", file=("a.wav", b"RIFF" * 1000))
        assert len(heard.text) == 64
